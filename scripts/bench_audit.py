"""Measures the cost that audit=cheap adds to a cell, in comparison with the rest of the same run.

    python -m scripts.bench_audit

Each cell runs alone, in one process, from a store that has weights and checked purifiers but no results of
the cell. The median of up to five rounds counts. Rows are appended to
results/bench/audit-torch<version>-<device>-<precision>.csv.
"""

import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.progress import track

from runners import app, evaluator
from runners.evaluate import settings_of
from runners.evaluation.cell import PARTS, Cell
from runners.evaluation.component import to_plain_dict
from runners.evaluation.settings import Settings
from scripts.bench_engine import append

ROUNDS = 5
LONG_ENOUGH = 10.0  # seconds of a round after which no further one is run
IMAGES = (16, 64)
PGD = "attack=pgd attack.alpha=2/255 attack.steps=40 attack.random_start=false"  # as in ddip/table1
CELLS = (
    "attack=clean purifier=none",
    "attack=fgsm purifier=none",
    "attack=fgsm purifier=jpeg",
    "attack=bim attack.alpha=1/255 attack.steps=10 purifier=none",
    f"{PGD} purifier=none",
    f"{PGD} purifier=jpeg",
    f"{PGD} purifier=dip purifier.steps=100",
    "attack=cw purifier=none",
    "attack=fgsm knowledge=bpda purifier=jpeg",
    "attack=pgd knowledge=bpda purifier=jpeg",
    "attack=pgd knowledge=full purifier=randomization",
    "attack=pgd knowledge=full knowledge.eot=5 purifier=randomization",
    "attack=square attack.queries=200 knowledge=score purifier=jpeg",
)


def composed(words: str, n: int, store: Path) -> tuple[Cell, Settings]:
    """Return the cell that these arguments of the command line name, and its settings."""
    run = ["chunk=8", "workers=1", "audit=cheap", f"n={n}", f"store={store}"]
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        config = compose("evaluate", [*words.split(), *run], return_hydra_config=True)
    choices = config.hydra.runtime.choices
    configs = {part: to_plain_dict(config[part]) for part in PARTS}
    command = f"python -m runners.evaluate {words}"
    return Cell({part: choices[part] for part in PARTS}, configs, command), settings_of(config)


def evaluated(words: str, n: int, store: Path) -> tuple[float, float]:
    """Return the seconds of the cell without its audit, and of the audit; neither includes the data set."""
    cell, settings = composed(words, n, store)
    runner = Timed(settings, Console(file=io.StringIO()))
    start = time.perf_counter()
    (result,) = runner.evaluate([cell])
    if result.records is None:
        raise RuntimeError(f"{cell.label}: {result.failed or result.skipped}")
    return time.perf_counter() - start - runner.planned - runner.audited, runner.audited


class Timed(evaluator.Evaluator):
    """An evaluator that records the seconds of the audit, and of the planning, which makes the data set."""

    planned = audited = 0.0

    def _planned(self, *args):
        start = time.perf_counter()
        planned = super()._planned(*args)
        self.planned += time.perf_counter() - start
        return planned

    def _audit(self, *args) -> None:
        start = time.perf_counter()
        super()._audit(*args)
        self.audited = time.perf_counter() - start


def main() -> None:
    """Measure each cell with each number of images, and append a row for each."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ready, fresh = Path(folder) / "ready", Path(folder) / "fresh"
        for words in track(CELLS, "cells", console=app.console):
            evaluated(words, 2, ready)  # trains, and checks the purifier
            for n in IMAGES:
                seconds = []
                for _ in range(ROUNDS):
                    shutil.rmtree(fresh, ignore_errors=True)
                    for stage in ("weights", "traits"):
                        shutil.copytree(ready / stage, fresh / stage)
                    seconds.append(evaluated(words, n, fresh))
                    if sum(seconds[0]) > LONG_ENOUGH:
                        break
                rest, audit = (statistics.median(part) for part in zip(*seconds, strict=True))
                share = statistics.median(audit / rest for rest, audit in seconds)
                rows.append({"cell": words, "n": n, "seconds": rest, "audit": audit, "share": share})
    append(rows, "audit")


if __name__ == "__main__":
    main()
