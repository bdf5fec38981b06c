"""Measures the memory that fitting a network to each image takes, each purifier in a process of its own.

    python -m scripts.bench_memory

Appends to the file of scripts/bench_engine.py.
"""

import subprocess
import sys

from scripts.bench_engine import BATCH, DEVICE, append, row

PURIFIERS = ("dip", "dipdefend-released", "ddip", "ddip-singh", "ride", "ride-imagenet", "oag")


CODE = """
import resource, torch
from purifiers.purifier import purify_together
from runners.components import build
from scripts.bench_engine import DEVICE, config_of, images_of

def held():
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

victim = build(config_of("victim=digits-resnet8", "victim")).to(DEVICE).eval()
purifier, images = build(config_of("purifier={name}", "purifier")), images_of({batch}, {size})
purifier.steps, before = {steps}, held()
purify_together([purifier], images, seeds=range({batch}), victim=victim)
print(held() - before)
"""


def peak(**what: str | int) -> float:
    """MiB at most in a process that purifies, beyond what it has before."""
    command = [sys.executable, "-c", CODE.format(**what)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Peak memory an image, and that it does not grow with the steps."""
    rows, batch = [], BATCH[DEVICE.type]
    for name in PURIFIERS:
        size, few = (224, 2) if name == "ride-imagenet" else (32, 10)
        short, long = (peak(name=name, batch=batch, size=size, steps=steps) for steps in (few, 4 * few))
        rows.append(row(f"memory of {name}, {size}x{size}, batch {batch}", [short / batch], "MiB/image"))
        rows.append(row(f"memory of {name}, {4 * few} steps / {few} steps", [long / short], "x"))
    append(rows)


if __name__ == "__main__":
    main()
