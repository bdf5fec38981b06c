"""The figures of purifiers in front of vision APIs, one row an entry, with the paper's. Pure functions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from runners.tables.figures import comparison_row
from runners.vision_api.columns import Column, Entry
from runners.vision_api.restored import KINDS, METRICS, figure

SHOWN = {"clean": "standard", "adversarial": "robust"}
ATTACKS = {"clean": "clean", "adversarial": "transfer-ensemble-pgd"}  # in the paper's figures


def frame_of(columns: Sequence[Column], paper: pd.DataFrame) -> pd.DataFrame:
    """Every API, purifier, metric, standard and robust; `paper` holds the paper's figures of the table."""
    rows = []
    for column in columns:
        for entry in column.entries:
            for metric in METRICS:
                for kind in KINDS:
                    rows.append(_row(column, entry, metric, kind, paper))
    return pd.DataFrame(rows)


def _row(column: Column, entry: Entry, metric: str, kind: str, paper: pd.DataFrame) -> dict[str, Any]:
    mine = paper[(paper.victim == column.paper) & (paper.defense == entry.row.defense)]
    mine = mine[(mine.metric == metric) & (mine.attack == ATTACKS[kind])]
    theirs = float(mine.value.iloc[0]) if len(mine) else None
    made = figure(entry.records, metric, kind) if entry.records is not None else None
    return {
        "api": column.name,
        "row": entry.row.label,
        "defense": entry.row.defense,
        "iterations": entry.iterations,
        "metric": metric,
        "images": SHOWN[kind],
        **comparison_row(made, theirs),
        "status": entry.status,
        "note": entry.skipped or entry.failed or "",
    }


def chosen_of(columns: Sequence[Column], paper: pd.DataFrame) -> pd.DataFrame:
    """The choice of iterations: every one that was tried, and which was taken (supplement, Table 5)."""
    rows = []
    for column in columns:
        for entry in column.entries:
            mine = paper[(paper.victim == column.paper) & (paper.defense == entry.row.defense)]
            printed = mine.params.iloc[0].removeprefix("iterations=") if len(mine) else None
            for iterations, made in entry.tried.items():
                taken = iterations == entry.iterations
                rows.append(
                    {
                        "api": column.name,
                        "row": entry.row.label,
                        "iterations": iterations,
                        "chosen": taken,
                        "value": made.value,
                        "low": made.low,
                        "high": made.high,
                        "n": made.n,
                        "paper": float(mine.value.iloc[0]) if len(mine) and taken else None,
                        "paper_iterations": int(printed) if printed and taken else None,
                    }
                )
    return pd.DataFrame(rows)


def legend(columns: Sequence[Column], note: str, setting: str) -> list[str]:
    """Every sentence that the figures need."""
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
