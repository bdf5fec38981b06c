"""FBI-Net, a blind-spot network: Byun, Cha, Moon 2021, FBI-Denoiser: Fast Blind Image Denoiser for
Poisson-Gaussian Noise. https://arxiv.org/abs/2105.10967

The network has the 8 layers of NCIS (supplement, 2.1; https://arxiv.org/abs/2106.11644) instead of 17.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError

AROUND = ("111", "101", "111")
KNIGHT = ("01010", "10001", "00100", "10001", "01010")  # the knight's moves of chess, and the centre
CORNERS = ("101", "010", "101")
DILATION = 3


class BlindSpotNet(nn.Module):
    """Maps (N, in_channels, H, W) to (N, out_channels, H, W). No output pixel depends on any channel of the
    input at its own place.

    Layer 1 leaves out its centre. Layer 2 moves by a knight's move of chess or not at all, the others by
    (+-3, +-3) or not at all, so that no path returns to the pixel from which layer 1 moved away. The layers'
    outputs are joined by 1x1 convolutions only. The first PReLU of the released code has one parameter for
    each input channel, so it takes only grey images; here each filter has its own parameter.

    Args:
        in_channels, out_channels: channels of the input and of the output.
        filters: filters of every hidden convolution.
        layers: number of masked convolutions.
    """

    def __init__(
        self, *, in_channels: int = 3, out_channels: int = 3, filters: int = 64, layers: int = 8
    ) -> None:
        for name, value, least in (("filters", filters, 1), ("layers", layers, 2)):
            if not isinstance(value, int) or value < least:
                raise InputError(f"purifier.{name}: expected at least {least}, got {value}")
        super().__init__()
        first = MaskedConv(in_channels, filters, AROUND)
        second = MaskedConv(filters, filters, KNIGHT)
        others = [MaskedConv(filters, filters, CORNERS, dilation=DILATION) for _ in range(layers - 2)]
        self.convs = nn.ModuleList([first, second, *others])
        self.seen = nn.ModuleList(_prelu(filters) for _ in range(layers))
        self.joined = nn.ModuleList(_prelu(filters) for _ in range(layers - 1))
        self.mixed = nn.ModuleList(Mix(filters) for _ in range(layers))
        self.out = nn.Sequential(_prelu(filters), Mix(filters), nn.Conv2d(filters, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last convolutions on the mean of all layers' outputs."""
        x = self.seen[0](self.convs[0](x))
        path = self.mixed[0](x)
        total = path
        later = zip(self.convs[1:], self.seen[1:], self.joined, self.mixed[1:], strict=True)
        for conv, seen, joined, mixed in later:
            x = seen(conv(x))
            path = mixed(joined((x + path) / 2))
            total = total + path
        return self.out(total / len(self.convs))


class MaskedConv(nn.Conv2d):
    """A convolution with zero padding that keeps the size, and has no weights outside its mask.

    Args:
        inputs, outputs: channels of the input and of the output.
        mask: K rows of K digits; 0 stands for no weight.
        dilation: distance between the weights in pixels.
    """

    def __init__(self, inputs: int, outputs: int, mask: Sequence[str], *, dilation: int = 1) -> None:
        reach = dilation * (len(mask) // 2)
        super().__init__(inputs, outputs, len(mask), padding=reach, dilation=dilation)
        rows = torch.tensor([[float(digit) for digit in row] for row in mask])
        self.register_buffer("mask", rows, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding, dilation=self.dilation)


class Mix(nn.Module):
    """A residual block of 1x1 convolutions: it mixes channels and sees no neighbour."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(filters, filters, 1), _prelu(filters), nn.Conv2d(filters, filters, 1)
        )
        self.out = _prelu(filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, filters, H, W) to the same shape."""
        return self.out((x + self.block(x)) / 2)


def _prelu(filters: int) -> nn.PReLU:
    return nn.PReLU(filters, init=0.0)  # equal to a ReLU before training
