"""The U-Net to which RIDE compares its network: Ronneberger et al. 2015,
https://arxiv.org/abs/1505.04597. RIDE does not state its sizes; these are our choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import InputError
from purifiers.fitting.engine import Parameters
from purifiers.fitting.stack import Stack
from purifiers.networks.fcn import conv_parameters


@dataclass(frozen=True)
class UNet:
    """A U-Net with two 3x3 convolutions with ReLU at each scale.

    Scales are joined by 2x2 max pooling on the way down and by bilinear enlargement on the way up, where the
    outputs of the way down are concatenated. There is no normalisation, as in RIDE's other networks.

    Args:
        filters: filters per scale, outermost first.
        bounded: whether there is a sigmoid at the end, for images in [0, 1].
    """

    version = 1
    filters: Sequence[int] = (32, 64, 128)
    bounded: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one network for images of shape (C, H, W)."""
        channels, *size = shape
        if min(size) < (least := 2 ** (len(self.filters) - 1)):
            raise InputError(
                f"this network halves the image {len(self.filters) - 1} times: expected sides of at "
                f"least {least} pixels, got {size[0]}x{size[1]}"
            )
        drawn: dict[str, Tensor] = {}
        inputs = channels
        for i, filters in enumerate(self.filters):
            drawn |= conv_parameters(f"down{i}a", inputs, filters, 3, generator)
            drawn |= conv_parameters(f"down{i}b", filters, filters, 3, generator)
            inputs = filters
        for i, filters in reversed(list(enumerate(self.filters[:-1]))):
            drawn |= conv_parameters(f"up{i}a", filters + self.filters[i + 1], filters, 3, generator)
            drawn |= conv_parameters(f"up{i}b", filters, filters, 3, generator)
        return drawn | conv_parameters("out", self.filters[0], channels, 1, generator)

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked images to stacked images, both (n, B*C, H, W)."""
        x = self._scale(inputs, 0, parameters, stack)
        x = stack.conv(x, parameters["out.weight"], parameters["out.bias"], padding="constant")
        return torch.sigmoid(x) if self.bounded else x

    def _scale(self, x: Tensor, i: int, p: Parameters, stack: Stack) -> Tensor:
        """Apply scale i and all smaller scales."""

        def twice(x: Tensor, name: str) -> Tensor:
            for layer in (f"{name}a", f"{name}b"):
                x = F.relu_(stack.conv(x, p[f"{layer}.weight"], p[f"{layer}.bias"], padding="constant"))
            return x

        x = twice(x, f"down{i}")
        if i + 1 == len(self.filters):
            return x
        inner = self._scale(F.max_pool2d(x, 2), i + 1, p, stack)
        grown = F.interpolate(inner, size=x.shape[2:], mode="bilinear", align_corners=False)
        return twice(stack.concat([x, grown]), f"up{i}")
