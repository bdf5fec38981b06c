"""RIDE's fully convolutional network: Lin et al. 2019, Table 3 of the supplement,
https://arxiv.org/abs/1909.06271
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import InputError
from purifiers.fitting.engine import Parameters
from purifiers.fitting.stack import Stack


@dataclass(frozen=True)
class FCN:
    """3x3 convolutions of stride 1 with zero padding and ReLU between them, without normalisation.

    Args:
        filters: filters of each layer but the last, which has one for each channel of the image.
        dropout: layers, counted from 1, that dropout follows; empty for the ablation.
        share: share of the values that dropout sets to zero; it is active in the estimate too.
        bounded: whether there is a sigmoid at the end, for images in [0, 1]; false for normalised images.

    Weights are Xavier uniform and biases uniform in +-1/sqrt(fan in), as in the released code; the
    paper says "random uniform".
    """

    version = 1
    filters: Sequence[int]
    dropout: Sequence[int] = ()
    share: float = 0.5
    bounded: bool = True

    def __post_init__(self) -> None:
        for name in ("filters", "dropout"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # hashable: traces are compared
        if any(not 1 <= layer <= len(self.filters) for layer in self.dropout):
            raise InputError(
                f"network.dropout: expected layers between 1 and {len(self.filters)}, got {self.dropout}"
            )
        if not 0 <= self.share < 1:
            raise InputError(f"network.share: expected at least 0 and below 1, got {self.share}")

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one network for images (C, H, W) of any size."""
        widths = [shape[0], *self.filters, shape[0]]
        drawn: dict[str, Tensor] = {}
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            drawn |= conv_parameters(f"conv{i + 1}", inputs, outputs, 3, generator)
        return drawn

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked images to stacked images, both (n, B*C, H, W)."""
        x, last = inputs, len(self.filters) + 1
        for i in range(1, last + 1):
            x = stack.conv(x, parameters[f"conv{i}.weight"], parameters[f"conv{i}.bias"], padding="constant")
            if i < last:
                x = F.relu_(x)
            if i in self.dropout:
                x = stack.dropout(x, self.share)
        return torch.sigmoid(x) if self.bounded else x


def conv_parameters(
    name: str, inputs: int, outputs: int, k: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the parameters of a convolution with Xavier uniform weights and PyTorch's default bias."""
    bound, edge = math.sqrt(6 / ((inputs + outputs) * k * k)), 1 / math.sqrt(inputs * k * k)
    weight, bias = torch.empty(outputs, inputs, k, k), torch.empty(outputs)
    return {
        f"{name}.weight": weight.uniform_(-bound, bound, generator=generator),
        f"{name}.bias": bias.uniform_(-edge, edge, generator=generator),
    }
