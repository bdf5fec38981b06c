"""Median filter; as a defense in Xu et al. 2018, Feature Squeezing, https://arxiv.org/abs/1704.01155,
and in RIDE, Tables 1 and 4, https://arxiv.org/abs/1909.06271.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from purifiers.purifier import Purifier


class Median(Purifier):
    """Replaces each value by the median of its neighbourhood in the channel; borders are padded with zeros,
    as RIDE's supplement says.

    Args:
        kernel: side of the neighbourhood in pixels, an odd number; RIDE tries 3 to 11.
    """

    version = 1
    gradient: ClassVar = "exact"

    def __init__(self, *, kernel: int = 3) -> None:
        self.kernel = check_kernel(kernel)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the filtered images (N, C, H, W)."""
        planes = images.flatten(0, 1).unsqueeze(1)
        columns = F.unfold(planes, self.kernel, padding=self.kernel // 2)
        return columns.median(1).values.view_as(images)


def check_kernel(kernel: int) -> int:
    """Return `kernel` if it is a positive odd number; raise InputError otherwise."""
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise InputError(f"purifier.kernel: expected a positive odd number, got {kernel}")
    return kernel
