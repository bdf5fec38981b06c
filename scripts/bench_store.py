"""Measures the cost of the store: python -m scripts.bench_store

It measures the share of a cell's time that is spent in the store and its claims, in one process and from an
empty store, and the time to determine the state of a table of 10,000 chunks. Rows are appended to
results/bench/store-torch<version>.csv.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from runners.evaluation import workers
from runners.evaluation.cell import PARTS, Cell
from runners.evaluation.component import to_plain_dict
from runners.evaluation.settings import Settings
from runners.evaluator import Evaluator
from runners.places import CONFIGS
from runners.store.artifact import key_of
from runners.store.leases import Leases
from runners.store.manifest import Manifest, manifests
from runners.store.status import status_of
from runners.store.store import Store

BENCH = Path("results/bench")
CELLS = ("none", "jpeg", "dip")
CHUNKS = 10_000
SPENT = [0.0]


def timed(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, whose seconds are added to SPENT."""
    inside = [False]

    def timing(*args: Any, **kwargs: Any) -> Any:
        if inside[0]:
            return call(*args, **kwargs)
        begin, inside[0] = time.perf_counter(), True
        try:
            return call(*args, **kwargs)
        finally:
            SPENT[0] += time.perf_counter() - begin
            inside[0] = False

    return timing


def share(purifier: str, folder: str) -> dict[str, Any]:
    """Return the seconds of one cell's chunks under PGD, and those in the store, both without trainings."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("evaluate", [f"purifier={purifier}"], return_hydra_config=True)
    names = {part: config.hydra.runtime.choices[part] for part in PARTS}
    cell = Cell(names, {part: to_plain_dict(config[part]) for part in PARTS}, "")
    shared = {name: config[name] for name in Settings.__dataclass_fields__}
    settings = Settings(**shared | {"store": folder, "n": 16, "chunk": 8, "workers": 1, "audit": "off"})
    clock: dict[str, float] = {}
    run = workers.run

    def watched(queue: Any, **kwargs: Any) -> None:
        SPENT[0], begin = 0.0, time.perf_counter()
        run(queue, **kwargs | {"workers": 0})
        clock.update(seconds=time.perf_counter() - begin, store=SPENT[0])

    workers.run = watched
    try:
        Evaluator(settings, Console(quiet=True)).evaluate([cell], Manifest("runners.evaluate", purifier))
    finally:
        workers.run = run
    return {"what": f"pgd, {purifier}, 16 images in chunks of 8", **clock}


def listing(folder: str) -> dict[str, Any]:
    """Measure the time to determine the state of a table whose chunks all exist."""
    keys = [key_of({"i": i}) for i in range(CHUNKS)]
    for key in keys:
        path = Path(folder, "records", key[:2], key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    store = Store(folder)
    Manifest("runners.table", "bench", n=CHUNKS, cells={"cell": [[key] * 4 for key in keys]}).write(store)
    begin = time.perf_counter()
    (manifest,) = manifests(store)
    status = status_of(store, manifest)
    return {"what": f"state of a table of {status.done} chunks", "seconds": time.perf_counter() - begin}


def claiming(folder: str) -> dict[str, Any]:
    """Measure the time to take and release leases in turn."""
    claims = Leases(Path(folder, "claims"))
    begin = time.perf_counter()
    for i in range(1000):
        claims.take(str(i), "bench")
        claims.release(str(i))
    return {"what": "1000 claims taken and released", "seconds": time.perf_counter() - begin}


def main() -> None:
    """Run all measurements, and append and print their rows."""
    for owner, names in ((Store, ("put", "get", "has", "remove")), (Leases, ("take", "release"))):
        for name in names:
            setattr(owner, name, timed(getattr(owner, name)))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        rows = [share(purifier, folder) for purifier in CELLS]
        rows += [listing(other), claiming(other)]
    frame = pd.DataFrame(rows).round(4).assign(date=time.strftime("%Y-%m-%d"))
    BENCH.mkdir(parents=True, exist_ok=True)
    path = BENCH / f"store-torch{torch.__version__.split('+')[0]}.csv"
    frame.to_csv(path, mode="a", header=not path.exists(), index=False)
    sys.stdout.write(f"{frame.to_string()}\nwritten: {path}\n")


if __name__ == "__main__":
    main()
