"""Langevin purification: Hill, Mitchell, Zhu 2021, Stochastic Security: Adversarial Defense Using Long-Run
Dynamics of Energy-Based Models, https://arxiv.org/abs/2005.13525.
"""

import copy
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from data.errors import InputError
from purifiers.denoiser import Denoiser, DenoiserPurifier
from purifiers.diffusion import to_unit
from purifiers.fitting.draws import Draws
from purifiers.purifier import TRIAL_STEPS, Purifier


class EBM(DenoiserPurifier):
    """Many steps of Langevin dynamics, a random walk that visits images as often as they are likely.

    The energy is that of images with a little noise, whose gradient the denoiser gives. The paper instead
    trains a convolutional energy by contrastive divergence, where each of 250,000 batches takes 100 steps of
    the dynamics. The paper's energy is divided by a temperature that makes its step equal to the step here.

    Args:
        denoiser: the shared denoiser.
        steps: number of steps of the dynamics.
        step: standard deviation of the noise of a step, on images in [-1, 1].
        level: noise level of the images that the energy describes, on the same scale.
    """

    version = 1
    stochastic: ClassVar = True
    gradient: ClassVar = "exact"

    def __init__(
        self, *, denoiser: Denoiser, steps: int = 1500, step: float = 0.01, level: float = 0.05
    ) -> None:
        if steps < 1 or not 0 < step <= level:
            raise InputError(
                "purifier: expected steps >= 1 and 0 < step <= level, for longer steps overshoot; "
                f"got {steps}, {step} and {level}"
            )
        super().__init__(denoiser=denoiser)
        self.steps, self.step, self.level = steps, step, level

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images after all steps of the walk, clipped to [0, 1]."""
        draws, x = Draws(seeds, images.device), 2 * images - 1
        for _ in range(self.steps):
            noise = draws.normal(x.shape[1:]).to(x)
            x = x + self.step**2 / 2 * self.score(x, self.level) + self.step * noise
        return to_unit(x)

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with few steps, and how many times longer this one takes."""
        short = copy.copy(self)
        short.steps = min(self.steps, steps)
        return short, self.steps / short.steps
