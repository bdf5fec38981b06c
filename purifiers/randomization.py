"""Randomization: Xie et al. 2018, Mitigating Adversarial Effects Through Randomization.
https://arxiv.org/abs/1711.01991
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.images import clipped
from purifiers.fitting.draws import Draws
from purifiers.purifier import Purifier

Resize = Literal["nearest", "bilinear"]
GREY = 0.5  # the released code pads images in [-1, 1] with zeros


class Randomization(Purifier):
    """Enlarges images of any shape by a random size, and pads them with grey at a random place.

    With side s and padded side t, the image is enlarged to r, uniform in [s, t), and is placed anywhere
    in the t x t canvas: this gives the paper's 12,528 patterns for 299 and 331. There is one draw, as in
    the paper; the authors' competition entry averages 30 predictions.

    The paper gives the t x t canvas to its classifier. Here this differs: a purifier keeps the image's
    shape, because the victim owns its input size, so the canvas is resized back to s, bilinearly.

    Args:
        ratio: t / s, more than 1; t is rounded up to a whole pixel (331 of 299, 248 of 224, 36 of 32).
        resize: interpolation by which the image is enlarged; "nearest" in the released code.
    """

    version = 1
    stochastic = True
    gradient = "exact"

    def __init__(self, *, ratio: float = 331 / 299, resize: Resize = "nearest") -> None:
        if not (math.isfinite(ratio) and ratio > 1):
            raise InputError(f"purifier.ratio: expected more than 1, got {ratio}")
        if resize not in get_args(Resize):
            raise InputError(f"purifier.resize: expected nearest or bilinear, got {resize!r}")
        self.ratio, self.resize = ratio, resize

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Enlarge and pad each image by its own draws, and resize all to their original size."""
        size = images.shape[2:]
        canvas = self.canvas(images, seeds)
        return clipped(F.interpolate(canvas, size=size, mode="bilinear", align_corners=False))

    def canvas(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Map images (N, C, H, W) to the padded images (N, C, T, U) that the paper's classifier sees."""
        draws = Draws(seeds, torch.device("cpu"))  # because they are used as Python numbers
        small = torch.tensor(images.shape[2:])
        large = torch.tensor([self._padded(side) for side in images.shape[2:]])
        # One draw enlarges both sides by the same share of what they may grow.
        grown = draws.below(int((large - small).max()), (1,))
        inner = small + grown * (large - small) // (large - small).max()
        offset = draws.below(large - inner + 1, (2,))
        placed = zip(images, inner.tolist(), offset.tolist(), strict=True)
        return torch.stack([self._one(image, size, corner, large.tolist()) for image, size, corner in placed])

    def _padded(self, side: int) -> int:
        return math.ceil(side * self.ratio - 1e-6)  # s * (t / s) may exceed t by rounding

    def _one(self, image: Tensor, size: list[int], corner: list[int], canvas: list[int]) -> Tensor:
        corners = None if self.resize == "nearest" else False
        inner = F.interpolate(image[None], size=size, mode=self.resize, align_corners=corners)[0]
        (top, left), (height, width) = corner, size
        below, right = canvas[0] - top - height, canvas[1] - left - width
        return F.pad(inner, (left, right, top, below), value=GREY)
