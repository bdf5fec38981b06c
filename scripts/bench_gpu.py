"""Times the engine's layers on a CUDA device: python -m scripts.bench_gpu engine|layers|profile

Rows are appended to results/bench/cuda/engine-*.csv and layers-*.csv. To try it, run it with --device cpu
--batch 2.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor

from data.memory import memory_ran_out
from purifiers.fitting.draws import Draws
from purifiers.fitting.engine import WARM_UP
from purifiers.fitting.stack import STACKS, ProductStack, Stack
from runners.evaluation.devices import configure_torch
from runners.output import Output
from scripts.gpu_checks import smooth, trace_of
from scripts.other_ways import plain_dip

RESULTS = Path("results/bench/cuda")
WAYS = {way.convolution: way for way in (Stack, ProductStack)}
STEPS, FIRST = 60, WARM_UP + 7  # number of steps, and of those before the first that is timed
LAYERS = {  # layers of the CIFAR-10 network: channels in and out, kernel, stride, side of the input
    "up0": (35, 32, 3, 1, 32), "down0": (32, 32, 3, 1, 16), "mix0": (32, 32, 1, 1, 32),
    "down2": (32, 32, 3, 1, 4), "shrink1": (32, 32, 3, 2, 16),
}  # fmt: skip
console = Output()


def append(name: str, row: dict, device: torch.device, *, tf32: bool) -> None:
    """Print a row, and append it to a file."""
    console.print(row, markup=False)
    precision = "tf32" if tf32 else "float32"
    path = RESULTS / f"{name}-torch{torch.__version__.partition('+')[0]}-{device.type}-{precision}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    old = pd.read_csv(path) if path.exists() else pd.DataFrame()
    pd.concat([old, pd.DataFrame([row])]).to_csv(path, index=False)


def finish(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_of(way: str, batch: int, device: torch.device) -> dict[str, float]:
    """Return the milliseconds of a step of DDIP's network, the seconds to the first replay, and memory."""
    images, marks = smooth(batch).to(device), {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def observe(step: int, made: Tensor) -> None:
        if step in (WARM_UP, FIRST, STEPS - 1):
            finish(device)
            marks[step] = time.perf_counter()

    start = time.perf_counter()
    with patch.dict(STACKS, {device.type: WAYS[way]}):
        trace_of("ddip").stream(images, range(batch), STEPS, observe)
    row = {
        "ms": (marks[STEPS - 1] - marks[FIRST]) / (STEPS - 1 - FIRST) * 1e3,
        "seconds_to_first_replay": marks[WARM_UP] - start,
    }
    if device.type == "cuda":
        row["mib_an_image"] = torch.cuda.max_memory_allocated() / 2**20 / batch
    return row


def engine(asked: argparse.Namespace, device: torch.device) -> None:
    """Measure every implementation with every batch, and a plain loop over one image."""
    for way, batch in itertools.product(asked.ways, asked.batch):
        row = {"way": way, "batch": batch}
        try:
            if way == "plain":
                row |= {"batch": 1, "ms": plain_dip(smooth(1).to(device), STEPS) * 1e3}
            else:
                row |= step_of(way, batch, device)
        except (RuntimeError, MemoryError) as error:
            if not memory_ran_out(error):
                raise
            row["error"] = "out of memory"
        append("engine", row, device, tf32=asked.tf32)
        if way == "plain":
            break


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Return the median milliseconds of some calls, after three warm-up calls."""
    times = []
    for i in range(repeats + 3):
        finish(device)
        start = time.perf_counter()
        work()
        finish(device)
        if i >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def layers(asked: argparse.Namespace, device: torch.device) -> None:
    """Measure each convolution of the network in both implementations, forward and with gradients, and one
    large matrix product."""
    batch, size = asked.batch[0], 8192 if device.type == "cuda" else 256
    square = torch.randn(size, size, device=device)
    ms = milliseconds(lambda: square @ square, device, 5)
    row = {"layer": f"product of {size}", "way": "matmul", "ms": ms, "tflops": 2 * size**3 / ms / 1e9}
    append("layers", row, device, tf32=asked.tf32)
    for (layer, (inputs, outputs, k, stride, side)), way in itertools.product(LAYERS.items(), WAYS):
        stack = WAYS[way](batch, Draws(range(batch), device))
        x = stack.beside(torch.randn(batch, inputs, side, side, device=device)).requires_grad_()
        w = stack.laid_out(torch.randn(batch * outputs, inputs, k, k, device=device)).requires_grad_()

        def forward(stack: Stack = stack, x: Tensor = x, w: Tensor = w, stride: int = stride) -> Tensor:
            return stack.conv(x, w, stride=stride, padding="reflect")

        output = forward()
        at = torch.randn_like(output)

        def backward(forward: Callable[[], Tensor] = forward, x: Tensor = x, w: Tensor = w, at: Tensor = at):
            return torch.autograd.grad(forward(), (x, w), at)

        flops = 2 * k * k * inputs * output.numel()
        for what, work, times in (("forward", forward, 1), ("forward and backward", backward, 3)):
            ms = milliseconds(work, device)
            row = {"layer": layer, "way": f"{way}, {what}", "ms": ms, "tflops": times * flops / ms / 1e9}
            append("layers", row, device, tf32=asked.tf32)


def profile(asked: argparse.Namespace, device: torch.device) -> None:
    """Print the kernels of three replayed steps, sorted by their time."""
    activities, order = [torch.profiler.ProfilerActivity.CPU], "self_cpu_time_total"
    if device.type == "cuda":
        activities, order = [torch.profiler.ProfilerActivity.CUDA], "self_device_time_total"
    for way in WAYS:
        profiler = torch.profiler.profile(activities=activities)

        def observe(step: int, made: Tensor, profiler: torch.profiler.profile = profiler) -> None:
            finish(device)
            if step == FIRST:
                profiler.start()
            if step == FIRST + 3:
                profiler.stop()

        images = smooth(asked.batch[0]).to(device)
        with patch.dict(STACKS, {device.type: WAYS[way]}):
            trace_of("ddip").stream(images, range(len(images)), FIRST + 4, observe)
        table = profiler.key_averages().table(sort_by=order, row_limit=28)
        console.print(f"{way}\n{table}", markup=False, soft_wrap=True)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["engine", "layers", "profile"])
    parser.add_argument("--batch", type=int, nargs="+", default=[256])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, "plain"], default=[*WAYS, "plain"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tf32", action="store_true")
    arguments = parser.parse_args()
    what = {"engine": engine, "layers": layers, "profile": profile}[arguments.what]
    what(arguments, configure_torch(arguments.device, tf32=arguments.tf32))


if __name__ == "__main__":
    main()
