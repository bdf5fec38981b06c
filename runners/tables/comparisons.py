"""Which comparisons within a table would mean nothing: they are refused before any work."""

from collections.abc import Sequence

from data.errors import InputError
from runners.cells.subset import OF_VICTIM
from runners.tables.published import Panel


def check_images(panels: Sequence[Panel], subset: str) -> None:
    """Raise InputError where a subset that was asked for would give compared victims different images."""
    for dataset in {panel.dataset for panel in panels}:
        victims = sorted({panel.victim for panel in panels if panel.dataset == dataset})
        if subset == OF_VICTIM and len(victims) > 1:
            raise InputError(
                f"subset: expected images that do not depend on the victim, which is one of "
                f"{', '.join(victims)}, got {subset}; take subset=two-per-class, or leave out full=true"
            )
