"""Mean filter; as a defense in Li and Li 2017, Adversarial Examples Detection in Deep Networks with
Convolutional Filter Statistics, https://arxiv.org/abs/1612.07767.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from purifiers.median import check_kernel
from purifiers.purifier import Purifier


class Mean(Purifier):
    """Replaces each value by the mean of its neighbourhood in the channel; borders are reflected.

    Args:
        kernel: side of the neighbourhood in pixels, an odd number.
    """

    version = 1
    gradient: ClassVar = "exact"

    def __init__(self, *, kernel: int = 3) -> None:
        self.kernel = check_kernel(kernel)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the filtered images (N, C, H, W)."""
        reach = self.kernel // 2
        return F.avg_pool2d(F.pad(images, (reach,) * 4, mode="reflect"), self.kernel, stride=1)
