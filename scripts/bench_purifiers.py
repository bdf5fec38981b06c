"""Measures what each purifier costs: seconds and memory an image, each purifier in a process of its own.

    python -m scripts.bench_purifiers

Appends rows to results/bench/purifiers-torch<version>-<device>-<precision>.csv. Seconds of purifiers that fit
a network to each image are of a few steps, times how many there are; JPEG's are measured beside each, since
times on shared machines mean little. Learned networks have their size, not their weights.
The purifiers of NCIS's cost tables (https://arxiv.org/abs/2106.11644, Table 3; supplement, Table 2) are
measured on one image of 224 pixels too, as there.
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
LONG_ENOUGH = 5.0  # seconds after which one round must do


def held() -> float:
    """MiB: the most this process has had, on the GPU where there is one."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ready(name: str) -> Purifier:
    """The purifier as its config has it; untrained where it learns, and with no file needed."""
    purifier = build(config_of(f"purifier={name}", "purifier"))
    inside = getattr(purifier, "purifier", purifier)
    if isinstance(inside, Learned):
        inside.load_frozen(inside.network.state_dict())
    return purifier


def seconds(purifier: Purifier, images: torch.Tensor, victim: torch.nn.Module) -> float:
    """Median over the rounds, the first of which warms up; one round where that is long."""
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
    """In a process of its own. `longer` times as many steps, for purifiers that have them."""
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
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "scripts.bench_purifiers", name, str(size), str(batch), str(longer)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout)


def main() -> None:
    """A row a purifier; four times the steps must not take more memory."""
    rows, batch = [], BATCH[DEVICE.type]
    for name in track(names_of("purifier"), "purifiers", console=app.console):
        size = 224 if name.endswith("-imagenet") else 32
        found = apart(name, size, batch)
        if isinstance(ready(name), TracePurifier):
            found["mib_of_four_times_the_steps"] = apart(name, size, batch, longer=4)["mib"]
        rows.append({"purifier": name, "size": size, "batch": batch, **found})
    for name in track(AT_224, "at 224 pixels", console=app.console):
        rows.append({"purifier": name, "size": 224, "batch": 1, **apart(name, 224, 1)})
    append(rows, "purifiers")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, *numbers = sys.argv[1:]
        sys.stdout.write(json.dumps(measure(name, *map(int, numbers))))
    else:
        main()
