"""Times a table from an empty store, and again from a full one.

    python -m scripts.bench_table table=ddip/table1

A row is appended to results/bench/table-torch<version>-<device>.csv. The environment must exist already.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

BENCH = Path("results/bench")


def timed(words: list[str], folder: str) -> tuple[float, str]:
    """Return the wall seconds of one run of the table, and its output."""
    command = [sys.executable, "-m", "runners.table", *words, f"store={folder}/store", f"tables={folder}"]
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return time.perf_counter() - start, run.stdout


def main() -> None:
    """Measure one row, and append and print it."""
    words = sys.argv[1:] or ["table=ddip/table1"]
    with tempfile.TemporaryDirectory() as folder:
        first, printed = timed(words, folder)
        again, _ = timed(words, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    row = {
        "date": time.strftime("%Y-%m-%d"),
        "words": " ".join(words),
        "n": int(re.search(r"n=(\d+)", printed)[1]),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": round(first),
        "seconds_again": round(again, 1),
    }
    BENCH.mkdir(parents=True, exist_ok=True)
    path = BENCH / f"table-torch{torch.__version__.split('+')[0]}-{device}.csv"
    pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
    sys.stdout.write(f"{row}\nwritten: {path}\n")


if __name__ == "__main__":
    main()
