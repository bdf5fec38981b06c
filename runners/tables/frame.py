"""The results of a table as a frame with one row per entry. All functions are pure functions of records."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from hydra.utils import get_class
from omegaconf import DictConfig

from purifiers.learned import Learned
from runners.evaluation.component import build
from runners.evaluation.metrics import survived
from runners.evaluator import CellResult
from runners.tables import members, render
from runners.tables.figures import Figure, accuracy, comparison_row, mean, mean_share, per_image, under_all
from runners.tables.paper_results import PaperSetting, departs, departures, figure_of, printed
from runners.tables.significance import marked

METRICS = {  # the column of the records that holds each metric, or None if the records do not hold it
    "accuracy": "correct",
    "mean of draws": "correct_mean",
    "majority of draws": "correct_majority",
    "worst of draws": "correct_all",
    "ssim": "ssim",
    "seconds/image": "purify_seconds",
    "attack seconds/image": "craft_seconds",
    "attack passes/image": "forward_passes",
    "gpu-memory": None,
    "parameters": None,
}
RESULTS = ("accuracy", "ssim")  # only these are compared with the paper's; its times come from other machines
ADDED = "this row was added to the table"
COLUMNS = ("row", "defense", "column", "eps_255", "queries", "attack", "knowledge", "knowledge_kind",
           "metric", "value", "low", "high", "n", "flags", "paper", "delta", "verdict", "best", "p_best",
           "status", "note", "command", "record")  # fmt: skip


def frame_of(
    table: DictConfig,
    placed: list[tuple[DictConfig, DictConfig, CellResult]],
    *,
    panel: PaperSetting | None,
    comparable: bool,
) -> pd.DataFrame:
    """Return a frame with one row per entry.

    A row holds our result, the paper's, and a verdict if they are comparable.
    """
    paper, rules = printed(table, panel), departures()
    rows: list[dict[str, Any]] = []
    right: dict[int, pd.Series] = {}  # answers of the purifiers, by place in rows
    attacks: dict[int, str] = {}  # the attack that each entry faced; only entries with the same are compared
    for row in {id(row): row for row, *_ in placed}.values():
        cells = [(column, result) for r, column, result in placed if r is row]
        departure = departs(cells[0][1].cell.configs["purifier"], table.get("paper"), rules)
        values = [_values(metric_of(table, column), result.records, column) for column, result in cells]
        parts = dict(enumerate(values, len(rows)))
        faced = [_faced(place, column, result) for place, (column, result) in enumerate(cells)]
        attacks |= dict(enumerate([*faced, *[f"{end} {faced}" for end in ("average", "worst")]], len(rows)))
        main = [v for v, (c, _) in zip(values, cells, strict=True) if metric_of(table, c) == table.metric]
        for (column, result), part in zip(cells, values, strict=True):
            metric = metric_of(table, column)
            figure = _size(result) if metric == "parameters" else _figure(metric, part)
            reasons = "; ".join(filter(None, [departure, _lucky(column, result)]))
            entry = _entry(table, row, column, figure, paper, comparable, reasons)
            rows.append(entry | _outcome(result, has_value=figure is not None or METRICS[metric] is not None))
            if result.records is not None and result.cell.knowledge_kind == "everything":
                rows[-1] |= _of_adaptive(rows[-1], cells, result)
        missing = [entry for entry in rows[-len(cells) :] if entry["status"] in ("failed", "skipped")]
        empty = dict.fromkeys(("knowledge", "knowledge_kind", "command", "flags", "record"), "")
        whole = all(part is not None for part in main)
        status = {"status": "done" if whole else "absent", **empty}
        if table.get("average"):
            figure = _average(table.metric, main) if whole else None
            kinds = sorted({result.cell.knowledge_kind for _, result in cells})
            mixed = f"the average mixes attackers of different knowledge: {', '.join(kinds)}"
            entry = _entry(table, row, table.average, figure, paper, comparable, departure)
            rows.append(entry | status | ({"note": mixed} if len(kinds) > 1 else {}))
        if table.get("worst"):
            parts[len(rows)] = under_all(main) if whole else None
            figure = _figure(table.metric, parts[len(rows)])
            entry = _entry(table, row, table.worst, figure, paper, comparable, departure)
            # A flag of any cell also makes the worst result doubtful.
            flag_names = {flag.name: None for _, result in cells for flag in result.flags}
            note = render.lacking(missing, len(cells))
            rows.append(entry | status | {"note": note, "flags": " ".join(flag_names)})
        if not cells[0][1].cell.undefended:
            right |= {
                place: part
                for place, part in parts.items()
                if part is not None and rows[place]["metric"] == "accuracy"
            }
    return marked(pd.DataFrame(rows), right, attacks)[list(COLUMNS)]


def _faced(place: int, column: DictConfig, result: CellResult) -> str:
    """Return text that identifies the attack that an entry faced.

    It contains the column, because a row may have an attacker of its own. What adapts the attacker to the
    purifier, such as BPDA's substitute, is left out, because it does not make the attack a different one.
    """
    cell = result.cell
    return str(
        (place, column.label, cell.configs["attack"], cell.knowledge_kind, list(cell.surrogates.values()))
    )


def _of_adaptive(
    entry: dict[str, Any], row: Sequence[tuple[DictConfig, CellResult]], result: CellResult
) -> dict[str, str]:
    """Return the column and the note of an entry under the adaptive attack.

    The column names the budget if it was reduced. The note says what the members did and what a complete
    evaluation also needs.
    """
    configs, kinds = result.cell.configs, [other.cell.knowledge_kind for _, other in row]
    reduced = build(configs["attack"]).reduced
    notes = [entry["note"], members.told_by(result.records)]
    notes.append(members.missing(build(configs["purifier"]), kinds, result.records))
    column = f"{entry['column']} ({reduced})" if reduced else entry["column"]
    return {"column": column, "note": "; ".join(filter(None, notes))}


def _lucky(column: DictConfig, result: CellResult) -> str:
    """Return why a result that is read from an attack's path cannot be compared if the purifier is random.

    The text is empty for other results.
    """
    random = get_class(result.cell.configs["purifier"]["_target_"]).stochastic
    if column.get("queries") is None or not random:
        return ""
    return "one lucky draw on the attack's path counts as a success, while the paper scores a separate draw"


def metric_of(table: DictConfig, column: DictConfig) -> str:
    return column.get("metric", table.metric)


def _values(metric: str, records: pd.DataFrame | None, column: DictConfig) -> pd.Series | None:
    """Return one value for each image, indexed by the image's id."""
    if records is None or METRICS[metric] is None:
        return None
    if column.get("queries") is not None:  # read from the path of an attack that seeks the nearest example
        values = survived(records.path, eps=column.eps / 255, queries=column.queries)
    else:
        values = records[METRICS[metric]]
    return values.set_axis(records.id)


def _size(result: CellResult) -> Figure | None:
    """Return how many millions of parameters a learned purifier's network has.

    The result is None if the purifier is not learned or has no records.
    """
    if result.records is None:
        return None
    purifier = build(result.cell.configs["purifier"])
    inside = getattr(purifier, "purifier", purifier)
    if not isinstance(inside, Learned):
        return None
    millions = sum(parameter.numel() for parameter in inside.network.parameters()) / 1e6
    return Figure(millions, millions, millions, len(result.records))


def _figure(metric: str, values: pd.Series | None) -> Figure | None:
    if values is None:
        return None
    if values.dtype == bool:
        return accuracy(values)
    return mean_share(values) if metric == "mean of draws" else mean(values)


def _average(metric: str, parts: list[pd.Series]) -> Figure:
    return mean_share(per_image(parts)) if metric == "accuracy" else mean(per_image(parts))


def _entry(
    table: DictConfig,
    row: DictConfig,
    column: DictConfig,
    figure: Figure | None,
    paper: pd.DataFrame,
    comparable: bool,
    differs: str,
) -> dict[str, Any]:
    metric = metric_of(table, column)
    paper_rows = figure_of(paper, row, column, table.metric)
    theirs = float(paper_rows.value.iloc[0]) if len(paper_rows) else None
    remarks = {"ours": differs, "the paper": paper_rows.note.iloc[0]} if len(paper_rows) else {}
    notes = [ADDED] if row.get("added") else [f"{whose}: {note}" for whose, note in remarks.items() if note]
    verdict = ""
    bounded = figure is not None and not math.isnan(figure.low)
    if bounded and theirs is not None and comparable and not differs and metric in RESULTS:
        verdict = "matches" if figure.low <= theirs <= figure.high else "differs"
    return {
        "row": row.label,
        "defense": row.get("defense"),
        "column": column.label,
        "eps_255": column.get("eps", row.get("eps")),
        "queries": column.get("queries"),
        "attack": column.get("attack", row.get("attack")),
        "metric": metric,
        **comparison_row(figure, theirs),
        "verdict": verdict,
        "note": "; ".join(notes),
    }


def _outcome(result: CellResult, *, has_value: bool) -> dict[str, Any]:
    outcome = {"knowledge": result.cell.names["knowledge"], "knowledge_kind": result.cell.knowledge_kind}
    outcome["command"] = result.cell.command
    outcome["flags"] = " ".join(flag.name for flag in result.flags)
    outcome["record"] = result.provenance["key"][:8] if result.provenance else ""  # for runners.replay
    if result.failed is not None:
        return outcome | {"status": "failed", "note": result.failed}
    if result.skipped is not None:
        return outcome | {"status": "skipped", "note": result.skipped}
    return outcome | {"status": "done" if has_value else "absent"}
