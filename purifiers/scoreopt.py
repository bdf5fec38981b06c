"""ScoreOpt: Zhang et al. 2023, Enhancing Adversarial Robustness via Score-Based Optimization,
https://arxiv.org/abs/2307.04333, and likelihood maximisation: Chen et al. 2024, Robust Classification via a
Single Diffusion Model, https://arxiv.org/abs/2305.15241.
"""

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from data.errors import InputError
from purifiers.denoiser import Denoiser, DenoiserPurifier
from purifiers.diffusion import to_unit
from purifiers.fitting.draws import Draws
from purifiers.purifier import TRIAL_STEPS, Purifier

PLACES = 2**31  # number of values of a uniform draw
# Adam's eps for the mean error of one image. The authors' code also takes the mean over a batch, for which
# PyTorch's 1e-8 does the same with 100 images. With a smaller eps, a pixel whose gradient is only rounding
# moves as far as all others.
EPS = 1e-6


class ScoreOpt(DenoiserPurifier):
    """Optimises the pixels until adding noise and denoising gives them back.

    Each step of Adam draws noise and its level, and lowers the squared error between the denoised image and
    the image, both of which depend on the pixels. If the estimate is the true expectation, this raises a
    lower bound of the image's likelihood, which is how Chen et al. derive the same method.

    Args:
        denoiser: the shared denoiser.
        level: middle of the noise levels that are drawn, for images in [-1, 1].
        reach: largest distance of a drawn noise level from `level`; levels are drawn uniformly.
        steps: number of Adam's steps.
        lr: Adam's learning rate, for images in [-1, 1].
    """

    version = 1
    stochastic: ClassVar = True

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        level: float = 0.25,
        reach: float = 0.1,
        steps: int = 20,
        lr: float = 0.01,
    ) -> None:
        if not 0 <= reach < level:
            raise InputError(f"purifier: expected 0 <= reach < level, got {reach} and {level}")
        if steps < 1 or lr <= 0:
            raise InputError(f"purifier: expected steps >= 1 and lr > 0, got {steps} and {lr}")
        super().__init__(denoiser=denoiser)
        self.level, self.reach, self.steps, self.lr = level, reach, steps, lr

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the optimised images, clipped to [0, 1]."""
        draws = Draws(seeds, images.device)
        with torch.enable_grad():
            x = (2 * images.detach() - 1).requires_grad_()
            optimiser = torch.optim.Adam([x], lr=self.lr, eps=EPS)
            for _ in range(self.steps):
                place = draws.below(PLACES, (1, 1, 1)).to(x) / PLACES
                levels = self.level + self.reach * (2 * place - 1)
                noise = draws.normal(x.shape[1:]).to(x)
                error = self.denoised(x + levels * noise, levels.flatten()) - x
                loss = error.square().flatten(1).mean(1).sum()  # a sum, so each image is optimised by itself
                (x.grad,) = torch.autograd.grad(loss, [x])
                optimiser.step()
        return to_unit(x.detach())

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with one short step, and how many times longer this one takes.

        In more or longer steps, Adam enlarges rounding errors of the gradient, so that results differ a
        little from batch to batch.
        """
        short = copy.copy(self)
        short.steps, short.lr = 1, min(self.lr, 0.01)
        return short, float(self.steps)
