"""Raises the flag `attack_weak` if the undefended victim keeps a higher accuracy than the paper prints."""

from collections.abc import Iterable

import pandas as pd
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from runners.evaluator import CellResult
from runners.tables.figures import accuracy
from runners.tables.paper_results import figure_of
from runners.validity.evidence import Flag


def flag_weak(placed: Iterable[tuple[DictConfig, DictConfig, CellResult]], paper: pd.DataFrame) -> None:
    """Raise attack_weak on the blind cells of each attack that is weaker than the paper's.

    An attack is weaker if the undefended victim keeps more accuracy than the paper prints, by more than our
    interval explains.

    Args:
        placed: rows, columns and cells of a table on the paper's own data set and victim; on others there is
            nothing to compare with.
        paper: the paper's printed results.
    """
    for row, column, result in placed:
        needs_classifier = get_class(result.cell.configs["attack"]["_target_"]).needs is not None
        if result.records is None or not needs_classifier or result.cell.knowledge_kind != "blind":
            continue
        column = OmegaConf.merge(column, {"metric": "accuracy"})
        theirs = figure_of(paper, OmegaConf.merge(row, {"defense": "none", "params": []}), column, "accuracy")
        if len(theirs) and (seen := above(result.records, float(theirs.value.iloc[0]))):
            result.flags = [flag for flag in result.flags if flag.name != "attack_weak"]
            result.flags.append(Flag("attack_weak", seen))
            result.provenance["flags"] = {flag.name: flag.seen for flag in result.flags}


def above(records: pd.DataFrame, printed: float) -> str | None:
    """Return what is observed if the undefended victim is above a printed accuracy (in %), else None."""
    ours = accuracy(records.adversarial_label == records.label)
    if ours.low <= printed:
        return None
    return (
        f"the undefended victim keeps {ours.value:.1f} % [{ours.low:.1f}, {ours.high:.1f}], "
        f"the paper's keeps {printed:g} %"
    )
