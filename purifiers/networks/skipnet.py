"""The U-Net with skip connections of Deep Image Prior: Ulyanov et al. 2018.

https://arxiv.org/abs/1711.10925; its sizes in DDIP, Appendix B: https://arxiv.org/abs/2108.00180
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import InputError
from purifiers.fitting.engine import Parameters
from purifiers.fitting.stack import Stack

SLOPE = 0.2  # of every LeakyReLU, as in the DIP code


@dataclass(frozen=True)
class SkipNet:
    """A U-Net whose scale i halves the size, by a convolution of stride 2 and one of stride 1 with `down[i]`
    filters.

    On the way up, each scale is enlarged bilinearly, joined with `skip[i]` channels of a 1x1 convolution, and
    passed through a convolution with `up[i]` filters and a 1x1 convolution. BatchNorm and LeakyReLU follow
    each convolution; the output is a 1x1 convolution and a sigmoid. A bias before a BatchNorm has no effect,
    since the mean is subtracted, and is left out.

    Args:
        down, up, skip: filters per scale, outermost first; a skip of 0 means no connection.
        kernel_down, kernel_up: kernel sizes per scale.
        depth: channels of the input noise.
        padding: mode of F.pad; DDIP does not state it, and the DIP code uses "reflect".
        init: "xavier" (DDIP, Algorithm 1; uniform) or "torch" (the DIP code: torch's default for Conv2d).
    """

    version = 1
    down: Sequence[int]
    up: Sequence[int]
    skip: Sequence[int]
    kernel_down: Sequence[int]
    kernel_up: Sequence[int]
    depth: int = 4
    padding: Literal["reflect", "replicate", "constant"] = "reflect"
    init: Literal["xavier", "torch"] = "xavier"

    def __post_init__(self) -> None:
        for field in fields(self)[:5]:
            values = tuple(getattr(self, field.name))
            object.__setattr__(self, field.name, values)  # hashable: traces are compared
            if len(values) != len(self.down):
                raise InputError(f"network.{field.name}: expected {len(self.down)} scales, got {len(values)}")

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one network that makes images of shape (C, H, W)."""
        channels, *size = shape
        reach = max(self.kernel_down[-1] // 2, 1) if self.padding == "reflect" else 1
        # After all halvings, a side must exceed its reflected padding, and BatchNorm needs several pixels.
        least = 2 ** len(self.down) * reach + 1
        if min(size) < least:
            raise InputError(
                f"this network halves the image {len(self.down)} times: expected sides of at least "
                f"{least} pixels with padding {self.padding}, got {size[0]}x{size[1]}"
            )
        drawn: dict[str, Tensor] = {}

        def conv(name: str, inputs: int, outputs: int, k: int) -> None:
            inside, outside = inputs * k * k, outputs * k * k
            xavier = self.init == "xavier"
            bound = math.sqrt(6 / (inside + outside)) if xavier else 1 / math.sqrt(inside)
            weight = torch.empty(outputs, inputs, k, k)
            drawn[f"{name}.weight"] = weight.uniform_(-bound, bound, generator=generator)

        def norm(name: str, features: int) -> None:
            drawn[f"{name}.scale"] = torch.ones(features)
            drawn[f"{name}.shift"] = torch.zeros(features)

        inputs = self.depth
        for i, (down, up, skip) in enumerate(zip(self.down, self.up, self.skip, strict=True)):
            if skip:
                conv(f"skip{i}", inputs, skip, 1)
                norm(f"skip{i}", skip)
            conv(f"shrink{i}", inputs, down, self.kernel_down[i])
            norm(f"shrink{i}", down)
            conv(f"down{i}", down, down, self.kernel_down[i])
            norm(f"down{i}", down)
            joined = skip + (self.up[i + 1] if i + 1 < len(self.up) else down)
            norm(f"join{i}", joined)
            conv(f"up{i}", joined, up, self.kernel_up[i])
            norm(f"up{i}", up)
            conv(f"mix{i}", up, up, 1)
            norm(f"mix{i}", up)
            inputs = down
        conv("out", self.up[0], channels, 1)
        drawn["out.bias"] = torch.zeros(channels)
        return drawn

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked noise (1, B*depth, H, W) to stacked images (1, B*C, H, W)."""
        x = self._scale(inputs, 0, parameters, stack)
        x = stack.conv(x, parameters["out.weight"], parameters["out.bias"], padding=self.padding)
        return torch.sigmoid(x)

    def _scale(self, x: Tensor, i: int, p: Parameters, stack: Stack) -> Tensor:
        """Apply scale i and all smaller scales."""

        def block(x: Tensor, name: str, stride: int = 1) -> Tensor:
            x = stack.conv(x, p[f"{name}.weight"], stride=stride, padding=self.padding)
            x = stack.norm(x, p[f"{name}.scale"], p[f"{name}.shift"])
            return F.leaky_relu_(x, SLOPE)  # in place: half the memory, a tenth of the time

        inner = block(block(x, f"shrink{i}", 2), f"down{i}")
        if i + 1 < len(self.down):
            inner = self._scale(inner, i + 1, p, stack)
        grown = stack.doubled(inner)
        grown = grown[:, :, : x.shape[2], : x.shape[3]]  # an odd side grew by one too many
        joined = stack.concat([block(x, f"skip{i}"), grown]) if self.skip[i] else grown
        joined = stack.norm(joined, p[f"join{i}.scale"], p[f"join{i}.shift"])
        return block(block(joined, f"up{i}"), f"mix{i}")
