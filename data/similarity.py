"""Structural similarity, in the one setting used everywhere."""

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """(N,) SSIM (Wang et al. 2004) of (N, C, H, W): Gaussian window 11x11, sigma 1.5, range 1."""
    score = structural_similarity_index_measure(images, references, data_range=1.0, reduction="none")
    return score.reshape(len(images))
