"""Hedge defense: Wu et al. 2021, Attacking Adversarial Attacks as A Defense,
https://arxiv.org/abs/2106.04938. A control: it knows no more than the victim does.
"""

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.images import clipped
from purifiers.fitting.draws import Draws
from purifiers.purifier import TRIAL_STEPS, Purifier
from purifiers.victim_gradient import gradient_of

PLACES = 2**31  # number of values of a uniform draw


class Hedge(Purifier):
    """Takes signed steps, from a random start, that raise the sum of the cross-entropies of all classes.

    What is added to the image is constant around almost every image, so the exact gradient is that of the
    victim at the purified image.

    Args:
        steps: number of steps.
        size: size of a step.
        eps: largest change of a value.
    """

    version = 1
    stochastic: ClassVar = True
    gradient: ClassVar = "exact"
    uses_victim: ClassVar = True

    def __init__(self, *, steps: int = 20, size: float = 4 / 255, eps: float = 8 / 255) -> None:
        if steps < 1 or size <= 0 or eps <= 0:
            raise InputError(
                f"purifier: expected steps >= 1, size > 0 and eps > 0, got {steps}, {size} and {eps}"
            )
        self.steps, self.size, self.eps = steps, size, eps

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with one step, and how many times longer this one takes.

        With a nearly linear victim, the result of many steps no longer depends on the random start.
        """
        short = copy.copy(self)
        short.steps = 1
        return short, float(self.steps)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images, moved by at most eps and clipped to [0, 1]."""
        x = images.detach()
        place = Draws(seeds, images.device).below(PLACES, images.shape[1:]).to(x) / PLACES
        moved = self.eps * (2 * place - 1)
        for _ in range(self.steps):
            uphill = gradient_of(lambda x: -F.log_softmax(victim(x), 1).sum(), clipped(x + moved))
            moved = (moved + self.size * uphill.sign()).clamp(-self.eps, self.eps)
            moved = clipped(x + moved) - x
        return clipped(images + moved)
