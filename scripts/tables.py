"""List all tables of the papers, make them, or measure what they cost.

    python -m scripts.tables list
    python -m scripts.tables run ddip/table1 ride/table5 n=8
    python -m scripts.tables cost ride/table5

`list` prints for each table its cells, its default number of images, its cost here and the paper's settings;
how well finished tables agree with their papers; and for how many printed results there is one of ours.
`run` makes them one after another, each in its own process; words with = are given to every table. `cost`
makes them from an empty store and appends their processor time to results/bench/tables.csv. A table that
fails does not stop the others; then the exit status is 1.
"""

import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from runners import app
from runners.claims import overview
from runners.claims.counterparts import counted
from runners.claims.finished import finished
from runners.claims.shape import config_of
from runners.config_errors import names_of
from runners.output import quantity
from runners.tables.layout import on
from runners.tables.paper_results import panels_of
from runners.tables.saved import EMBEDDED

TIMES = Path("results/bench/tables.csv")
FINISHED = Path("results/tables")
SCALE = Path("results/bench/scale-tables.csv")


def names() -> list[str]:
    """Return the names of the papers' tables, without those that only choose settings."""
    return [name for name in names_of("table") if "/" in name and "/tuning" not in name]


def target(name: str) -> str:
    """Return the name of the table's target in the Makefile."""
    return (name.removeprefix("ddip/") if name in ("ddip/table1", "ddip/table2") else name).replace("/", "-")


def costs() -> dict[str, str]:
    """Return the minutes of one core on the embedded data, as text by table, measured or else estimated."""
    minutes_of = {}
    if SCALE.is_file():
        rows = pd.read_csv(SCALE).set_index("table")["core-minutes here"]
        minutes_of = {name: f"~{minutes:,.0f}" if minutes >= 1 else "~1" for name, minutes in rows.items()}
    if TIMES.is_file():
        last = pd.read_csv(TIMES).groupby("table").cpu_minutes.last()
        minutes_of |= {name: f"{minutes:,.0f}" if minutes >= 1 else "<1" for name, minutes in last.items()}
    return minutes_of


def printed_costs() -> dict[str, str]:
    """Return the core-hours of purifying at the papers' settings by table, as estimated by scripts.scale."""
    if not SCALE.is_file():
        return {}
    rows = pd.read_csv(SCALE).set_index("table")
    hours = rows["core-hours to purify"] + rows["core-hours in attacks"]
    return {name: f"{float(f'{hour:.2g}'):,.0f}" if hour >= 1 else "<1" for name, hour in hours.items()}


def listed() -> Table:
    """Return the list of all tables with their costs."""
    headings = ("make", "cells", "n", "CPU-min", "the paper's data, victim, n", "core-h")
    shown = Table(*headings, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.columns[0].no_wrap = True
    for place in (1, 2, 3, 5):
        shown.columns[place].justify = "right"
    minutes, hours = costs(), printed_costs()
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        for name in names():
            table = compose("table", [f"table={name}"]).table
            cells = len(on(table.rows, *EMBEDDED)) * len(on(table.columns, *EMBEDDED))
            shown.add_row(
                target(name),
                str(cells),
                str(table.n),
                minutes.get(name, "–"),
                _settings(table),
                hours.get(name, "–"),
            )
    shown.caption = (
        "CPU-min: minutes of one core, on the embedded data from an empty store; at another n in "
        "proportion. ~: not measured, but estimated, without trainings and attacks. ?: the paper does not "
        "say how many. core-h: hours of one core to purify as printed, by estimate (docs/scale.md)."
    )
    return shown


def finished_ones() -> Group:
    """Return the agreement of each finished table with its paper, and counts of the papers' figures."""
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        tables = finished(FINISHED, names())
        papers = sorted({config_of(name).paper for name in names()})
        return Group(overview.agreements(tables), overview.counts(counted(papers, tables)))


def _settings(table: DictConfig) -> str:
    """Return the settings that the paper prints, one line for each data set and number of images."""
    lines = {}
    for panel in panels_of(table):
        images = f"{panel.n:,}{'?' if panel.n_unsaid else ''}"
        lines.setdefault((panel.dataset, images), []).append(panel.victim.rpartition("/")[2])
    return "\n".join(
        f"{dataset}, {victims[0] if len(victims) == 1 else f'{len(victims)} victims'}, {images}"
        for (dataset, images), victims in lines.items()
    )


def _make(name: str, words: list[str]) -> int:
    """Make a table in a process of its own, and return its exit status."""
    status = subprocess.run(
        [sys.executable, "-m", "runners.table", f"table={name}", *words], check=False
    ).returncode
    if status == 130:
        sys.exit(130)
    return status


def run(chosen: list[str], words: list[str]) -> list[str]:
    """Make the tables, and return the names of those that failed."""
    return [name for name in chosen if _make(name, words)]


def cost(chosen: list[str]) -> list[str]:
    """Measure the tables, and return the names of those that failed, for which no cost is written."""
    failed = []
    for name in chosen:
        with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
            n = compose("table", [f"table={name}"]).n
        before = _cpu()
        with TemporaryDirectory() as folder:
            places = [f"{place}={folder}/{place}" for place in ("store", "tables", "records")]
            if _make(name, [*places, "budget_hours=1000"]):
                failed.append(name)
                continue
        row = {
            "date": date.today().isoformat(),
            "table": name,
            "n": n,
            "cpu_minutes": round((_cpu() - before) / 60, 2),
        }
        pd.DataFrame([row]).to_csv(TIMES, mode="a", header=not TIMES.exists(), index=False)
    return failed


def _cpu() -> float:
    """Return the processor seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(2)


def main() -> None:
    """Run the command line."""
    command, *typed = sys.argv[1:] or ["list"]
    words = [word for word in typed if "=" in word]
    chosen = [word for word in typed if "=" not in word] or names()
    if command not in ("list", "run", "cost"):
        _refuse(f"expected list, run or cost, got {command!r}")
    if unknown := sorted(set(chosen) - set(names_of("table"))):
        _refuse(f"no table is called {', '.join(unknown)}; there are {', '.join(names())}")
    if command == "list":
        app.console.print(listed())
        app.console.print(finished_ones())
    elif failed := run(chosen, words) if command == "run" else cost(chosen):
        sys.exit(f"error: {quantity(len(failed), 'table')} could not be completed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
