"""The papers' printed results, read from results/papers/<paper>.csv, and the settings that they belong to.

The config of a paper's table names the results by `paper` and `printed`, and their settings by `panels`; a
table that no paper prints has none of the three. A result is found by the `defense` of its row, by the
`attack`, `eps`, `norm` and `metric` of its column, and by the `params` of both, which name the parameters of
a defense or an attack.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from data.errors import InputError
from runners.evaluation.component import Config, to_plain_dict
from runners.evaluation.subset import OF_VICTIM
from runners.untrusted import targets

PAPERS = Path("results/papers")
METRICS = ("accuracy", "ssim", "seconds/image", "gpu-memory", "parameters",
           "prediction-accuracy", "top1", "top5")  # fmt: skip
COLUMNS = ("paper", "table", "dataset", "subset", "victim", "defense", "attack", "norm", "eps_255", "params",
           "metric", "value", "unit", "note")  # fmt: skip


@dataclass(frozen=True)
class Departure:
    """One way in which a purifier differs from the one whose results the papers print.

    The rule is applied to the composed config of a purifier, wherever in it the component is.

    Args:
        component: the class, as `_target_` names it.
        reason: how the purifier differs, in words.
        where: values that the component's parameters must have, by dotted names; a list gives alternatives.
        unless: values with which the component is the papers' own if it has all of them.
        paper: the paper whose tables the rule applies to; None for all papers.
    """

    component: str
    reason: str
    where: Mapping[str, Any] = field(default_factory=dict)
    unless: Mapping[str, Any] = field(default_factory=dict)
    paper: str | None = None

    def concerns(self, part: Config) -> bool:
        """Return whether this rule applies to this component of a purifier."""
        return (
            part.get("_target_") == self.component
            and _has(part, self.where)
            and not (self.unless and _has(part, self.unless))
        )


def departures(folder: Path = PAPERS) -> list[Departure]:
    """Return the rules by which purifiers differ from those that the papers ran."""
    rules = to_plain_dict(OmegaConf.create({"rules": OmegaConf.load(folder / "departures.yaml")}))["rules"]
    return [Departure(**rule) for rule in rules]


def departs(purifier: Config, paper: str, known: Sequence[Departure]) -> str:
    """Return how a composed purifier differs from the paper's, or empty text if it does not.

    Purifiers within it are included.
    """
    parts = [part for _, part in targets(purifier)]
    rules = [rule for rule in known if rule.paper in (None, paper)]
    return "; ".join(rule.reason for rule in rules if any(rule.concerns(part) for part in parts))


def _has(part: Config, wanted: Mapping[str, Any]) -> bool:
    for name, value in wanted.items():
        actual: Any = part
        for key in name.split("."):
            actual = actual.get(key) if isinstance(actual, dict) else None
        if actual not in (value if isinstance(value, list) else [value]):
            return False
    return True


@dataclass(frozen=True)
class PaperSetting:
    """One of the settings that a paper prints a table for.

    It has `n` images of a data set, picked by the rule `subset`. If the paper does not say how many images it
    took, `n_unsaid` is true and n is our guess. `stand_ins` are victims of the same architecture with other
    weights; their results are shown beside the paper's without a verdict.
    """

    dataset: str
    victim: str
    n: int
    subset: str = "random"
    n_unsaid: bool = False
    stand_ins: Sequence[str] = ()

    @property
    def images(self) -> str:
        """The number of images in words."""
        return f"unsaid, {self.n:,} taken" if self.n_unsaid else f"{self.n:,}"


def figures_of(paper: str, folder: Path = PAPERS) -> pd.DataFrame:
    """Return all printed results of a paper; eps is in units of 1/255, and NaN if there is none.

    Raises InputError, with the file and the line, for a row that is malformed.
    """
    path = folder / f"{paper}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.csv"))) or "none"
        raise InputError(f"published figures {path} do not exist; there are {known} (run from the root)")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = tuple(next(reader, ()))
        if header != COLUMNS:
            raise InputError(f"{path}:1: expected the columns {','.join(COLUMNS)}; got {','.join(header)}")
        rows = [_row(path, reader.line_num, row, paper) for row in reader]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"eps_255": float, "value": float})


def _row(path: Path, line: int, cells: list[str], paper: str) -> dict[str, Any]:
    def bad(expected: str, got: object) -> InputError:
        return InputError(f"{path}:{line}: expected {expected}, got {got!r}")

    if len(cells) != len(COLUMNS):
        raise bad(f"{len(COLUMNS)} values", len(cells))
    row: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    if row["paper"] != paper:
        raise bad(f"paper {paper}", row["paper"])
    if row["metric"] not in METRICS:
        raise bad(f"a metric of {', '.join(METRICS)}", row["metric"])
    for name, empty in (("value", False), ("eps_255", True)):
        if empty and not row[name]:
            row[name] = math.nan
            continue
        try:
            row[name] = float(row[name])
        except ValueError:
            raise bad(f"a number as {name}", row[name]) from None
        if not math.isfinite(row[name]):
            raise bad(f"a finite number as {name}", row[name])
    if row["metric"] == "accuracy" and not 0 <= row["value"] <= 100:
        raise bad("an accuracy of 0 to 100 %", row["value"])
    return row


def panels_of(table: DictConfig) -> list[PaperSetting]:
    """Return the settings that the paper prints the table for.

    The list is empty for a table that no paper prints. Raises InputError if the table's config gives them
    incompletely.
    """
    given = [name for name in ("paper", "printed", "panels") if table.get(name)]
    if not given:
        return []
    if len(given) < 3:
        raise InputError(
            f"table: expected paper, printed and panels, or none of them; got {' and '.join(given)} only"
        )
    try:
        return [PaperSetting(**panel) for panel in table.panels]
    except TypeError as error:
        raise InputError(
            "table.panels: expected dataset, victim, n (and subset, n_unsaid, stand_ins); "
            f"{str(error).split(') ')[-1]}"
        ) from None


def panel_for(table: DictConfig, dataset: str, victim: str) -> PaperSetting | None:
    """Return the paper's setting that is nearest to this data set and victim.

    The result is None for a table that no paper prints. The nearest is one with the same data set and victim,
    else one with the same data set and a victim for which this one stands in, else one with the same data
    set, else the first.
    """
    panels = panels_of(table)
    same = [p for p in panels if p.dataset == dataset]
    own = [p for p in same if p.victim == victim]
    alike = [p for p in same if victim in p.stand_ins]
    return next(iter([*own, *alike, *same, *panels]), None)


def printed(table: DictConfig, panel: PaperSetting | None) -> pd.DataFrame:
    """Return the paper's results of this table in this setting; the frame is empty if there are none."""
    if panel is None or not table.get("paper"):
        return pd.DataFrame(columns=COLUMNS).astype({"eps_255": float, "value": float})
    figures = figures_of(table.paper)
    names = [table.printed] if isinstance(table.printed, str) else list(table.printed)
    wanted = figures.table.isin(names)
    for name in ("dataset", "subset", "victim"):
        wanted &= figures[name] == getattr(panel, name)
    return figures[wanted]


def figure_of(figures: pd.DataFrame, row: DictConfig, column: DictConfig, metric: str) -> pd.DataFrame:
    """Return the printed result that a table's entry stands for: one row, or none."""
    attack = column.get("attack", row.get("attack"))
    rows = figures[
        (figures.defense == row.get("defense"))
        & (figures.attack == attack)
        & (figures.metric == column.get("metric", metric))
    ]
    eps, norm = column.get("eps", row.get("eps")), column.get("norm")
    if eps is not None:
        rows = rows[rows.eps_255.isna() | ((rows.eps_255 - eps).abs() < 1e-9)]
    if norm is not None:
        rows = rows[rows.norm == norm]
    wanted = {*row.get("params", []), *column.get("params", [])}
    if column.get("queries") is not None:
        wanted.add(f"queries={column.queries}")
    return rows[[wanted <= set(params.split(";")) for params in rows.params]]


def check_images(panels: Sequence[PaperSetting], subset: str) -> None:
    """Raise InputError if the chosen subset would give victims that are compared different images."""
    for dataset in {panel.dataset for panel in panels}:
        victims = sorted({panel.victim for panel in panels if panel.dataset == dataset})
        if subset == OF_VICTIM and len(victims) > 1:
            raise InputError(
                f"subset: expected images that do not depend on the victim, which is one of "
                f"{', '.join(victims)}, got {subset}; take subset=two-per-class, or leave out full=true"
            )
