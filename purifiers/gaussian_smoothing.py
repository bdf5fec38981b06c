"""Iterative Gaussian smoothing (GS): Cha, Ko, Yoo, Moon 2021, NCIS: Neural Contextual Iterative
Smoothing for Purifying Adversarial Perturbations, section 3.3. https://arxiv.org/abs/2106.11644
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.images import clipped
from purifiers.purifier import Purifier


class GaussianSmoothing(Purifier):
    """Applies the same Gaussian kernel several times (Eq. 5), to images of any size and number of channels.

    Args:
        kernel: K, the side of the kernel in pixels, an odd number; its standard deviation is (K - 1) / 6.
        iterations: i, the number of times it is applied.
    """

    version = 1
    gradient = "exact"

    def __init__(self, *, kernel: int = 5, iterations: int = 7) -> None:
        self.kernel = gaussian(kernel, name="purifier.kernel")
        if not isinstance(iterations, int) or iterations < 1:
            raise InputError(f"purifier.iterations: expected at least 1, got {iterations}")
        self.iterations = iterations

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the smoothed images, clipped to [0, 1], which rounding may exceed by a little."""
        for _ in range(self.iterations):
            images = smooth(images, self.kernel)
        return clipped(images)


def gaussian(size: int, *, name: str) -> Tensor:
    """Return (K,) weights of sum 1, whose outer product is the two-dimensional kernel.

    Raises InputError, which names the setting `name`, unless `size` is odd and at least 3.
    """
    if not isinstance(size, int) or size < 3 or size % 2 == 0:
        raise InputError(f"{name}: expected an odd number of pixels, at least 3, got {size}")
    return weights(sigma=(size - 1) / 6, reach=size // 2)


def weights(*, sigma: float, reach: int) -> Tensor:
    """Return the (2 x reach + 1,) weights of a Gaussian with this standard deviation, of sum 1."""
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    values = torch.exp(-0.5 * (place / sigma).square())
    return (values / values.sum()).float()


def smooth(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve images (N, C, H, W) with `kernel` (K,) down and across, each channel by itself.

    The paper does not specify the border: here it is reflected without repeating the outermost pixel.
    Raises InputError for images that are too small for that.
    """
    reach = len(kernel) // 2
    height, width = images.shape[2:]
    if min(height, width) <= reach:
        raise InputError(
            f"smoothing with {len(kernel)} pixels reflects the border: expected sides of at least "
            f"{reach + 1} pixels, got {height}x{width}"
        )
    line = kernel.to(images)
    planes = F.pad(images.reshape(-1, 1, height, width), (reach,) * 4, mode="reflect")
    planes = F.conv2d(F.conv2d(planes, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    return planes.view(images.shape)
