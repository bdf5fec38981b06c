"""Measures the cost of each purifier: seconds and memory per image, each purifier in a process of its own.

    python -m scripts.bench_purifiers

Rows are appended to results/bench/purifiers-torch<version>-<device>-<precision>.csv. The seconds of purifiers
that fit a network to each image are extrapolated from a few steps. JPEG is timed together with each purifier,
since times on shared machines mean little. Learned networks have their size, but untrained weights.
The purifiers of NCIS's cost tables (https://arxiv.org/abs/2106.11644, Table 3; supplement, Table 2) are also
measured on one image of 224 pixels, as in these tables.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from rich.progress import track

from purifiers.fitting.trace import TracePurifier
from purifiers.learned import Learned
from purifiers.purifier import Purifier, purify_together
from runners import app
from runners.config_errors import names_of
from runners.evaluation.component import build
from scripts.bench_engine import BATCH, DEVICE, append, config_of, images_of

AT_224 = ("jpeg", "feature-squeezing", "tvm-art", "sr-edsr", "nrp-resg-released", "nrp-released", "gs",
          "ncis", "fbi-e", "fbi-gs", "fbi")  # fmt: skip
ROUNDS = 3
LONG_ENOUGH = 5.0  # seconds of a round after which no further one is run


def held() -> float:
    """Return the peak memory of this process in MiB, on the GPU if there is one."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ready(name: str) -> Purifier:
    """Return the purifier of a config; a learned one has untrained weights, so that it needs no file."""
    purifier = build(config_of(f"purifier={name}", "purifier"))
    inside = getattr(purifier, "purifier", purifier)
    if isinstance(inside, Learned):
        inside.load_frozen(inside.network.state_dict())
    return purifier


def seconds(purifier: Purifier, images: torch.Tensor, victim: torch.nn.Module) -> float:
    """Return the median seconds per image over the rounds, the first of which is a warm-up.

    A long first round is the only one.
    """
    rounds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        purify_together([purifier], images, seeds=range(len(images)), victim=victim)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        rounds.append(time.perf_counter() - start)
        if rounds[0] > LONG_ENOUGH:
            break
    return statistics.median(rounds[1:] or rounds) / len(images)


def measure(name: str, size: int, batch: int, longer: int) -> dict[str, float | int | None]:
    """Measure a purifier in this process, with `longer` times as many steps if it fits a network."""
    victim = build(config_of("victim=digits-resnet8", "victim")).to(DEVICE).eval()
    purifier, images = ready(name), images_of(batch, size)
    short, factor = purifier.shortened()
    if isinstance(short, TracePurifier):
        short.steps, factor = short.steps * longer, factor / longer
    before = held()
    purify_together([short], images, seeds=range(batch), victim=victim)
    memory = (held() - before) / batch
    jpeg, network = ready("jpeg"), getattr(getattr(purifier, "purifier", purifier), "network", None)
    each = factor * seconds(short, images, victim)
    return {
        "seconds": each,
        "jpegs": each / seconds(jpeg, images, victim),
        "mib": memory,
        "parameters": sum(p.numel() for p in network.parameters()) if network is not None else None,
    }


def apart(name: str, size: int, batch: int, longer: int = 1) -> dict[str, float | int | None]:
    """Run `measure` in a new process."""
    command = [sys.executable, "-m", "scripts.bench_purifiers", name, str(size), str(batch), str(longer)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout)


def main() -> None:
    """Measure all purifiers, and append a row for each.

    Purifiers that fit a network are measured a second time with four times as many steps, which must not
    take more memory.
    """
    rows, batch = [], BATCH[DEVICE.type]
    for name in track(names_of("purifier"), "purifiers", console=app.console):
        size = 224 if name.endswith("-imagenet") else 32
        measured = apart(name, size, batch)
        if isinstance(ready(name), TracePurifier):
            measured["mib_of_four_times_the_steps"] = apart(name, size, batch, longer=4)["mib"]
        rows.append({"purifier": name, "size": size, "batch": batch, **measured})
    for name in track(AT_224, "at 224 pixels", console=app.console):
        rows.append({"purifier": name, "size": 224, "batch": 1, **apart(name, 224, 1)})
    append(rows, "purifiers")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, *numbers = sys.argv[1:]
        sys.stdout.write(json.dumps(measure(name, *map(int, numbers))))
    else:
        main()
