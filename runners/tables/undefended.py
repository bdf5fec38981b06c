"""Whether the bare victim keeps more than the paper's does: `attack_weak`, as only a table can tell."""

from collections.abc import Iterable

import pandas as pd
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from runners.evaluation.metrics import wilson
from runners.evaluator import CellResult
from runners.tables.paper_results import figure_of
from runners.validity.evidence import Flag


def flag_weak(placed: Iterable[tuple[DictConfig, DictConfig, CellResult]], paper: pd.DataFrame) -> None:
    """Raise attack_weak on the blind cells of each attack under which the bare victim keeps more than the
    paper prints, by more than our interval explains.

    Args:
        placed: rows, columns and cells of a table, on the paper's own data set and victim: on others there is
            nothing to compare with.
        paper: its printed figures.
    """
    for row, column, result in placed:
        asks = get_class(result.cell.configs["attack"]["_target_"]).needs is not None
        if result.records is None or not asks or result.cell.knowledge_kind != "blind":
            continue
        column = OmegaConf.merge(column, {"metric": "accuracy"})
        found = figure_of(paper, OmegaConf.merge(row, {"defense": "none", "params": []}), column, "accuracy")
        if len(found) and (seen := above(result.records, float(found.value.iloc[0]))):
            result.flags = [flag for flag in result.flags if flag.name != "attack_weak"]
            result.flags.append(Flag("attack_weak", seen))
            result.provenance["flags"] = {flag.name: flag.seen for flag in result.flags}


def above(records: pd.DataFrame, printed: float) -> str | None:
    """What is seen where the bare victim's share of right answers is above a printed one, in %."""
    right = records.adversarial_label == records.label
    low, high = (100 * share for share in wilson(int(right.sum()), len(right)))
    if low <= printed:
        return None
    return (
        f"the bare victim keeps {100 * right.mean():.1f} % [{low:.1f}, {high:.1f}], the paper's {printed:g} %"
    )
