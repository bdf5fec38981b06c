"""Finished tables of made-up records whose answers are known."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from runners.evaluation.schema import COLUMNS
from runners.tables import render, saved
from runners.tables.frame import COLUMNS as ENTRY
from runners.tables.order import agreement

FILLING = {"bool": False, "boolean": False, "int64": 0, "float64": 0.5, "str": "", "object": None}


def right(count: int, of: int, start: int = 0) -> np.ndarray:
    """Return whether each of `of` images is right: `count` in a row are, cyclically from `start` on."""
    return np.isin(np.arange(of), (start + np.arange(count)) % of)


def made(
    folder: Path,
    cells: Mapping[tuple[str, str, float | None], np.ndarray],
    *,
    stem: str = "ddip-table1-cifar10-resnet50",
    setting: str = "dataset=cifar10 victim=resnet50",
    paper: Mapping[tuple[str, str, float | None], float] | None = None,
    metric: str = "accuracy",
    average: bool = False,
    entry: Mapping[str, str] | None = None,
) -> Path:
    """Write a table with all its files, and return the path of its CSV file.

    Args:
        cells: right or wrong for each image, or its SSIM, by row, column and eps.
        paper: the paper's figures of the same cells.
        average: whether each row ends in an average of its cells.
        entry: further columns of the frame, with the same value for every cell.
    """
    entries, records = [], []
    for (row, column, eps), values in cells.items():
        command = f"python -m runners.evaluate {setting} row={len(entries)}"
        rows = pd.DataFrame(
            {item.name: pd.Series([FILLING[item.dtype]] * len(values), dtype=item.dtype) for item in COLUMNS}
        )
        rows["id"], rows["command"] = [f"image/{i}" for i in range(len(values))], command
        rows["correct" if metric == "accuracy" else "ssim"] = values
        records.append(rows)
        printed = (paper or {}).get((row, column, eps))
        cell_entry = _entry(row, column, eps, values, metric, printed, command)
        entries.append(cell_entry | dict(entry or {}))
    if average:
        for row in dict.fromkeys(row for row, *_ in cells):
            parts = [values for (name, *_), values in cells.items() if name == row]
            cell_entry = _entry(row, "Average", None, np.mean(parts, axis=0), metric, None, "")
            entries.append(cell_entry | {"attack": "average", "knowledge_kind": ""})
    frame, whole = pd.DataFrame(entries, columns=list(ENTRY)), pd.concat(records, ignore_index=True)
    heading = render.Heading("A table", "", "made up", agreement(frame, whole))
    folder.mkdir(parents=True, exist_ok=True)
    saved.write(frame, heading, folder / stem, whole)
    return folder / f"{stem}.csv"


def _entry(
    row: str,
    column: str,
    eps: float | None,
    values: np.ndarray,
    metric: str,
    paper: float | None,
    command: str,
) -> dict:
    value = (100 if metric == "accuracy" else 1) * float(values.mean())
    return {
        "row": row, "column": column, "eps_255": np.nan if eps is None else eps, "queries": np.nan,
        "attack": column.lower(), "knowledge": "blind", "knowledge_kind": "blind", "metric": metric,
        "value": value, "low": 0.0, "high": 100.0, "n": len(values), "flags": "",
        "paper": np.nan if paper is None else paper, "delta": np.nan, "verdict": "", "best": False,
        "p_best": np.nan, "status": "done", "note": "", "command": command, "record": "",
    }  # fmt: skip
