"""Estimates the cost of the papers' tables at full size: python -m scripts.scale [chunk=256]

The distinct work in the cells of every table at the paper's settings is counted, and multiplied by the
measured seconds of every purifier (results/bench/purifiers-*.csv, one process of a CPU). A purifier that was
measured at 32x32 is assumed to cost 49 times as much at 224x224, and PixelDefend 343 times. The store keeps
what keep_purified=auto keeps at these costs, with adversarial images packed as scripts/bench_packing.py
measured. "In attacks" are the purifier's runs within attacks that know it. The results are written to
results/bench/scale.csv, with a row for each paper, and scale-tables.csv, with a row for each table. The
latter also has the cost of the table on the embedded data at its default number of images ("here").
"""

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.utils import get_class

from data.errors import InputError
from runners import app
from runners.evaluation.component import build
from runners.evaluation.identity import identity
from runners.evaluation.keeping import Keeping
from runners.store.artifact import key_of
from runners.tables.layout import Composer, on
from runners.tables.paper_results import PaperSetting, panels_of
from runners.tables.saved import EMBEDDED
from scripts.tables import names

BENCH = Path("results/bench")
LARGE = ("imagenet", "neurips2017", "flower17")  # data sets of 224 pixels; the others have 32
HOURS = 4  # length of one job
POWER = {"pixeldefend": 3}  # power of the side with which time grows, otherwise 2: it has one call per pixel

Work = dict[str, dict[str, float]]  # the cost of each artefact's name, by kind


def costs() -> dict[str, tuple[float, int]]:
    """Return the seconds per image of one process, and the side at which they were measured, by purifier."""
    measured = pd.concat(pd.read_csv(path) for path in BENCH.glob("purifiers-*-cpu-*.csv"))
    last = measured.groupby("purifier").last()
    return {row.Index: (row.seconds, row.size) for row in last.itertuples()}


def packing() -> dict[str, float]:
    """Return the share of the bytes of float32 images that the store takes, by stage, and a record's bytes.

    Purified images that are costly enough to be kept come from fitted networks, in which hardly any value
    repeats. They are therefore counted in full.
    """
    measured = pd.read_csv(BENCH / "packing.csv").set_index("stage")
    records = measured.loc["records"]
    return {
        "adversarial": measured.loc["adversarial"].ratio,
        "purified": 1.0,
        "records": records.packed / records.images,
    }


def main() -> None:
    """Estimate the costs of all tables, and write and print them."""
    chunk = int(next((word.partition("=")[2] for word in sys.argv[1:] if word.startswith("chunk=")), 256))
    prices, packed = costs(), packing()
    tables: dict[str, Work] = {}
    embedded: dict[str, Work] = {}
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        for name in names():
            tables[name], embedded[name] = defaultdict(dict), defaultdict(dict)
            table = compose("table", [f"table={name}"]).table
            _count(embedded[name], name, PaperSetting(*EMBEDDED, table.n), chunk, prices, packed)
            for panel in panels_of(table):
                try:
                    _count(tables[name], name, panel, chunk, prices, packed)
                except (InputError, FileNotFoundError) as error:
                    sys.stdout.write(f"left out: {name}, {panel.dataset}, {panel.victim}: {error}\n")
    papers: dict[str, Work] = defaultdict(lambda: defaultdict(dict))  # work that tables share counts once
    for name, work in tables.items():
        for kind, parts in work.items():
            of_paper = papers[name.partition("/")[0]][kind]
            for key, value in parts.items():
                of_paper[key] = max(value, of_paper.get(key, 0.0))
    rows = [{"paper": paper, **_row(work, chunk)} for paper, work in sorted(papers.items())]
    frame = pd.DataFrame(rows)
    total = frame.drop(columns="paper").sum()
    frame = pd.concat([frame, pd.DataFrame([{"paper": "all", **total}])])
    frame.to_csv(BENCH / "scale.csv", index=False)
    alone = [
        {"table": name, **_row(work, chunk), "core-minutes here": round(60 * sum(_hours(embedded[name])), 1)}
        for name, work in tables.items()
    ]
    pd.DataFrame(alone).to_csv(BENCH / "scale-tables.csv", index=False)
    sys.stdout.write(f"{frame.to_string(index=False)}\n")


def _hours(of: Work) -> tuple[float, float]:
    """Return the hours of one core to purify, and to purify within attacks."""
    return sum(of["seconds"].values()) / 3600, sum(of["attacked"].values()) / 3600


def _row(of: Work, chunk: int) -> dict[str, float]:
    hours, attacked = _hours(of)
    return {
        "cells": len(of["cells"]),
        "images x attacks": int(sum(of["crafted"].values())),
        "images purified": int(sum(of["purified"].values())),
        "core-hours to purify": round(hours),
        "core-hours in attacks": round(attacked),
        "jobs of 16 cores, 4 h": -(-(hours + attacked) // (16 * HOURS)),
        "all as float32, GB": round(sum(of["plain"].values()) / 2**30, 1),
        "store, GB": round(sum(of["bytes"].values()) / 2**30, 1),
        f"files at chunk={chunk}": int(sum(of["files"].values())),
    }


def _count(
    work: Work,
    name: str,
    panel: PaperSetting,
    chunk: int,
    known: dict[str, tuple[float, int]],
    packed: Mapping[str, float],
) -> None:
    words = [f"table={name}", f"dataset={panel.dataset}", f"victim={panel.victim}", f"subset={panel.subset}"]
    config = compose("table", [*words, f"n={panel.n}"], return_hydra_config=True)
    table, composer = config.table, Composer(config, config.hydra.runtime.choices, words)
    side = 224 if panel.dataset in LARGE else 32
    image, chunks = 3 * side * side * 4, -(-panel.n // chunk)
    for row in on(table.rows, panel.dataset, panel.victim):
        for column in on(table.columns, panel.dataset, panel.victim):
            cell = composer.cell([*table.get("cell", []), *row.get("cell", []), *column.get("cell", [])])
            whole = {part: identity(cell.configs[part]) for part in cell.configs} | {"n": panel.n}
            blind = get_class(cell.configs["attack"]["_target_"]).needs is None or cell.knowledge_kind in (
                "blind",
                "transfer",
            )
            crafted = key_of({k: v for k, v in whole.items() if not (blind and k == "purifier")})
            purified = key_of(whole)
            config_of = cell.configs["purifier"]
            run = key_of({"of": crafted, "run": identity(config_of.get("trace", config_of))})
            purifier = cell.names["purifier"]
            seconds, measured = known.get(purifier, (0.0, side))
            price = seconds * (side / measured) ** POWER.get(purifier, 2)
            work["cells"][purified] = 1
            work["crafted"][crafted] = panel.n
            work["purified"][purified] = panel.n
            work["seconds"][run] = max(work["seconds"].get(run, 0.0), panel.n * price)
            if not blind:
                passes = build(cell.configs["attack"]).forward * cell.knowledge.get("eot", 1)
                work["attacked"][crafted] = panel.n * passes * price
            kept = Keeping("auto", panel.n).keeps(price, image, held=2 * image)
            held = 2 * image * packed["purified"] if kept else 0.0
            work["bytes"][crafted] = panel.n * image * packed["adversarial"]
            work["bytes"][purified] = panel.n * (held + packed["records"])
            work["plain"][crafted], work["plain"][purified] = panel.n * image, 2 * panel.n * image
            work["files"][crafted], work["files"][purified] = chunks, (1 + kept) * chunks


if __name__ == "__main__":
    main()
