"""Structural similarity, in the one setting used everywhere."""

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from data.errors import InputError

WINDOW = 3  # pixels a side: the window that gives the figures of DDIP's Table 2 (docs/findings.md)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """(N,) SSIM (Wang et al. 2004) of (N, C, H, W): uniform window, range 1, mean over all whole windows.

    Raises InputError for images that are smaller than the window.
    """
    height, width = images.shape[2:]
    if min(height, width) < WINDOW:
        raise InputError(
            f"SSIM: expected images of at least {WINDOW}x{WINDOW} pixels, the size of its window, "
            f"got {height}x{width}; take larger images"
        )
    _, similarities = structural_similarity_index_measure(
        images,
        references,
        gaussian_kernel=False,
        kernel_size=WINDOW,
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    border = WINDOW // 2  # there the window reaches beyond the image
    return similarities[..., border : height - border, border : width - border].flatten(1).mean(1)
