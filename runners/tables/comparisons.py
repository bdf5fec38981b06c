"""Which comparisons within a table would mean nothing: they are refused before any work."""

from collections.abc import Sequence

from data.errors import InputError
from runners.cells.cell import Cell
from runners.cells.identity import identity
from runners.cells.subset import OF_VICTIM
from runners.tables.published import Panel


def check_substitutes(cells: Sequence[Cell]) -> None:
    """Raise InputError where all classifiers that the transfer attacks know are the victim itself.

    Where one of several is the victim, as in OAG's Table II, its column is the paper's white-box attack.
    """
    known = [(cell, other) for cell in cells for other in cell.others]
    if known and all(identity(other) == identity(cell.configs["victim"]) for cell, other in known):
        victim = known[0][0].names["victim"]
        raise InputError(
            f"knowledge.victims: expected another classifier than the victim, got {victim} for both, so that "
            "nothing would be transferred; name another with victim= or victim@knowledge.victims.first="
        )


def check_images(panels: Sequence[Panel], subset: str) -> None:
    """Raise InputError where a subset that was asked for would give compared victims different images."""
    for dataset in {panel.dataset for panel in panels}:
        victims = sorted({panel.victim for panel in panels if panel.dataset == dataset})
        if subset == OF_VICTIM and len(victims) > 1:
            raise InputError(
                f"subset: expected images that do not depend on the victim, which is one of "
                f"{', '.join(victims)}, got {subset}; take subset=two-per-class, or leave out full=true"
            )
