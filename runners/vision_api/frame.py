"""Our results and the paper's for purifiers in front of vision APIs, one row per entry. Pure functions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from runners.tables.figures import comparison_row
from runners.vision_api.columns import Column, Entry
from runners.vision_api.restored import KINDS, METRICS, figure

SHOWN = {"clean": "standard", "adversarial": "robust"}
ATTACKS = {"clean": "clean", "adversarial": "transfer-ensemble-pgd"}  # in the paper's figures


def frame_of(columns: Sequence[Column], paper: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each API, purifier and metric, on standard and on robust images.

    `paper` holds the paper's results of the table.
    """
    rows = []
    for column in columns:
        for entry in column.entries:
            for metric in METRICS:
                for kind in KINDS:
                    rows.append(_row(column, entry, metric, kind, paper))
    return pd.DataFrame(rows)


def _row(column: Column, entry: Entry, metric: str, kind: str, paper: pd.DataFrame) -> dict[str, Any]:
    printed = paper[(paper.victim == column.paper) & (paper.defense == entry.row.defense)]
    printed = printed[(printed.metric == metric) & (printed.attack == ATTACKS[kind])]
    theirs = float(printed.value.iloc[0]) if len(printed) else None
    ours = figure(entry.records, metric, kind) if entry.records is not None else None
    return {
        "api": column.name,
        "row": entry.row.label,
        "defense": entry.row.defense,
        "iterations": entry.iterations,
        "metric": metric,
        "images": SHOWN[kind],
        **comparison_row(ours, theirs),
        "status": entry.status,
        "note": entry.skipped or entry.failed or "",
    }


def chosen_of(columns: Sequence[Column], paper: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each number of iterations that was tried, with the choice (supplement, Table 5)."""
    rows = []
    for column in columns:
        for entry in column.entries:
            paper_rows = paper[(paper.victim == column.paper) & (paper.defense == entry.row.defense)]
            printed = paper_rows.params.iloc[0].removeprefix("iterations=") if len(paper_rows) else None
            for iterations, result in entry.tried.items():
                taken = iterations == entry.iterations
                rows.append(
                    {
                        "api": column.name,
                        "row": entry.row.label,
                        "iterations": iterations,
                        "chosen": taken,
                        "value": result.value,
                        "low": result.low,
                        "high": result.high,
                        "n": result.n,
                        "paper": float(paper_rows.value.iloc[0]) if len(paper_rows) and taken else None,
                        "paper_iterations": int(printed) if printed and taken else None,
                    }
                )
    return pd.DataFrame(rows)


def legend(columns: Sequence[Column], note: str, setting: str) -> list[str]:
    """Return the sentences that explain the results."""
    lines = [f"**{note}**" if note else "", setting]
    for column in columns:
        if column.skipped or column.failed:
            state = "skipped" if column.skipped else "failed"
            lines.append(f"{column.name}: {state}: {column.skipped or column.failed}.")
            continue
        lines += _of_api(column)
    lines += [
        "Prediction accuracy is the share of the clean image's labels that the purified image also has. "
        "Top-1: "
        "both have the same first label. Top-5: the clean image's first label is among those of the purified "
        "image. A label that the service does not name counts as missing.",
        "The 95 % intervals are Wilson's, over the pairs; those of prediction accuracy are Agresti and "
        "Coull's.",
    ]
    return [line for line in lines if line]


def _of_api(column: Column) -> list[str]:
    asker, found, labels = column.asker, column.found, column.asker.service.labels
    pairs = len(found.pairs)
    lines = [
        f"{column.name} ({asker.service.address}): {pairs} pairs among {found.looked_at} candidates, "
        f"{found.shared} with a label in common, {found.short} with fewer than {labels} labels on the clean "
        f"or the adversarial image; {asker.calls.spent} calls in this run, {asker.kept} answers from the "
        f"store; answered {_span(asker.dates)}{_models(asker.models)}."
    ]
    done = [entry.records for entry in column.entries if entry.records is not None]
    fewer = sum(int(part[f"fewer_{kind}"].sum()) for part in done for kind in KINDS)
    if fewer:
        lines.append(
            f"{column.name}: {fewer} of {sum(2 * len(part) for part in done)} answers about purified images "
            f"have fewer than {labels} labels; the others count as missing."
        )
    chosen = [f"{e.row.label} {e.iterations}" for e in column.entries if e.tried]
    if chosen:
        lines.append(f"{column.name}: iterations chosen on the validation pairs: {', '.join(chosen)}.")
    for entry in column.entries:
        if entry.status != "done":
            lines.append(
                f"{column.name}, {entry.row.label}: {entry.status}: {entry.skipped or entry.failed}."
            )
    return lines


def _span(dates: set[str]) -> str:
    days = sorted(dates)
    return "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _models(models: set[str]) -> str:
    named = sorted(models - {""})
    if not named:
        return ""
    return f" by model {named[0]}" if len(named) == 1 else f" by SEVERAL MODELS, {', '.join(named)}"
