"""Wavelet denoising with BayesShrink: Chang et al. 2000, Adaptive Wavelet Thresholding for Image
Denoising and Compression. https://doi.org/10.1109/83.862633

This is scikit-image's denoising with soft thresholds and the Haar wavelet; RGB images are converted to
YCbCr. Pixel deflection ends with it, and the super-resolution defense begins with it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from skimage.restoration import denoise_wavelet
from torch import Tensor, nn

from data.errors import InputError
from purifiers.purifier import Purifier


class Wavelet(Purifier):
    """Denoises grey or RGB images of any size by wavelets.

    Args:
        sigma: assumed standard deviation of the noise, for values in [0, 1]; 0 changes nothing.
    """

    version = 1

    def __init__(self, *, sigma: float = 0.04) -> None:
        check_sigma(sigma)
        self.sigma = sigma

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images with small wavelet coefficients removed."""
        return denoise(images, self.sigma)


def check_sigma(sigma: float) -> None:
    """Raise InputError unless `sigma` is a standard deviation of values in [0, 1]."""
    if not (math.isfinite(sigma) and 0 <= sigma <= 1):
        raise InputError(f"purifier.sigma: expected 0 to 1, of values in [0, 1], got {sigma}")


def denoise(images: Tensor, sigma: float) -> Tensor:
    """Return denoised images (N, C, H, W), clipped to [0, 1] and without a gradient; C is 1 or 3.

    scikit-image before 0.16 (2019), which the defenses' own code probably used, stretched each channel
    of YCbCr to [0, 1] and took sigma for the stretched channel. Since then, and so here, sigma refers to
    the image itself.

    Raises InputError for any other number of channels.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise InputError(f"wavelet denoising: expected 1 or 3 channels, got {channels}")
    if sigma == 0:
        return images.detach().clone()
    pixels = images.detach().cpu().permute(0, 2, 3, 1).double().numpy()
    denoised = [_one(image if channels == 3 else image[..., 0], sigma) for image in pixels]
    stacked = np.stack(denoised).reshape(pixels.shape).clip(0, 1)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).to(images).contiguous()


def _one(image: np.ndarray, sigma: float) -> np.ndarray:
    colour = image.ndim == 3
    return denoise_wavelet(
        image,
        sigma=sigma,
        method="BayesShrink",
        mode="soft",
        convert2ycbcr=colour,
        channel_axis=-1 if colour else None,
    )
