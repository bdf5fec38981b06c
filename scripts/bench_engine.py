"""Times the engine that fits a network to each image, side by side with other ways.

    python -m scripts.bench_engine

Every ratio is of things timed in turn in one run, since machines are shared and noisy; its range over the
rounds is printed. Appends rows to results/bench/engine-torch<version>-<device>-<precision>.csv.
"""

import itertools
import multiprocessing
import statistics
import subprocess
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

from purifiers import engine
from purifiers.purifier import purify_together
from purifiers.trace import Trace
from runners.app import CONFIGS
from runners.components import Config, build, plain, prepare_victim
from runners.pool import worker_count
from runners.store import Store
from runners.work import settle
from scripts.plain_dip import plain_dip

BENCH = Path("results/bench")
ROUNDS, STEPS = 5, 40
BATCH = {"cpu": 8, "cuda": 256}
PURIFIERS = ("dip", "dipdefend", "ddip", "ddip-singh", "ride", "ride-imagenet", "oag")
DEVICE = settle("auto", tf32=False)
CORES = worker_count("auto", "cpu")


def config_of(word: str, part: str) -> Config:
    """A component of the evaluation that this word composes."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("evaluate", [word])
    OmegaConf.resolve(composed)
    return plain(composed[part])


def trace_of(purifier: str) -> Trace:
    """The optimisation of a purifier of configs/purifier."""
    return build(config_of(f"purifier={purifier}", "purifier")).trace


def images_of(count: int, size: int = 32) -> Tensor:
    """Smooth random images; what is in them does not matter for speed."""
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(size, size), mode="bilinear").to(DEVICE)


def step_seconds(purifier: str, batch: int, size: int = 32, steps: int = STEPS) -> float:
    """Median seconds of one step for one image, among `batch`."""
    marks: list[float] = []

    def observe(step: int, images: Tensor) -> None:
        if images.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    trace_of(purifier).stream(images_of(batch, size), range(batch), steps, observe)
    return statistics.median(b - a for a, b in itertools.pairwise(marks)) / batch


def row(what: str, ratios: list[float], unit: str = "") -> dict[str, str | float]:
    """A measured ratio: median and range over the rounds, the first of which warms up."""
    kept = sorted(ratios[1:] or ratios)
    return {"what": what, "median": statistics.median(kept), "low": kept[0], "high": kept[-1], "unit": unit}


def against_the_plain_loop() -> list[dict]:
    """DDIP's CIFAR-10 network on the whole machine: engine against one image at a time."""
    batch, rates, plain_rates = BATCH[DEVICE.type], [], []
    processes = CORES if DEVICE.type == "cpu" else 1
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for _ in range(ROUNDS):
            torch.set_num_threads(CORES)  # as PyTorch does of itself
            plain_rates.append(1 / plain_dip(images_of(1), STEPS))
            torch.set_num_threads(1)
            each = [pool.submit(step_seconds, "dip", batch) for _ in range(processes)]
            rates.append(sum(1 / one.result() for one in each))
    ratios = [ours / plain for ours, plain in zip(rates, plain_rates, strict=True)]
    return [
        row("engine / plain loop, CIFAR DIP, images a second", ratios, "x"),
        row("engine, CIFAR DIP, 1000 steps", [rate / 1000 for rate in rates], "images/s"),
        row("plain loop, CIFAR DIP, 1000 steps", [rate / 1000 for rate in plain_rates], "images/s"),
    ]


def one_large_convolution() -> float:
    """Floating point operations a second that this device reaches, forward."""
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


def unfolded(stack: engine.Stack, x: Tensor, w: Tensor, b: Tensor | None, stride: int) -> Tensor:
    """Convolution of padded images as one batched matrix product."""
    k, apart = w.shape[-1], x.unflatten(1, (stack.size, -1))[0]
    columns = F.unfold(apart, k, stride=stride)
    out = torch.bmm(w.view(stack.size, -1, columns.shape[1]), columns)
    sides = [(side - k) // stride + 1 for side in x.shape[2:]]
    out = out.view(1, -1, *sides)
    return out if b is None else out + b.view(1, -1, 1, 1)


def in_turn(stack: engine.Stack, x: Tensor, w: Tensor, b: Tensor | None, stride: int) -> Tensor:
    """One convolution an image."""
    biases = [None] * stack.size if b is None else b.chunk(stack.size)
    parts = zip(x.chunk(stack.size, 1), w.chunk(stack.size), biases, strict=True)
    return torch.cat([F.conv2d(image, weight, bias, stride=stride) for image, weight, bias in parts], 1)


def other_layouts() -> list[dict]:
    """A step of the CIFAR network with its convolutions laid out otherwise."""

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
    named = [
        row(f"engine / the same with {name}, one process", values, "x") for name, values in ratios.items()
    ]
    return [*named, row("engine's convolutions / rate of one large convolution", shares, "")]


def readouts() -> list[dict]:
    """DIP, DIPDefend and DDIP off one trace, against DIP alone for as many steps; a trained victim."""
    with TemporaryDirectory() as folder:
        store = Store(folder)
        victim = prepare_victim(config_of("victim=digits-resnet8", "victim"), store).load(store).to(DEVICE)
    batch = BATCH[DEVICE.type]
    images, seeds = images_of(batch), range(batch)
    dip, dipdefend, ddip = (
        config_of(f"purifier={name}", "purifier") for name in ("dip", "dipdefend", "ddip")
    )
    steps = ddip["steps"]
    purifiers = [build(one) for one in ({**dip, "steps": steps}, dipdefend, ddip)]

    def seconds(some: list) -> float:
        start = time.perf_counter()
        purify_together(some, images, seeds=seeds, victim=victim)
        return time.perf_counter() - start

    ratios = [seconds(purifiers) / seconds(purifiers[:1]) for _ in range(3)]
    return [row(f"DIP + DIPDefend + DDIP / DIP alone, {steps} steps", ratios, "x")]


def peak(purifier: str, batch: int, size: int, steps: int) -> float:
    """MiB at most in a process that streams a trace, beyond what it has before."""
    code = (
        "import resource, torch\n"
        "from scripts.bench_engine import *\n"
        "held = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"trace, images, before = trace_of({purifier!r}), images_of({batch}, {size}), held()\n"
        f"trace.stream(images, range({batch}), {steps}, lambda step, images: None)\n"
        "print(torch.cuda.max_memory_allocated() / 2**20 if DEVICE.type == 'cuda' else held() - before)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def memory() -> list[dict]:
    """Peak memory an image, and that it does not grow with the steps."""
    rows, batch = [], BATCH[DEVICE.type]
    for name in PURIFIERS:
        size, few = (224, 2) if name == "ride-imagenet" else (32, 10)
        short, long = (peak(name, batch, size, steps) for steps in (few, 4 * few))
        rows.append(row(f"memory of {name}, {size}x{size}, batch {batch}", [short / batch], "MiB/image"))
        rows.append(row(f"memory of {name}, {4 * few} steps / {few} steps", [long / short], "x"))
    return rows


def main() -> None:
    """Measure, append, print."""
    path = BENCH / f"engine-torch{torch.__version__.split('+')[0]}-{DEVICE.type}-float32.csv"
    BENCH.mkdir(parents=True, exist_ok=True)
    for part in (against_the_plain_loop, other_layouts, readouts, memory):
        frame = pd.DataFrame(part()).assign(date=time.strftime("%Y-%m-%d"), cores=CORES).round(4)
        frame.to_csv(path, mode="a", header=not path.exists(), index=False)
        sys.stdout.write(frame.to_string(index=False, header=part is against_the_plain_loop) + "\n")
        sys.stdout.flush()
    sys.stdout.write(f"written: {path}\n")


if __name__ == "__main__":
    main()
