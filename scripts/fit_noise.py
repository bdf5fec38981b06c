"""Measures the effect of rounding on the first steps of a fit: python -m scripts.fit_noise

Noise of a relative size is added to every gradient. The command prints the mean difference of the image that
differs least, as in the contract checks on CUDA, and the same difference for other seeds. The bounds of
purifiers/contract/trial.py are based on it (docs/gpu.md).
"""

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from data.digits_photos import DigitsPhotos
from purifiers.contract.checks import STEPS
from purifiers.fitting.trace import Trace
from runners.evaluation.component import build
from runners.evaluation.devices import configure_torch
from runners.output import Output
from scripts.bench_engine import config_of

PURIFIERS = ("ddip", "dipdefend-released", "ddip-singh", "ride", "ride-released", "oag", "oag-autoencoder")


def last(trace: Trace, images: Tensor, first_seed: int, noise: float) -> Tensor:
    """Return the reconstructions before the last step of a fit with noise in every gradient."""
    reconstructions: list[Tensor] = []
    drawn = torch.Generator().manual_seed(0)

    def disturb(optimiser: torch.optim.Optimizer, *_: object) -> None:
        for group in optimiser.param_groups:
            for leaf in group["params"]:
                size = leaf.grad.abs()
                leaf.grad += noise * (size + size.mean()) * torch.randn(leaf.shape, generator=drawn)

    hook = register_optimizer_step_pre_hook(disturb)
    try:
        seeds = range(first_seed, first_seed + len(images))
        trace.stream(images, seeds, STEPS, lambda _, made: reconstructions.append(made.clone()))
    finally:
        hook.remove()
    return reconstructions[-1]


def main() -> None:
    """Print a line for each purifier."""
    configure_torch("cpu", tf32=False)
    console, images = Output(), DigitsPhotos().load("tuning").images[:4]
    for name in PURIFIERS:
        trace = build(config_of(f"purifier={name}", "purifier")).trace
        expected = last(trace, images, 1, 0.0)
        others = {
            "noise 1e-6": last(trace, images, 1, 1e-6),
            "noise 1e-3": last(trace, images, 1, 1e-3),
            "other seeds": last(trace, images, 1001, 0.0),
        }
        off = {what: (result - expected).abs().flatten(1).mean(1).min() for what, result in others.items()}
        console.print(f"{name}: " + ", ".join(f"{what} {value:.0e}" for what, value in off.items()))


if __name__ == "__main__":
    main()
