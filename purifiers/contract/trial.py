"""A purifier on a few images with a victim: what comes out, and what its calls touch."""

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

# A convolution may round otherwise for another batch. TF32 keeps 10 bits of each factor.
ROUNDING = {"float32": 2e-6, "tf32": 1e-2}
# Adam's first steps, which are as long for a gradient that is only rounding, make up to 0.2 of that in some
# values of some images: so on a CPU a fit must round alike. On CUDA sums have no promised order. The bounds
# there are above what noise in every gradient, of 1e-6 and of 1e-3, makes of six steps (docs/gpu.md).
ROUNDING_OF_A_FIT = {"cpu": {"float32": 0.0}, "cuda": {"float32": 5e-3, "tf32": 3e-2}}


class TraitError(RuntimeError):
    """A purifier does not hold what it declares; the cells that it belongs to fail."""

    def __init__(self, check: str, *, expected: str, came: str) -> None:
        super().__init__(f"{check}: expected {expected}, got {came}")
        self.check = check


@dataclass
class Trial:
    """A purifier on a few images with a victim, and what is known of it so far.

    Args:
        purifier: it may be a short copy (`Purifier.shortened`).
        images: (N, C, H, W) in [0, 1], N at least 4, no two alike.
        victim: frozen, on the images' device.
    """

    purifier: Purifier
    images: Tensor
    victim: nn.Module
    lent: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # tensors, and what they must stay

    def __post_init__(self) -> None:
        # A draw from each global generator: who seeds it as a trial before did would leave it as it was.
        random.random(), np.random.random(), torch.rand(1), torch.rand(1, device=self.images.device)
        self.before = touchable(self.victim), generators(self.images.device), settings()

    @property
    def seeds(self) -> list[int]:
        """One an image."""
        return list(range(1, 1 + len(self.images)))

    @property
    def others(self) -> tuple[Tensor, list[int]]:
        """As many other images, and other seeds."""
        return self.images.flip(0, 3), [seed + 1000 for seed in self.seeds]

    @property
    def rounding(self) -> float:
        """What two calls of one kind of device may differ by."""
        return (
            ROUNDING_OF_A_FIT[self.images.device.type][self.precision]
            if self.per_image_optimization
            else ROUNDING[self.precision]
        )

    @property
    def precision(self) -> str:
        """How products are computed: "tf32" only on CUDA, where it is allowed."""
        return "tf32" if self.images.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "float32"

    @property
    def repeatable(self) -> float:
        """What the same call twice may differ by: nothing, but for fits on CUDA."""
        return self.rounding if self.per_image_optimization else 0.0

    @property
    def per_image_optimization(self) -> bool:
        """Whether a network is fitted to each image."""
        return self.purifier.per_image_optimization

    def off(self, expected: Tensor, came: Tensor) -> float:
        """How far two results are apart: their largest difference; of fits on CUDA, which make some images'
        rounding large, the mean difference of the image that differs least."""
        off = (came - expected).abs().flatten(1)
        return (off.mean(1).min() if self.per_image_optimization and off.is_cuda else off.max()).item()

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """The result, as a cell gets it."""
        try:
            result = self.purifier(images, seeds=seeds, victim=self.victim)
        except PurifierError as error:
            raise TraitError(error.check, expected=error.expected, came=error.came) from error
        kept = result.detach().clone()
        self.lent.append((result, kept))
        return kept

    @cached_property
    def first(self) -> Tensor:
        """Of the images, with their seeds."""
        return self(self.images, self.seeds)

    @cached_property
    def bare(self) -> Tensor:
        """The same once more, of a tensor that nothing shields; `wrote` tells whether it was written to."""
        given = self.images.clone()
        made = self.purifier.purify(given, self.seeds, self.victim if self.purifier.uses_victim else None)
        self.wrote = not torch.equal(given, self.images)
        self.lent.append((given, self.images.clone()))
        return clipped(made.detach()).clone()

    def changed(self) -> list[str]:
        """What of the victim is not as it was before the first call."""
        return differences(self.before[0], touchable(self.victim, copied=False))

    def drawn(self) -> list[str]:
        """The global generators that are not as they were before the first call."""
        return differences(self.before[1], generators(self.images.device))

    def altered(self) -> list[str]:
        """The settings of torch that are not as they were before the first call."""
        return differences(self.before[2], settings())


def inside(purifier: Purifier) -> Purifier:
    """The purifier itself, or the one that it wraps."""
    within = getattr(purifier, "purifier", None)
    return inside(within) if isinstance(within, Purifier) else purifier


def in_float64(component: Any) -> Any:
    """A copy of a purifier or a victim that computes in float64; other things as they are."""
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
