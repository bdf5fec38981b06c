"""ADP: Yoon, Hwang, Lee 2021, Adversarial Purification with Score-based Generative Models,
https://arxiv.org/abs/2106.06041.
"""

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from data.errors import InputError
from data.images import clipped
from purifiers.denoiser import Denoiser, DenoiserPurifier
from purifiers.fitting.draws import Draws
from purifiers.purifier import TRIAL_STEPS, Purifier

SMALLEST, LARGEST = 1e-5, 0.1  # step sizes
TINY = 1e-12  # a direction of length 0 is as good as one of this square
FLOOR = 0.01  # the smallest noise level that the denoiser is given; the last one of the paper's network


class ADP(DenoiserPurifier):
    """Adds noise, and removes it by steps along the score, whose size adapts to each image.

    The change of the score along its own direction tells where it would vanish if it continued to change at
    that rate; the step is a fixed share of the way there. An image stops when its step falls to `stop` or
    less. The paper takes the difference of two scores that are 1e-3 apart, which loses most digits in
    float32; here it is the derivative itself.

    Where the score does not fall along its direction, the step is the largest, which is its limit as the fall
    vanishes. The authors' code takes the smallest there, at which the image stops. Here that would leave most
    of the noise in three of five images of the embedded data: at high noise levels the fall is so small that
    its sign is almost random.

    The score network of the paper is given no noise level: its output is about the noise divided by the
    noise's level. The denoiser here is given a level, by which the score is then multiplied. The level is
    estimated from the diagonal details of the image (Donoho & Johnstone 1994, Ideal Spatial Adaptation by
    Wavelet Shrinkage, https://doi.org/10.1093/biomet/81.3.425). The estimate uses their root mean square
    instead of their median, whose derivative is that of a single value.

    Args:
        denoiser: the shared denoiser.
        sigma: standard deviation of the noise on images in [0, 1]; 0 adds none.
        steps: largest number of steps.
        rate: share of the way to where the score would vanish.
        stop: step size at which an image stops.
    """

    version = 2
    stochastic: ClassVar = True
    gradient: ClassVar = "exact"

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        sigma: float = 0.25,
        steps: int = 10,
        rate: float = 0.05,
        stop: float = 1e-3,
    ) -> None:
        if sigma < 0 or steps < 1 or rate <= 0:
            raise InputError(
                f"purifier: expected sigma >= 0, steps >= 1 and rate > 0, got {sigma}, {steps} and {rate}"
            )
        super().__init__(denoiser=denoiser)
        self.sigma, self.steps, self.rate, self.stop = sigma, steps, rate, stop
        self.stochastic = sigma > 0

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images after their steps; each image stops by itself or takes all steps."""
        noise = Draws(seeds, images.device).normal(images.shape[1:]).to(images)
        x = clipped(images + self.sigma * noise)
        going = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            along = self.direction(x)
            step = self._step(x, along)
            going = going & (step > self.stop)
            if not going.any():
                break
            x = clipped(x + torch.where(going, step, 0.0) * along)
        return x

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with few steps, and how many times longer this one takes."""
        short = copy.copy(self)
        short.steps = min(self.steps, steps)
        return short, self.steps / short.steps

    def direction(self, images: Tensor) -> Tensor:
        """Return the score of images in [0, 1], multiplied by the level of the noise in them."""
        level = 2 * noise_level(images)
        x = 2 * images - 1
        return self.score(x, level) * level.view(-1, 1, 1, 1)

    def _step(self, x: Tensor, along: Tensor) -> Tensor:
        """Return the (N, 1, 1, 1) step sizes."""
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            leaf, direction = (x, along) if differentiable else (x.detach().requires_grad_(), along.detach())
            (change,) = torch.autograd.grad(
                self.direction(leaf), leaf, direction, create_graph=differentiable
            )  # the transposed Jacobian times `along`, whose product with `along` is that of the Jacobian
        falls = -(change * along).sum((1, 2, 3), keepdim=True)
        share = self.rate * along.square().sum((1, 2, 3), keepdim=True).clamp_min(TINY)
        return (share / torch.maximum(falls, share / LARGEST)).clamp(SMALLEST, LARGEST)


def noise_level(images: Tensor) -> Tensor:
    """Return the (N,) standard deviations of the noise in images, which are at least `FLOOR`.

    They are the root mean squares of the diagonal detail of the Haar transform, which is almost 0 in smooth
    images.
    """
    height, width = (side - side % 2 for side in images.shape[2:])
    even = images[:, :, :height, :width]
    top, bottom = even[:, :, ::2], even[:, :, 1::2]
    detail = (top[..., ::2] - top[..., 1::2] - bottom[..., ::2] + bottom[..., 1::2]) / 2
    return detail.square().flatten(1).mean(1).clamp_min(FLOOR**2).sqrt()
