"""Denoised smoothing: Salman et al. 2020, Denoised Smoothing: A Provable Defense for Pretrained Classifiers,
https://arxiv.org/abs/2003.01908.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from data.errors import InputError
from purifiers.denoiser import Denoiser, DenoiserPurifier
from purifiers.diffusion import to_unit
from purifiers.fitting.draws import Draws


class DenoisedSmoothing(DenoiserPurifier):
    """Adds normal noise to the image, and denoises it in one step.

    The prediction that the paper certifies is the most frequent one over many draws:
    `python -m runners.certify` counts them. The paper trains a DnCNN for each noise level; the denoiser here
    is given the level.

    Args:
        denoiser: the shared denoiser.
        sigma: standard deviation of the noise on images in [0, 1].
    """

    version = 1
    stochastic: ClassVar = True
    gradient: ClassVar = "exact"

    def __init__(self, *, denoiser: Denoiser, sigma: float = 0.25) -> None:
        if not sigma > 0:
            raise InputError(f"purifier.sigma: expected more than 0, got {sigma}")
        super().__init__(denoiser=denoiser)
        self.sigma = sigma

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return one denoised draw for each image."""
        noise = Draws(seeds, images.device).normal(images.shape[1:]).to(images)
        level = 2 * self.sigma
        return to_unit(self.denoised(2 * images - 1 + level * noise, level))
