"""Measures the time and the size of a table's page: python -m scripts.bench_report n=1000

The cells are those of six rows of DDIP's Table 1. Records and purified images are made up from the embedded
images, so that only the report is measured. The result is written to results/bench/report.csv.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from data.digits_photos import DigitsPhotos
from runners.app import console
from runners.evaluation.cell import Cell
from runners.evaluator import CellResult
from runners.files import writable
from runners.places import CONFIGS
from runners.report.__main__ import plotted
from runners.report.page import page
from runners.store.artifact import file_of, key_of, place
from runners.tables import render, saved
from runners.tables.frame import frame_of
from runners.tables.paper_results import panels_of
from runners.tables.reading import Table

CHUNK = 250
TARGETS = {
    "attack": "attacks.from_torchattacks.PGD",
    "knowledge": "attacks.knowledge.Blind",
    "purifier": "purifiers.jpeg.JPEG",
}
NAMES = {"dataset": "digits-photos", "victim": "digits-resnet8", "attack": "", "knowledge": "blind"}


def made_up(
    folder: Path, images: np.ndarray, *, rows: int = 6, columns: int = 15, chunk: int = CHUNK
) -> Path:
    """Write a store and a table with this many rows and columns to `folder`; return the table's CSV file.

    Args:
        images: clean images (N, C, H, W) in [0, 1].
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        table = compose("table", ["table=ddip/table1"]).table
    draws, store = np.random.default_rng(0), folder / "store"
    paper = [row for row in table.rows if row.get("defense")]
    clean, placed, records = _stored(store, "clean", "", images, chunk), [], []
    noise = {}
    for i, column in enumerate(table.columns[:columns]):
        changed = images + np.sign(draws.standard_normal(images.shape, dtype=np.float32)) * i / 255
        noise[column.label, column.get("eps")] = _stored(store, "adversarial", str(i), changed, chunk)
    for row in paper[:rows]:
        for column in table.columns[:columns]:
            blurred = images + 0.04 * draws.standard_normal(images.shape, dtype=np.float32)
            name = f"{row.label}/{column.label}/{column.get('eps')}"
            keys = (
                clean,
                noise[column.label, column.get("eps")],
                _stored(store, "purified", name, blurred, chunk),
            )
            result = _result(row, column, keys, draws, chunk, len(images))
            placed.append((row, column, result))
            records.append(result.records)
    frame = frame_of(table, placed, panel=panels_of(table)[0], comparable=False)
    stem = writable(folder / "tables") / "ddip-table1"
    heading = render.Heading(table.title, "made up", "a made-up setting")
    saved.write(frame, heading, stem, pd.concat(records, ignore_index=True))
    return stem.with_suffix(".csv")


def _stored(store: Path, stage: str, name: str, images: np.ndarray, chunk: int) -> list[str]:
    """Write the images to the store in chunks, and return their keys."""
    keys = []
    for start in range(0, len(images), chunk):
        part = np.ascontiguousarray(images[start : start + chunk].clip(0, 1), dtype=np.float32)
        made_from = {"stage": stage, "of": f"{name}/{start}"}
        keys.append(key_of(made_from))
        path = place(store, stage, keys[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        content = safetensors.numpy.save({"images": part})
        path.write_bytes(file_of({"made_from": made_from}, content, pack=True))
    return keys


def _result(
    row: DictConfig,
    column: DictConfig,
    keys: tuple[list[str], list[str], list[str]],
    draws: np.random.Generator,
    chunk: int,
    n: int,
) -> CellResult:
    labels, right = draws.integers(10, size=n), draws.random(n) < draws.random()
    at = np.arange(n) // chunk
    names = {**NAMES, "attack": column.attack, "purifier": row.get("defense")}
    words = ["python -m runners.evaluate", *row.cell, *column.cell, f"n={n}"]
    records = pd.DataFrame(
        {
            "id": [f"made-up/{i}" for i in range(n)],
            "label": labels,
            "clean_label": labels,
            "clean_confidence": 0.9,
            "adversarial_label": (labels + 1) % 10,
            "adversarial_confidence": 0.8,
            "purified_label": np.where(right, labels, (labels + 1) % 10),
            "confidence": draws.random(n),
            "correct": right,
            "ssim": draws.uniform(0.7, 0.95, n),
            **{
                name: np.array(of)[at]
                for name, of in zip(("clean", "adversarial", "purified"), keys, strict=True)
            },
            "row": np.arange(n) % chunk,
            "craft_seconds": 0.01,
            "purify_seconds": draws.uniform(0.01, 1),
            "path": [[] for _ in range(n)],
            "command": " ".join(words),
        }
    )
    return CellResult(
        Cell(names, {part: {"_target_": target} for part, target in TARGETS.items()}, " ".join(words)),
        records=records,
    )


def main(n: int) -> None:
    """Time one page with n records for each cell."""
    images = DigitsPhotos(copies=4, patch=32, seed=0).load("train").subset(n, seed=0).images.numpy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csv = made_up(folder, images)
        start = time.perf_counter()
        table = Table.read(csv)
        writable(folder / "plots")
        html = page(table, plots=plotted(table, folder), traces=[], store=folder / "store", images=10)
        seconds = time.perf_counter() - start
    measured = pd.DataFrame(
        [{"cells": 90, "n": n, "seconds": round(seconds, 1), "MB": round(len(html) / 1e6, 1)}]
    )
    measured.to_csv("results/bench/report.csv", index=False)
    console.print(
        f"90 cells of {n} images: {seconds:.1f} s, {len(html) / 1e6:.1f} MB; results/bench/report.csv"
    )


if __name__ == "__main__":
    main(int(next((word[2:] for word in sys.argv[1:] if word.startswith("n=")), "1000")))
