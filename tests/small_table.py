"""A table that the command line makes in seconds, for tests that kill, starve and distribute the run."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from runners.places import CONFIGS

ROOT = CONFIGS.parent
STEM = "ddip-table1"
TIMINGS = ("craft_seconds", "purify_seconds")  # columns that vary from run to run
BARE = "{label:Bare,cell:['purifier=none']}"
DIP = "{label:DIP,cell:['purifier=dip','purifier.steps=STEPS']}"


def words(folder: Path, *more: str, n: int = 8, steps: int = 12, rows: str | None = None) -> list[str]:
    """Return the command that makes the table, with results below `folder`."""
    rows = rows or f"[{DIP.replace('STEPS', str(steps))},{BARE}]"
    return [
        sys.executable, "-m", "runners.table", "table=ddip/table1", f"n={n}", "chunk=2", "workers=1",
        "victim.weights.epochs=1", "victim.weights.dataset.copies=1", f"table.rows={rows}",
        "table.columns=[{label:Clean,attack:clean,cell:['attack=clean']},"
        "{label:FGSM,attack:fgsm,cell:['attack=fgsm']}]",
        f"store={folder}/store", f"tables={folder}/tables", f"records={folder}/records", *more,
    ]  # fmt: skip


def start(command: list[str], **environment: str) -> subprocess.Popen:
    """Start the command in a session of its own."""
    path = os.pathsep.join([str(ROOT / "tests" / "faulty"), str(ROOT)])
    return subprocess.Popen(
        command, cwd=ROOT, text=True, start_new_session=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(command: list[str], **environment: str) -> tuple[int, str, str]:
    """Run the command, and return its exit status, output and errors. It must end within ten minutes."""
    process = start(command, **environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def undisturbed(folder: Path, *, n: int) -> Path:
    """Make the table in `folder` by one process that nothing disturbs, and return `folder`."""
    status, _, err = run(words(folder, n=n, steps=60))
    assert status == 0, err
    return folder


def records(folder: Path) -> pd.DataFrame:
    """Return the records of the table without the timings."""
    return pd.read_parquet(folder / "tables" / f"{STEM}-records.parquet").drop(columns=list(TIMINGS))


def same(ours: Path, theirs: Path) -> None:
    """Check that records and rendered tables are equal to the byte, apart from the timings."""
    pd.testing.assert_frame_equal(records(ours), records(theirs), check_exact=True)
    for suffix in (".md", ".tex"):
        name = Path("tables") / f"{STEM}{suffix}"
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
