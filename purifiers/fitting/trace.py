"""A trace: the reconstructions along one optimisation, streamed to all readouts that use them."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.similarity import ssim
from purifiers.fitting.engine import Fit, Observer
from purifiers.purifier import TRIAL_STEPS, Purifier


@dataclass(frozen=True)
class Iterate:
    """The reconstructions (B, C, H, W) after `step` updates, and values that readouts need.

    A value that is computed for one readout is kept for the others. Readouts only base decisions on these
    values, so none of them has a gradient.
    """

    step: int
    images: Tensor
    targets: Tensor
    victim: nn.Module | None

    @cached_property
    @torch.no_grad()
    def psnr(self) -> Tensor:
        """The (B,) peak signal-to-noise ratios to the target in dB, over the worst 32x32 tile.

        This is DIPDefend's criterion. An image of at most 32x32 pixels is one tile, and a remainder
        that does not fill a tile counts as a tile.
        """
        squared = (self.images - self.targets).square().mean(1, keepdim=True)
        tiles = nn.functional.avg_pool2d(
            squared, kernel_size=(min(32, squared.shape[2]), min(32, squared.shape[3])),
            stride=32, ceil_mode=True, count_include_pad=False,
        )  # fmt: skip
        return -10 * tiles.flatten(1).amax(1).clamp_min(1e-12).log10()

    @cached_property
    @torch.no_grad()
    def ssim(self) -> Tensor:
        """The (B,) structural similarities to the target."""
        return ssim(self.images, self.targets)

    @cached_property
    @torch.no_grad()
    def labels(self) -> Tensor:
        """The (B,) decisions of the victim."""
        return self.victim(self.images).argmax(1)


class Readout(Protocol):
    """A reader of a trace of many images, which returns one result for each image."""

    def see(self, iterate: Iterate) -> None:
        """Read the reconstructions of a step; called for each step in turn, from 0, before its update."""
        ...

    def result(self) -> Tensor:
        """Return the results (B, C, H, W) after the trace has ended."""
        ...


class TracePurifier(Purifier):
    """A purifier that computes its result from the first `steps` reconstructions of a trace.

    Attributes:
        reads_last: whether the result is the last reconstruction, so that a gradient through the last steps
            of the trace does not need the steps before them.
        crosses: whether the readout finds images on the victim's decision boundary, and returns them by
            its method `boundary`.
    """

    stochastic = True
    per_image_optimization = True
    reads_last: ClassVar[bool] = False
    crosses: bool = False

    def __init__(self, *, trace: "Trace", steps: int) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise InputError(f"purifier.steps: expected a whole number of at least 1, got {steps}")
        self.trace, self.steps = trace, steps
        self.gradient = "unrolled" if isinstance(trace, FitTrace) else "bpda"

    @abstractmethod
    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Return a new readout for these images."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Run one optimisation for this purifier alone."""
        return self.trace.run([self], images, seeds, victim)[0]

    def shared_run(self) -> "Trace":
        """Return the optimisation. The purifier with the most steps sets its length."""
        return self.trace

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with few iterations, and how many times longer this one takes.

        The readout costs little in comparison with the iterations.
        """
        short = copy.copy(self)
        short.steps = min(self.steps, steps)
        return short, self.steps / short.steps


class Newest:
    """Keeps the newest reconstructions."""

    images: Tensor

    def see(self, iterate: Iterate) -> None:
        """Replace the stored reconstructions."""
        self.images = iterate.images

    def result(self) -> Tensor:
        """Return the newest reconstructions."""
        return self.images


class Trace(ABC):
    """An optimisation that makes reconstructions. A subclass is a frozen dataclass of its settings.

    Purifiers with equal traces share one run.
    """

    version: ClassVar[int] = 2  # raised when the engine, a network or a readout's input changes results

    @abstractmethod
    def stream(self, images: Tensor, seeds: Sequence[int], steps: int, observe: Observer) -> None:
        """Call `observe` with each number from 0 to steps - 1, and the reconstructions (B, C, H, W) after
        that many updates."""

    def run(
        self,
        purifiers: Sequence[TracePurifier],
        images: Tensor,
        seeds: Sequence[int],
        victim: nn.Module | None,
    ) -> list[Tensor]:
        """Run one optimisation, and return each purifier's result from its own number of steps."""
        readouts = [p.readout(images, victim if p.uses_victim else None) for p in purifiers]

        def observe(step: int, reconstructions: Tensor) -> None:
            iterate = Iterate(step, reconstructions, images, victim)
            for purifier, readout in zip(purifiers, readouts, strict=True):
                if step < purifier.steps:
                    readout.see(iterate)

        self.stream(images, seeds, max(p.steps for p in purifiers), observe)
        return [readout.result() for readout in readouts]


class FitTrace(Trace):
    """A trace that is a single fit, whose steps depend on the images only through their loss.

    Such a trace can be differentiated through its steps (purifiers/fitting/unrolled.py).
    """

    @abstractmethod
    def fit(self, images: Tensor, seeds: Sequence[int]) -> Fit:
        """Return the fit before its first step. It learns only its networks' parameters."""

    def stream(self, images: Tensor, seeds: Sequence[int], steps: int, observe: Observer) -> None:
        """Call `observe` with the reconstructions of the fit before each of its updates."""
        self.fit(images, seeds).run(steps, observe)
