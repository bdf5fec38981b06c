"""Checks results on a CUDA device: python -m scripts.gpu_checks draws|traces|memory|shortage|...

Each line that begins with BAD is a fault, and then the exit status is 1. To try it, run it with --device cpu.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from data.digits_photos import DigitsPhotos
from data.errors import InputError
from data.memory import memory_ran_out, within_memory
from purifiers.contract import checks
from purifiers.contract.trial import TraitError
from purifiers.fitting.draws import Draws
from purifiers.fitting.engine import WARM_UP, Fit
from purifiers.fitting.trace import Trace
from purifiers.learned import Learned
from runners.config_errors import names_of
from runners.evaluation.component import build
from runners.evaluation.devices import configure_torch
from runners.output import Output
from scripts.bench_engine import config_of
from victims.cifar_resnet import CifarResNet

STEPS = WARM_UP + 10
TRACES = ("ddip", "ddip-printed", "dipdefend-released", "ddip-singh", "ride", "ride-released", "ride-mnist",
          "oag", "oag-autoencoder")  # fmt: skip
console = Output()
faults: list[str] = []


def tell(good: bool, what: str) -> None:
    """Print the outcome of a check, and record it if it is a fault."""
    console.print(f"{'OK ' if good else 'BAD'} {what}", markup=False, soft_wrap=True)
    if not good:
        faults.append(what)


def trace_of(name: str) -> Trace:
    """Return the optimisation of a purifier of configs/purifier; RIDE makes an estimate after a few steps."""
    trace = build(config_of(f"purifier={name}", "purifier")).trace
    return replace(trace, iterations=6) if hasattr(trace, "iterations") else trace


def smooth(count: int, channels: int = 3, size: int = 32) -> Tensor:
    """Return images without edges."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def stream(trace: Trace, images: Tensor, *, eager: bool = False) -> Tensor:
    """Return the reconstructions (steps, B, C, H, W) in float64 on the CPU.

    Args:
        eager: whether steps run without captured graphs.
    """
    reconstructions: list[Tensor] = []
    with patch.object(Fit, "_replay", Fit._step if eager else Fit._replay):
        trace.stream(
            images,
            range(len(images)),
            STEPS,
            lambda step, x: reconstructions.append(x.detach().double().cpu()),
        )
    return torch.stack(reconstructions)


def draws(device: torch.device) -> None:
    """Check that random numbers are those of the CPU."""
    seeds = [0, 1, 2**63 + 5, 2**64 - 1]
    on_cpu, on_device = Draws(seeds, torch.device("cpu")), Draws(seeds, device)
    tell(torch.equal(on_cpu.below(1000, (5000,)), on_device.below(1000, (5000,)).cpu()), "integers are equal")
    tell(torch.equal(on_cpu.chosen(0.3, (9, 99)), on_device.chosen(0.3, (9, 99)).cpu()), "choices are equal")
    off = (on_cpu.normal((3, 50, 50)) - on_device.normal((3, 50, 50)).cpu()).abs().max()
    tell(bool(off < 1e-5), f"normal numbers differ by at most {off:.1e}")


def traces(device: torch.device) -> None:
    """Check that in float64 a captured graph takes the same steps as without a graph and as on the CPU."""
    for name in TRACES:
        trace = trace_of(name)
        images = smooth(3, *((1, 28) if name.endswith("mnist") else (3, 32)))
        start = time.perf_counter()
        graph = stream(trace, images.double().to(device))
        for what, other, most in (
            ("without a graph", stream(trace, images.double().to(device), eager=True), 1e-6),
            ("on the CPU", stream(trace, images.double()), 1e-4),
        ):
            off = (graph - other).abs().max()
            tell(bool(off < most), f"{name}: float64 graph and {what}: {off:.1e}")
        twice = [stream(trace, images.to(device)) for _ in range(2)]
        off = (twice[0] - twice[1]).abs().max()
        seconds = time.perf_counter() - start
        tell(bool(off == 0), f"{name}: float32 twice: {off:.1e}; {seconds:.1f} s")


def memory(device: torch.device) -> None:
    """Check that a fit releases its memory even if the garbage collector is switched off."""
    trace = trace_of("ddip")
    gc.disable()
    for batch in (64, 256, 256, 128):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trace.stream(smooth(batch).to(device), range(batch), STEPS, lambda step, x: None)
        peak = torch.cuda.max_memory_allocated() / 2**20 / batch
        kept = (torch.cuda.memory_allocated() - before) / 2**20
        tell(kept < 1, f"batch {batch}: {peak:.1f} MiB an image at most, {kept:.1f} MiB kept after the fit")


def shortage(device: torch.device) -> None:
    """Check that a batch is halved if memory is too small for it, and that no image is lost."""
    torch.cuda.set_per_process_memory_fraction(0.02)
    trace, images = trace_of("ddip"), smooth(512)

    def work(part: slice) -> Tensor:
        return stream(trace, images[part].to(device))[-1]

    parts, batch = within_memory(work, 512, 512)
    tell(batch < 512 and len(torch.cat(parts)) == 512, f"a batch of 512 was halved to {batch}")
    tell(within_memory(work, 512, batch)[1] == batch, "and the same batch fits again")


def shortage_in_capture(device: torch.device) -> None:
    """Check that running out of memory during a capture is recognised, and that the process goes on."""
    trace, images, step = trace_of("ddip"), smooth(16).to(device), Fit._step

    def hungry(fit: Fit) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**42, device=device)
        return step(fit)

    try:
        with patch.object(Fit, "_step", hungry):
            stream(trace, images)
        tell(False, "no error where memory ended in a capture")
    except (RuntimeError, MemoryError) as error:
        tell(memory_ran_out(error), f"in a capture: {type(error).__name__}, {str(error).splitlines()[0]}")
    tell(bool(stream(trace, images).isfinite().all()), "the process goes on after it")


def contract(device: torch.device) -> None:
    """Check that every purifier keeps its contract; learned networks have untrained weights."""
    torch.manual_seed(0)
    victim = CifarResNet(depth=8).eval().requires_grad_(False).to(device)
    photos = DigitsPhotos().load("tuning").images[:8].to(device)
    for name in names_of("purifier"):
        if name == "surrogate-victim" or "imagenet" in name or "mnist" in name:
            continue
        start = time.perf_counter()
        try:
            purifier = build(config_of(f"purifier={name}", "purifier"))
            inside = getattr(purifier, "purifier", purifier)
            if isinstance(inside, Learned):
                inside.load_frozen(inside.network.state_dict())
            checks.check(purifier, photos, victim)
            tell(True, f"{name}: {time.perf_counter() - start:.1f} s")
        except InputError as error:
            console.print(f"    {name}: not tried: {error}", markup=False)
        except (TraitError, RuntimeError) as error:
            tell(False, f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")


def decisions(folders: list[Path]) -> None:
    """Check that the victim's decisions agree on the results of two devices for the same images."""
    both = [
        pd.concat(map(pd.read_parquet, sorted(folder.glob("*.parquet")))).set_index("id")
        for folder in folders
    ]
    joined = both[0].join(both[1], rsuffix="_other", how="inner")
    for name, least in (("adversarial_label", 1.0), ("purified_label", 0.85)):
        share = (joined[name] == joined[f"{name}_other"]).mean()
        tell(bool(share >= least), f"{name}: {share:.3f} of {len(joined)} equal, expected {least} or more")


CHECKS: dict[str, Callable[[torch.device], None]] = {
    check.__name__: check for check in (draws, traces, memory, shortage, shortage_in_capture, contract)
}


def main() -> None:
    """Run one of the checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("check", choices=[*CHECKS, decisions.__name__])
    parser.add_argument("folders", nargs="*", type=Path, help="of records, for decisions")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tf32", action="store_true")
    arguments = parser.parse_args()
    if arguments.check == decisions.__name__:
        decisions(arguments.folders)
    else:
        CHECKS[arguments.check](configure_torch(arguments.device, tf32=arguments.tf32))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
