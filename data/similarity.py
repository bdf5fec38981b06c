"""Structural similarity, in the one setting that is used everywhere."""

from torch import Tensor, float64
from torch.nn.functional import avg_pool2d

from data.errors import InputError

WINDOW = 3  # side in pixels of the window that gives the figures of DDIP's Table 2 (docs/findings.md)
STABLE_MEANS, STABLE_VARIANCES = 0.01**2, 0.03**2  # the constants of the definition, for values in [0, 1]


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Return the (N,) SSIM (Wang et al. 2004) of images (N, C, H, W).

    The window is uniform, the range is 1, and the mean is over all whole windows. The result is
    differentiable. Raises InputError for images that are smaller than the window.
    """
    height, width = images.shape[2:]
    if min(height, width) < WINDOW:
        raise InputError(
            f"SSIM: expected images of at least {WINDOW}x{WINDOW} pixels, the size of its window, "
            f"got {height}x{width}; take larger images"
        )

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values, WINDOW, stride=1)

    mean_x, mean_y = mean(images), mean(references)
    variances = mean(images**2) - mean_x**2 + mean(references**2) - mean_y**2
    covariance = mean(images * references) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + STABLE_MEANS) / (mean_x**2 + mean_y**2 + STABLE_MEANS)
    structure = (2 * covariance + STABLE_VARIANCES) / (variances + STABLE_VARIANCES)
    # The mean is in float64, so that the last digits do not depend on the number of images in the batch.
    return (luminance * structure).flatten(1).mean(1, dtype=float64).to(images.dtype)
