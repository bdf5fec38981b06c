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
FLOOR = 0.01  # the smallest noise level that the denoiser is told; the last one of the paper's network


class ADP(DenoiserPurifier):
    """Noise is added, and removed by steps along the score, whose size adapts to each image.

    How the score changes along itself tells where it would vanish if it went on so; the step is a fixed share
    of the way there. An image whose step falls below `stop` is left as it is. The paper takes the difference
    of two scores that are 1e-3 apart, in which float32 leaves few digits; here it is the derivative itself.

    The score network of the paper is told no noise level: what it returns is about the noise divided by its
    level. The denoiser here is told a level, which is estimated from the diagonal details of the image
    (Donoho & Johnstone 1994, Ideal Spatial Adaptation by Wavelet Shrinkage,
    https://doi.org/10.1093/biomet/81.3.425; by their root mean square here instead of their median, whose
    derivative is that of a single value), and the score is multiplied by it.

    Args:
        denoiser: the shared one.
        sigma: standard deviation of the noise on images in [0, 1].
        steps: at most so many.
        rate: the share of the way to where the score would vanish.
        stop: a step size.
    """

    version = 1
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

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images after the walk, in which each stops by itself or takes all steps."""
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
        """The score of images in [0, 1] times the level of the noise in them."""
        level = 2 * noise_level(images)
        x = 2 * images - 1
        return self.score(x, level) * level.view(-1, 1, 1, 1)

    def _step(self, x: Tensor, along: Tensor) -> Tensor:
        """Return the (N, 1, 1, 1) step sizes."""
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            asked, given = (x, along) if differentiable else (x.detach().requires_grad_(), along.detach())
            (change,) = torch.autograd.grad(
                self.direction(asked), asked, given, create_graph=differentiable
            )  # the transposed Jacobian times `along`, whose product with `along` is that of the Jacobian
        falls = -(change * along).sum((1, 2, 3), keepdim=True)
        own = along.square().sum((1, 2, 3), keepdim=True)
        return (self.rate * own / falls).nan_to_num(LARGEST).clamp(SMALLEST, LARGEST)


def noise_level(images: Tensor) -> Tensor:
    """(N,) standard deviations of the noise in images, not below `FLOOR`, from the root mean square of
    the diagonal detail of the Haar transform: in smooth images it is next to nothing."""
    height, width = (side - side % 2 for side in images.shape[2:])
    even = images[:, :, :height, :width]
    top, bottom = even[:, :, ::2], even[:, :, 1::2]
    detail = (top[..., ::2] - top[..., 1::2] - bottom[..., ::2] + bottom[..., 1::2]) / 2
    return detail.square().flatten(1).mean(1).clamp_min(FLOOR**2).sqrt()
