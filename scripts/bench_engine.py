"""Times the engine that fits a network to each image, in comparison with other implementations.

    python -m scripts.bench_engine

Every ratio is of two things that are timed in turn in one run, since machines are shared and noisy; its range
over the rounds is printed. Rows are appended to results/bench/engine-torch<version>-<device>-<precision>.csv.
"""

import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pandas as pd
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attacks.knowledge import Blind
from purifiers.fitting import engine
from purifiers.fitting.trace import Trace
from purifiers.purifier import purify_together
from runners.evaluation.component import Config, build, to_plain_dict
from runners.evaluation.devices import configure_torch
from runners.evaluation.weights import load_or_train
from runners.evaluation.workers import worker_count
from runners.places import CONFIGS
from runners.store.store import Store
from scripts.other_ways import in_turn, plain_dip, plain_ride, unfolded
from victims.victim import Victim

BENCH = Path("results/bench")
ROUNDS, STEPS = 5, 40
BATCH = {"cpu": 8, "cuda": 256}
DEVICE = configure_torch("auto", tf32=False)
CORES = worker_count("auto", [torch.device("cpu")])


def config_of(word: str, part: str) -> Config:
    """Return the config of a component of the evaluation that this argument composes."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("evaluate", [word])
    OmegaConf.resolve(composed)
    return to_plain_dict(composed[part])


def trace_of(purifier: str) -> Trace:
    """Return the optimisation of a purifier of configs/purifier."""
    return build(config_of(f"purifier={purifier}", "purifier")).trace


def images_of(count: int, size: int = 32) -> Tensor:
    """Return smooth random images, whose content does not affect the speed."""
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(size, size), mode="bilinear").to(DEVICE)


def step_seconds(purifier: str, batch: int, size: int = 32, steps: int = STEPS) -> float:
    """Return the median seconds of one step for one image in a batch."""
    marks: list[float] = []

    def observe(step: int, images: Tensor) -> None:
        if images.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    trace_of(purifier).stream(images_of(batch, size), range(batch), steps, observe)
    return statistics.median(b - a for a, b in itertools.pairwise(marks)) / batch


def row(what: str, ratios: list[float], unit: str = "") -> dict[str, str | float]:
    """Return the median and range of a ratio over the rounds, the first of which is a warm-up."""
    kept = sorted(ratios[1:] or ratios)
    return {"what": what, "median": statistics.median(kept), "low": kept[0], "high": kept[-1], "unit": unit}


def against_plain_loops() -> list[dict]:
    """Compare the engine on the whole machine with a loop over one image at a time, in steps per second."""
    batch, rows = BATCH[DEVICE.type], []
    processes = CORES if DEVICE.type == "cpu" else 1
    ways = {
        "dip": (32, batch, lambda: plain_dip(images_of(1), STEPS)),
        "ride": (32, batch, lambda: plain_ride(images_of(1), STEPS, hidden=4, dropout=[2, 3])),
        "ride-imagenet": (
            224,
            max(batch // 8, 8),
            lambda: plain_ride(images_of(1, 224), STEPS // 8, hidden=7, dropout=[4, 5, 6]),
        ),
    }
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for name, (size, many, plain_way) in ways.items():
            ours, theirs = [], []
            for _ in range(ROUNDS if size == 32 else 2):
                torch.set_num_threads(CORES)  # as PyTorch does by default
                theirs.append(1 / plain_way())
                torch.set_num_threads(1)
                steps = STEPS if size == 32 else STEPS // 8
                futures = [pool.submit(step_seconds, name, many, size, steps) for _ in range(processes)]
                ours.append(sum(1 / own.result() for own in futures))
            ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
            rows += [
                row(f"{name} {size}x{size}: engine / plain loop", ratios, "x"),
                row(f"{name} {size}x{size}: engine, steps a second", ours, "steps/s"),
                row(f"{name} {size}x{size}: plain loop, steps a second", theirs, "steps/s"),
            ]
    return rows


def one_large_convolution() -> float:
    """Return the floating-point operations per second that this device reaches in a forward convolution."""
    x, w = torch.rand(1, 256, 32, 32, device=DEVICE), torch.rand(256, 256, 3, 3, device=DEVICE)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        F.conv2d(x, w, padding=1)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * 256 * 256 * 9 * 1024 / statistics.median(times)


def other_layouts() -> list[dict]:
    """Compare a step of the CIFAR network with the same step in other layouts of its convolutions."""

    def laid_out(conv: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def padded(self, x, weight, bias=None, *, stride=1, padding):
            near, far = (weight.shape[-1] - 1) // 2, weight.shape[-1] // 2
            x = F.pad(x, (near, far, near, far), mode=padding) if far else x
            return conv(self, x, weight, bias, stride)

        return padded

    channels_first = "grouped, channels first"
    others = {"unfold and bmm": unfolded, "one convolution an image": in_turn}
    ratios: dict[str, list[float]] = {name: [] for name in [*others, channels_first]}
    shares, batch = [], BATCH[DEVICE.type]
    with FlopCounterMode(display=False) as counter:
        trace_of("dip").stream(images_of(batch), range(batch), 1, lambda step, images: None)
    forward = sum(n for op, n in counter.flop_counts["Global"].items() if "backward" not in str(op))
    for _ in range(ROUNDS):
        ours = step_seconds("dip", batch)
        shares.append(3 * forward / batch / ours / one_large_convolution())
        for name, conv in others.items():
            with patch.object(engine.Stack, "conv", laid_out(conv)):
                ratios[name].append(step_seconds("dip", batch) / ours)
        with patch.object(torch, "channels_last", torch.contiguous_format):
            ratios[channels_first].append(step_seconds("dip", batch) / ours)
    rows = [
        row(f"engine / the same with {name}, one process", values, "x") for name, values in ratios.items()
    ]
    return [*rows, row("engine's convolutions / rate of one large convolution", shares, "")]


def strided() -> list[dict]:
    """Compare a step of OAG over blocks with the same step by its original convolution of stride 3."""

    def plain(self, x, weight, bias, *, stride):
        return self.conv(x, weight, bias, stride=stride, padding="constant")

    batch, rows = BATCH[DEVICE.type], []
    for size, many, steps in ((32, batch, 10), (224, max(batch // 8, 8), 3)):
        ratios = []
        for _ in range(ROUNDS):
            ours = step_seconds("oag", many, size, steps)
            with patch.object(engine.Stack, "conv_blocks", plain):
                ratios.append(step_seconds("oag", many, size, steps) / ours)
        rows.append(row(f"oag {size}x{size}: engine / the same with a strided convolution", ratios, "x"))
    return rows


def trained_victim() -> Victim:
    """Return the trained default victim of the embedded data."""
    with TemporaryDirectory() as folder:
        store = Store(folder)
        return load_or_train(config_of("victim=digits-resnet8", "victim"), store).load(store).to(DEVICE)


def readouts(victim: Victim) -> list[dict]:
    """Compare DIP, DIPDefend and DDIP on one trace with DIP alone for the same number of steps."""
    batch, names = BATCH[DEVICE.type], ("dip", "dipdefend", "ddip")
    images, seeds = images_of(batch), range(batch)
    dip, dipdefend, ddip = (config_of(f"purifier={name}", "purifier") for name in names)
    steps = ddip["steps"]
    purifiers = [build(config) for config in ({**dip, "steps": steps}, dipdefend, ddip)]

    def seconds(some: list) -> float:
        start = time.perf_counter()
        purify_together(some, images, seeds=seeds, victim=victim)
        return time.perf_counter() - start

    ratios = [seconds(purifiers) / seconds(purifiers[:1]) for _ in range(3)]
    return [row(f"DIP + DIPDefend + DDIP / DIP alone, {steps} steps", ratios, "x")]


def decisions(victim: Victim) -> list[dict]:
    """Return the share of the victim's decisions after a full run that do not change with the rounding.

    The kernels of a single network round differently from those of eight stacked networks.
    """
    attacked = (
        build(config_of("dataset=digits-photos", "dataset")).load("evaluation").subset(24, seed=0).to(DEVICE)
    )
    attack = build(config_of("attack=pgd", "attack"))
    target = Blind().target(victim, None, [], seeds=range(24), device=DEVICE)
    images = attack(target, attacked.images, attacked.labels, seeds=range(24)).images
    purifiers = [build(config_of(f"purifier={name}", "purifier")) for name in ("dip", "dipdefend", "ddip")]
    for purifier in purifiers:
        purifier.steps = 1000

    def decided(batch: int) -> Tensor:
        parts = [range(i, i + batch) for i in range(0, 24, batch)]
        purified = [purify_together(purifiers, images[list(p)], seeds=p, victim=victim) for p in parts]
        return torch.stack([victim(torch.cat(batches)).argmax(1) for batches in zip(*purified, strict=True)])

    together = decided(8)
    with patch.object(engine, "FILL", 1):
        alone = decided(1)
    equal = (together == alone).float().mean(1).tolist()
    names = [type(purifier).__name__ for purifier in purifiers]
    return [
        row(f"equal decisions of {name} with other kernels, 24 images", [share])
        for name, share in zip(names, equal, strict=True)
    ]


def append(rows: list[dict], kind: str = "engine") -> None:
    """Append rows to the file of this torch, device and precision, and print them."""
    path = BENCH / f"{kind}-torch{torch.__version__.split('+')[0]}-{DEVICE.type}-float32.csv"
    BENCH.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows).assign(date=time.strftime("%Y-%m-%d"), cores=CORES).round(4)
    frame.to_csv(path, mode="a", header=not path.exists(), index=False)
    sys.stdout.write(
        frame.drop(columns=["date", "cores"]).to_string(index=False, header=kind != "engine") + "\n"
    )
    sys.stdout.flush()


def main() -> None:
    """Run all measurements, and append and print their rows."""
    append(against_plain_loops())
    append(other_layouts())
    append(strided())
    victim = trained_victim()
    append(readouts(victim))
    append(decisions(victim))


if __name__ == "__main__":
    main()
