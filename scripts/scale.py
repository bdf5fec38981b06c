"""What the papers' tables take at full size, on paper: python -m scripts.scale [chunk=256]

Counts distinct work in the cells of every table at the paper's settings, and prices it with the measured
seconds of every purifier (results/bench/purifiers-*.csv, one process of a CPU). One measured at 32x32 is
taken to cost 49 times as much at 224x224. Writes results/bench/scale.csv, a row a paper.
"""

import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir

from data.errors import InputError
from runners import app
from runners.cells.components import identity
from runners.store.store import key_of
from runners.tables.layout import Composer, on
from runners.tables.published import Panel, panels_of
from scripts.tables import names

BENCH = Path("results/bench")
SIDES = {"imagenet": 224, "neurips2017": 299, "flower17": 224}
HOURS = 4  # of one job


def costs() -> dict[str, tuple[float, int]]:
    """Seconds an image of one process, and the side that they were measured at, by purifier."""
    measured = pd.concat(pd.read_csv(path) for path in BENCH.glob("purifiers-*-cpu-*.csv"))
    last = measured.groupby("purifier").last()
    return {row.Index: (row.seconds, row.size) for row in last.itertuples()}


def main() -> None:
    """Count, price, write, print."""

    chunk = int(next((word.partition("=")[2] for word in sys.argv[1:] if word.startswith("chunk=")), 256))
    known, rows = costs(), []
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        work: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for name in names():
            paper = name.partition("/")[0]
            for panel in panels_of(compose("table", [f"table={name}"]).table):
                try:
                    _count(work[paper], name, panel, chunk, known)
                except (InputError, FileNotFoundError) as error:
                    sys.stdout.write(f"left out: {name}, {panel.dataset}, {panel.victim}: {error}\n")
    for paper, of in sorted(work.items()):
        core_hours = sum(of["seconds"].values()) / 3600
        rows.append(
            {
                "paper": paper,
                "cells": len(of["cells"]),
                "images x attacks": int(sum(of["crafted"].values())),
                "images purified": int(sum(of["purified"].values())),
                "core-hours to purify": round(core_hours),
                "jobs of 16 cores, 4 h": -(-core_hours // (16 * HOURS)),
                "store, GB": round(sum(of["bytes"].values()) / 2**30, 1),
                f"files at chunk={chunk}": int(sum(of["files"].values())),
            }
        )
    frame = pd.DataFrame(rows)
    total = frame.drop(columns="paper").sum()
    frame = pd.concat([frame, pd.DataFrame([{"paper": "all", **total}])])
    frame.to_csv(BENCH / "scale.csv", index=False)
    sys.stdout.write(f"{frame.to_string(index=False)}\n")


def _count(
    work: dict[str, dict[str, float]],
    name: str,
    panel: Panel,
    chunk: int,
    known: dict[str, tuple[float, int]],
) -> None:
    words = [f"table={name}", f"dataset={panel.dataset}", f"victim={panel.victim}", f"subset={panel.subset}"]
    config = compose("table", [*words, f"n={panel.n}"], return_hydra_config=True)
    table, composer = config.table, Composer(config, config.hydra.runtime.choices, words)
    side = SIDES.get(panel.dataset, 32)
    image, chunks = 3 * side * side * 4, -(-panel.n // chunk)
    for row in on(table.rows, panel.dataset, panel.victim):
        for column in on(table.columns, panel.dataset, panel.victim):
            cell = composer.cell([*table.get("cell", []), *row.get("cell", []), *column.get("cell", [])])
            whole = {part: identity(cell.configs[part]) for part in cell.configs} | {"n": panel.n}
            blind = cell.names["knowledge"] in ("blind", "transfer") or cell.names["attack"] == "clean"
            crafted = key_of({k: v for k, v in whole.items() if not (blind and k == "purifier")})
            purified = key_of(whole)
            config_of = cell.configs["purifier"]
            run = key_of({"of": crafted, "run": identity(config_of.get("trace", config_of))})
            seconds, measured = known.get(cell.names["purifier"], (0.0, side))
            work["cells"][purified] = 1
            work["crafted"][crafted] = panel.n
            work["purified"][purified] = panel.n
            work["seconds"][run] = max(
                work["seconds"].get(run, 0.0), panel.n * seconds * (side / measured) ** 2
            )
            work["bytes"][crafted], work["bytes"][purified] = panel.n * image, 2 * panel.n * image
            work["files"][crafted], work["files"][purified] = chunks, 2 * chunks


if __name__ == "__main__":
    main()
