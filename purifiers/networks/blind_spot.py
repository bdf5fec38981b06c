"""FBI-Net, a blind-spot network: Byun, Cha, Moon 2021, FBI-Denoiser: Fast Blind Image Denoiser for
Poisson-Gaussian Noise. https://arxiv.org/abs/2105.10967

With the 8 layers of NCIS (supplement, 2.1; https://arxiv.org/abs/2106.11644) instead of 17.
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
    """(N, in_channels, H, W) to (N, out_channels, H, W), no pixel of which depends on the input at
    its own place, in any channel.

    Layer 1 leaves out its centre. Layer 2 moves by a knight's move or not at all, the others by
    (+-3, +-3) or not at all, which never leads back from where layer 1 has gone. What the layers see
    is joined by 1x1 convolutions only. Where the released code counts the input's channels for the
    parameters of the first PReLU, and so takes grey images only, each filter has its own here.

    Args:
        in_channels, out_channels: of the input and the output.
        filters: of every hidden convolution.
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
        """The mean of what all layers saw, mixed."""
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
    """A convolution that keeps the size (zeros beyond the border) and has no weights off its mask.

    Args:
        inputs, outputs: channels.
        mask: K rows of K digits; 0 is no weight.
        dilation: distance of the weights in pixels.
    """

    def __init__(self, inputs: int, outputs: int, mask: Sequence[str], *, dilation: int = 1) -> None:
        reach = dilation * (len(mask) // 2)
        super().__init__(inputs, outputs, len(mask), padding=reach, dilation=dilation)
        rows = torch.tensor([[float(digit) for digit in row] for row in mask])
        self.register_buffer("mask", rows, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
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
        """(N, filters, H, W) to the same shape."""
        return self.out((x + self.block(x)) / 2)


def _prelu(filters: int) -> nn.PReLU:
    return nn.PReLU(filters, init=0.0)  # a ReLU to begin with
