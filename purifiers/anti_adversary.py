"""Anti-adversaries: Alfarra et al. 2022, Combating Adversaries with Anti-Adversaries,
https://arxiv.org/abs/2103.14347. A control: it only makes the victim surer of what it predicts.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.images import clipped
from purifiers.purifier import Purifier
from purifiers.victim_gradient import gradient_of


class AntiAdversary(Purifier):
    """Takes signed steps that lower the cross-entropy of the victim's own prediction.

    The steps are constant around almost every image, so the exact gradient is that of the victim at the
    purified image.

    Args:
        steps: number of steps.
        size: size of a step, in units of the victim's normalised input.
    """

    version = 1
    gradient: ClassVar = "exact"
    uses_victim: ClassVar = True

    def __init__(self, *, steps: int = 2, size: float = 0.15) -> None:
        if steps < 1 or size <= 0:
            raise InputError(f"purifier: expected steps >= 1 and size > 0, got {steps} and {size}")
        self.steps, self.size = steps, size

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images after all steps, clipped to [0, 1]."""
        x = images.detach()
        size = self.size * getattr(victim, "std", torch.ones(1)).to(x)
        with torch.no_grad():
            predicted = victim(x).argmax(1)
        moved = torch.zeros_like(x)
        for _ in range(self.steps):
            moved = (
                moved
                - size
                * gradient_of(
                    lambda x: F.cross_entropy(victim(x), predicted, reduction="sum"), x + moved
                ).sign()
            )
        return clipped(images + moved)
