"""All tables: python -m scripts.tables list; python -m scripts.tables run [names, and words for every table]

`list` names each table with its cells, its default number of images, the paper's settings and the time it
took here; `run` makes them one after another, each in a process of its own, and appends its seconds to
results/bench/tables.csv (what the store held already counts nothing). A table that fails does not stop the
others. Exit status 1 where one failed.
"""

import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from rich.table import Table

from runners import app
from runners.table import EMBEDDED
from runners.tables.layout import on
from runners.tables.published import panels_of

TIMES = Path("results/bench/tables.csv")


def names() -> list[str]:
    """Every table of a paper, without those that only choose settings."""
    return [name for name in app.names_of("table") if "/" in name and not name.endswith("/tuning")]


def took() -> dict[str, str]:
    """The last measured time of each table, in words."""
    if not TIMES.is_file():
        return {}
    last = pd.read_csv(TIMES).groupby("table").last()
    return {str(r.Index): f"{r.seconds / 60:.0f} min, n={r.n}, {r.cores} cores" for r in last.itertuples()}


def listed() -> Table:
    """What there is, and what it costs."""
    shown = Table("table", "make", "cells", "n", "took here (embedded data)", "the paper: data, victim, n")
    times = took()
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        for name in names():
            table = compose("table", [f"table={name}"]).table
            cells = len(on(table.rows, *EMBEDDED)) * len(on(table.columns, *EMBEDDED))
            settings = "\n".join(f"{p.dataset}, {p.victim}, {p.n}" for p in panels_of(table))
            target = name.removeprefix("ddip/") if name in ("ddip/table1", "ddip/table2") else name
            shown.add_row(
                name, target.replace("/", "-"), str(cells), str(table.n), times.get(name, "–"), settings
            )
    return shown


def run(typed: list[str]) -> list[str]:
    """Make the tables that are named, or all; the names of those that failed."""
    words = [word for word in typed if "=" in word]
    chosen = [word for word in typed if "=" not in word] or names()
    if unknown := sorted(set(chosen) - set(app.names_of("table"))):
        sys.exit(f"error: no table is called {', '.join(unknown)}; there are {', '.join(names())}")
    failed = []
    for name in chosen:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "runners.table", f"table={name}", *words], check=False)
        if done.returncode == 130:
            sys.exit(130)
        if done.returncode:
            failed.append(name)
        elif not words:
            with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
                n = compose("table", [f"table={name}"]).n
            seconds = round(time.perf_counter() - start)
            row = {"date": date.today().isoformat(), "table": name, "n": n, "cores": os.cpu_count()}
            frame = pd.DataFrame([row | {"seconds": seconds}])
            frame.to_csv(TIMES, mode="a", header=not TIMES.exists(), index=False)
    return failed


def main() -> None:
    """The command line."""
    command, *typed = sys.argv[1:] or ["list"]
    if command == "list":
        app.console.print(listed())
    elif command == "run":
        if failed := run(typed):
            sys.exit(f"error: {len(failed)} tables are not whole: {', '.join(failed)}")
    else:
        sys.exit(f"error: expected list or run, got {command!r}")


if __name__ == "__main__":
    main()
