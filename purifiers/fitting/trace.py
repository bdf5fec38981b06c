"""A trace: the reconstructions along one optimisation, streamed to all that read from it."""

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
    """The reconstructions (B, C, H, W) after `step` updates, and what readouts ask of them.

    What is computed for one readout is there for the others. Readouts take their decisions by these values,
    so none of them has a gradient.
    """

    step: int
    images: Tensor
    targets: Tensor
    victim: nn.Module | None

    @cached_property
    @torch.no_grad()
    def psnr(self) -> Tensor:
        """(B,) peak signal-to-noise ratio to the target in dB, over the worst 32x32 tile.

        DIPDefend's criterion; an image of at most 32x32 is one tile, and a remainder that fills no
        tile counts as a tile.
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
        """Return the (B,) structural similarity to the target."""
        return ssim(self.images, self.targets)

    @cached_property
    @torch.no_grad()
    def labels(self) -> Tensor:
        """Return the (B,) decisions of the victim."""
        return self.victim(self.images).argmax(1)


class Readout(Protocol):
    """Watches a trace of many images and gives one result for each."""

    def see(self, iterate: Iterate) -> None:
        """Called for each step in turn, from 0, before its update."""
        ...

    def result(self) -> Tensor:
        """Return the result (B, C, H, W) after the trace has ended."""
        ...


class TracePurifier(Purifier):
    """A purifier that reads its result off the first `steps` reconstructions of a trace.

    Attributes:
        reads_last: the result is the last reconstruction, so that a gradient through the last steps of the
            trace needs nothing of the steps before them.
        crosses: its readout finds images on the victim's decision boundary, and has them as `boundary`.
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
        """The optimisation; the longest of those who share it sets its length."""
        return self.trace

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """The same with few iterations; reading them off costs little beside them."""
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
    """An optimisation that makes reconstructions; a frozen dataclass of its settings.

    Two purifiers of equal traces share one run.
    """

    version: ClassVar[int] = 2  # raised when the engine, a network or a readout's input changes results

    @abstractmethod
    def stream(self, images: Tensor, seeds: Sequence[int], steps: int, observe: Observer) -> None:
        """Call `observe` with 0 to steps - 1 and the reconstructions (B, C, H, W) after as many updates."""

    def run(
        self,
        purifiers: Sequence[TracePurifier],
        images: Tensor,
        seeds: Sequence[int],
        victim: nn.Module | None,
    ) -> list[Tensor]:
        """One optimisation; each purifier sees its own number of steps of it."""
        readouts = [p.readout(images, victim if p.uses_victim else None) for p in purifiers]

        def observe(step: int, reconstructions: Tensor) -> None:
            iterate = Iterate(step, reconstructions, images, victim)
            for purifier, readout in zip(purifiers, readouts, strict=True):
                if step < purifier.steps:
                    readout.see(iterate)

        self.stream(images, seeds, max(p.steps for p in purifiers), observe)
        return [readout.result() for readout in readouts]


class FitTrace(Trace):
    """A trace that is a single fit, whose steps see the images only through their loss.

    Such a trace can be differentiated through its steps (purifiers/fitting/unrolled.py).
    """

    @abstractmethod
    def fit(self, images: Tensor, seeds: Sequence[int]) -> Fit:
        """The fit, before its first step; its networks' parameters are all that it learns."""

    def stream(self, images: Tensor, seeds: Sequence[int], steps: int, observe: Observer) -> None:
        """Yield the reconstructions of the fit before each of its updates."""
        self.fit(images, seeds).run(steps, observe)
