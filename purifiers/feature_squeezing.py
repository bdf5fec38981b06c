"""Bit depth reduction: Xu et al. 2018, Feature Squeezing, https://arxiv.org/abs/1704.01155."""

from collections.abc import Sequence

from torch import Tensor, nn

from data.errors import InputError
from purifiers.purifier import Purifier


class FeatureSqueezing(Purifier):
    """Rounds each value to one of 2^bits levels between 0 and 1.

    Args:
        bits: number of bits, 1 to 8; 4 in NCIS, 4 or 5 in the paper on CIFAR-10.
    """

    version = 1

    def __init__(self, *, bits: int = 4) -> None:
        if not isinstance(bits, int) or not 1 <= bits <= 8:
            raise InputError(f"purifier.bits: expected 1 to 8, got {bits}")
        self.levels = 2**bits - 1

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the quantised images (N, C, H, W)."""
        return (images * self.levels).round() / self.levels
