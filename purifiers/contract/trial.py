"""A trial of a purifier on a few images with a victim: its results, and what its calls change."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.frozen import differences, touchable
from data.images import clipped
from data.process_state import generators, settings
from purifiers.purifier import Purifier, PurifierError

# A convolution may round differently for another batch. TF32 keeps 10 bits of each factor.
ROUNDING = {"float32": 2e-6, "tf32": 1e-2}
# Adam's first steps are full steps even for a gradient that is only rounding, which can change some values of
# some images by up to 0.2. A fit on a CPU must therefore always round alike. On CUDA the order of sums is not
# defined. The bounds there are above the effect that noise of 1e-6 (float32) and of 1e-3 (TF32) in every
# gradient has on six steps (docs/gpu.md).
ROUNDING_OF_A_FIT = {"cpu": {"float32": 0.0}, "cuda": {"float32": 5e-3, "tf32": 3e-2}}


class TraitError(RuntimeError):
    """Raised when a purifier breaks a promise or is not what it declares; its cells fail."""

    def __init__(self, check: str, *, expected: str, came: str) -> None:
        super().__init__(f"{check}: expected {expected}, got {came}")
        self.check = check


@dataclass
class Trial:
    """A purifier on a few images with a victim, and what is known about it so far.

    Args:
        purifier: the purifier, which may be a short copy (`Purifier.shortened`).
        images: images (N, C, H, W) in [0, 1]; N is at least 4, and no two images are equal.
        victim: the frozen victim, on the images' device.
    """

    purifier: Purifier
    images: Tensor
    victim: nn.Module
    lent: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # tensors, and their copies

    def __post_init__(self) -> None:
        # Draw from each global generator, so that seeding it as in an earlier trial changes its state.
        random.random(), np.random.random(), torch.rand(1), torch.rand(1, device=self.images.device)
        self.before = touchable(self.victim), generators(self.images.device), settings()

    @property
    def seeds(self) -> list[int]:
        """The seeds of the images."""
        return list(range(1, 1 + len(self.images)))

    @property
    def others(self) -> tuple[Tensor, list[int]]:
        """The same number of other images, and other seeds."""
        return self.images.flip(0, 3), [seed + 1000 for seed in self.seeds]

    @property
    def rounding(self) -> float:
        """The largest allowed difference between two calls with other batches on one kind of device."""
        return (
            ROUNDING_OF_A_FIT[self.images.device.type][self.precision]
            if self.per_image_optimization
            else ROUNDING[self.precision]
        )

    @property
    def precision(self) -> str:
        """The precision of products: "tf32" on CUDA if torch allows it, otherwise "float32"."""
        return "tf32" if self.images.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "float32"

    @property
    def repeatable(self) -> float:
        """The largest allowed difference between two equal calls: 0 except for fits on CUDA."""
        return self.rounding if self.per_image_optimization else 0.0

    @property
    def per_image_optimization(self) -> bool:
        """Whether a network is fitted to each image."""
        return self.purifier.per_image_optimization

    def off(self, expected: Tensor, came: Tensor) -> float:
        """Return the largest difference between two results. For fits on CUDA, which enlarge the rounding of
        some images, return the mean difference of the image that differs least."""
        off = (came - expected).abs().flatten(1)
        return (off.mean(1).min() if self.per_image_optimization and off.is_cuda else off.max()).item()

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the purified images as a cell gets them; raise TraitError if they break the contract."""
        try:
            result = self.purifier(images, seeds=seeds, victim=self.victim)
        except PurifierError as error:
            raise TraitError(error.check, expected=error.expected, came=error.came) from error
        kept = result.detach().clone()
        self.lent.append((result, kept))
        return kept

    @cached_property
    def first(self) -> Tensor:
        """The result for the images with their seeds."""
        return self(self.images, self.seeds)

    @cached_property
    def bare(self) -> Tensor:
        """The same result of a direct call of `purify`; `wrote` says whether it wrote into its input."""
        given = self.images.clone()
        purified = self.purifier.purify(given, self.seeds, self.victim if self.purifier.uses_victim else None)
        self.wrote = not torch.equal(given, self.images)
        self.lent.append((given, self.images.clone()))
        return clipped(purified.detach()).clone()

    def changed(self) -> list[str]:
        """Return the parts of the victim that differ from those before the first call."""
        return differences(self.before[0], touchable(self.victim, copied=False))

    def drawn(self) -> list[str]:
        """Return the global generators whose state differs from that before the first call."""
        return differences(self.before[1], generators(self.images.device))

    def altered(self) -> list[str]:
        """Return the settings of torch that differ from those before the first call."""
        return differences(self.before[2], settings())


def inside(purifier: Purifier) -> Purifier:
    """Return the innermost purifier of a wrapper, or the purifier itself if it is not a wrapper."""
    within = getattr(purifier, "purifier", None)
    return inside(within) if isinstance(within, Purifier) else purifier


def in_float64(component: Any) -> Any:
    """Return a copy of a purifier or a victim that computes in float64; other objects are returned as is."""
    if isinstance(component, nn.Module):
        return copy.deepcopy(component).double()
    if isinstance(component, Tensor):
        return component.double() if component.is_floating_point() else component
    if not isinstance(component, Purifier):
        return component
    copied = copy.copy(component)
    for name, item in vars(component).items():
        setattr(copied, name, in_float64(item))
    return copied
