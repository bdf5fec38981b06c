"""Tests or times everything on a CUDA device: python -m scripts.on_gpu test|bench

Each step is a process of its own with its own time limit, so that a step that crashes or hangs does not
affect the others. The output of a step goes to results/bench/cuda/STEP.log, and the seconds and exit status
of every step go to results/bench/cuda/steps-test.csv or steps-bench.csv. The exit status is 1 if a step
failed. docs/gpu.md says what each step shows and what is predicted.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from data.errors import InputError
from runners.output import Output

RESULTS = Path("results/bench/cuda")
CELL = "runners.evaluate attack=pgd chunk=64 audit=off budget_hours=3"
ON_CUDA = "test_engine test_stack test_ride test_oag test_draws test_memory test_contract test_purifiers"
console = Output()


@dataclass(frozen=True)
class Step:
    """A module with its arguments, and its limit in seconds."""

    name: str
    limit: int
    words: str


# The most informative steps come first, in case time runs out.
STEPS = {
    "test": (
        Step("draws", 40, "scripts.gpu_checks draws"),
        Step("traces", 150, "scripts.gpu_checks traces"),
        Step("memory", 60, "scripts.gpu_checks memory"),
        Step("shortage", 50, "scripts.gpu_checks shortage"),
        Step("shortage-in-capture", 40, "scripts.gpu_checks shortage_in_capture"),
        Step("contract", 180, "scripts.gpu_checks contract"),
        Step("contract-tf32", 120, "scripts.gpu_checks contract --tf32"),
        Step("tests", 200, "pytest -q " + " ".join(f"tests/{name}.py" for name in ON_CUDA.split())),
        Step("cell", 150, f"{CELL} purifier=ddip n=64 device=cuda:0 records={RESULTS}/cuda"),
        Step("cell-on-the-cpu", 400, f"{CELL} purifier=ddip n=64 device=cpu records={RESULTS}/cpu"),
        Step("equal-decisions", 30, f"scripts.gpu_checks decisions {RESULTS}/cpu {RESULTS}/cuda"),
        Step(
            "two-processes", 120, f"{CELL} purifier=dip n=256 device=cuda:0 workers=2 records={RESULTS}/two"
        ),
    ),
    "bench": (
        Step("engine", 150, "scripts.bench_gpu engine --batch 256 --ways products grouped plain"),
        Step("batches", 150, "scripts.bench_gpu engine --batch 8 32 64 128 512 1024 --ways products grouped"),
        Step("tf32", 60, "scripts.bench_gpu engine --batch 256 --ways products grouped --tf32"),
        Step("layers", 150, "scripts.bench_gpu layers"),
        Step("profile", 60, "scripts.bench_gpu profile --batch 256"),
        Step("engine-ratios", 400, "scripts.bench_engine"),
        Step("purifiers", 600, "scripts.bench_purifiers"),
    ),
}


def run(step: Step, folder: Path) -> tuple[int, float]:
    """Run a step with its output in a log file; return its exit status (124 after its limit) and seconds."""
    start = time.perf_counter()
    with (folder / f"{step.name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(step.words)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(step.limit)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)  # ends its workers too
                process.wait()
    return status, time.perf_counter() - start


def main() -> None:
    """Run every step in turn, even if others fail."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=STEPS)
    what = parser.parse_args().what
    if not torch.cuda.is_available():
        raise InputError("expected a CUDA device that PyTorch can use, got none; these steps need one")
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in STEPS[what]:
        status, seconds = run(step, RESULTS)
        rows.append({"step": step.name, "status": status, "seconds": round(seconds, 1), "words": step.words})
        pd.DataFrame(rows).to_csv(RESULTS / f"steps-{what}.csv", index=False)
        outcome = {0: "ok", 124: f"stopped after {step.limit} s"}.get(status, f"failed with status {status}")
        console.print(f"{step.name}: {outcome}, {seconds:.0f} s, {RESULTS / f'{step.name}.log'}")
    if any(row["status"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
