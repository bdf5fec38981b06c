"""Purifiers that add noise and take it away again along the chain of a diffusion model: Ho et al. 2020,
Denoising Diffusion Probabilistic Models, https://arxiv.org/abs/2006.11239.
"""

import copy
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from data.errors import InputError
from purifiers.denoiser import Denoiser, DenoiserPurifier
from purifiers.fitting.draws import Draws
from purifiers.networks.noise_schedule import variances
from purifiers.purifier import TRIAL_STEPS, Purifier

Guide = Callable[[Tensor, int], Tensor]


class DiffusionPurifier(DenoiserPurifier):
    """The base class of purifiers that add noise along the chain and remove it step by step.

    A subclass says how often it goes along the chain, and what guides the way back.

    The image is scaled down while noise is added, so that its variance stays the same. The denoiser was
    trained on images that are not scaled, so it is given the image divided by that scale.

    Args:
        denoiser: the shared denoiser.
        times: number of times in the chain.
        until: time of the chain up to which noise is added.
    """

    stochastic: ClassVar = True
    gradient: ClassVar = "exact"

    def __init__(self, *, denoiser: Denoiser, times: int = 1000, until: int = 100) -> None:
        if not 1 <= until <= times:
            raise InputError(f"purifier.until: expected 1 to {times}, got {until}")
        super().__init__(denoiser=denoiser)
        self.until = until
        self.added, self.kept = variances(times)

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with noise up to time `steps` at most, and how many times longer this one takes."""
        short = copy.copy(self)
        short.until = min(self.until, steps)
        return short, self.until / short.until

    def noised(self, images: Tensor, time: int, draws: Draws) -> Tensor:
        """Return images in [-1, 1] with the noise that they have after this time of the chain (from 0)."""
        share = self.kept[time].item()
        return share**0.5 * images + (1 - share) ** 0.5 * draws.normal(images.shape[1:]).to(images)

    def there_and_back(self, images: Tensor, draws: Draws, guide: Guide | None = None) -> Tensor:
        """Add noise to images in [-1, 1] in one go, and return them restored in `until` steps."""
        x = self.noised(images, self.until - 1, draws)
        for time in reversed(range(self.until)):
            x = self._back(x, time, draws, guide)
        return x

    def _back(self, x: Tensor, time: int, draws: Draws, guide: Guide | None) -> Tensor:
        """Take one step of ancestral sampling, from `time` to the time before it.

        The estimate of the clean image is kept in [-1, 1]. If there is a guide, the step is moved by its
        gradient times the variance of the step (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233).
        """
        added, share = self.added[time].item(), self.kept[time].item()
        before = self.kept[time - 1].item() if time else 1.0
        clean = self.denoised(x / share**0.5, ((1 - share) / share) ** 0.5).clamp(-1, 1)
        mean = (before**0.5 * added * clean + (1 - added) ** 0.5 * (1 - before) * x) / (1 - share)
        variance = added * (1 - before) / (1 - share)
        if guide is not None:
            mean = mean + variance * guide(x, time)
        if time == 0:
            return mean
        return mean + variance**0.5 * draws.normal(x.shape[1:]).to(x)


def to_unit(images: Tensor) -> Tensor:
    """Map images from [-1, 1] to [0, 1], and clip values that are outside."""
    return (images / 2 + 0.5).clamp(0, 1)
