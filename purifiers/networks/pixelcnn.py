"""PixelCNN++: Salimans et al. 2017, https://arxiv.org/abs/1701.05517.

It is at full resolution only. As in PixelDefend's code, each value has 256 levels instead of a mixture of
logistics.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256


class PixelCNN(nn.Module):
    """The distribution of each 8-bit value of RGB images of any size, given the values before it.

    The order is rows from the top, pixels from the left, then red, green and blue. There are two streams of
    gated residual blocks: one sees the rows above a pixel, the other also the pixels to its left. Green is
    given red's level, and blue is given both, each by an embedding.

    Args:
        filters: filters of every convolution; 160 in the paper.
        blocks: number of gated residual blocks; the paper has 5 at each of three resolutions and back.
        dropout: share of dropout in training; 0.5 in the paper.
    """

    version = 1

    def __init__(self, *, filters: int = 32, blocks: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        # The inputs are the image and a channel of ones, which marks the border.
        self.above = Shifted(4, filters, (2, 3))
        self.above_too = Shifted(4, filters, (1, 3))
        self.left = Shifted(4, filters, (2, 1))
        self.upper = nn.ModuleList(Gated(filters, (2, 3), dropout) for _ in range(blocks))
        self.lower = nn.ModuleList(Gated(filters, (2, 2), dropout, told=filters) for _ in range(blocks))
        self.levels = nn.ModuleList(nn.Conv2d(filters, LEVELS, 1) for _ in range(3))
        self.red_to_green, self.red_to_blue, self.green_to_blue = (
            nn.Embedding(LEVELS, filters) for _ in range(3)
        )
        self.reach = 2 * blocks + 3  # largest number of rows above a pixel that are seen

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [0, 1] to features (N, filters, H, W) of the pixels before each pixel."""
        ones = torch.ones_like(images[:, :1])
        x = torch.cat([2 * images - 1, ones], 1)
        upper = _down(self.above(x))
        lower = _down(self.above_too(x)) + _right(self.left(x))
        for over, under in zip(self.upper, self.lower, strict=True):
            upper = over(upper)
            lower = under(lower, upper)
        return lower

    def logits(self, known: Tensor, channel: int, before: Tensor) -> Tensor:
        """Return the logits (N, 256, H, W) of a channel (0 to 2), given the features of each pixel and the
        levels (N, 3, H, W) of the channels before it in the same pixel."""
        features = known
        if channel == 1:
            features = known + _embedded(self.red_to_green, before[:, 0])
        if channel == 2:
            features = known + _embedded(self.red_to_blue, before[:, 0])
            features = features + _embedded(self.green_to_blue, before[:, 1])
        return self.levels[channel](F.elu(features))


class Shifted(nn.Module):
    """A convolution that sees its own row and those above.

    A kernel of odd width is centred on its own column. A kernel of even width ends at its own column.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        height, width = kernel
        side = width // 2
        self.padding = (side, side if width % 2 else 0, height - 1, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return self.conv(F.pad(x, self.padding))


class Gated(nn.Module):
    """A gated residual block, which may take another stream as a second input."""

    def __init__(self, filters: int, kernel: tuple[int, int], dropout: float, *, told: int = 0) -> None:
        super().__init__()
        self.first = Shifted(2 * filters, filters, kernel)
        self.told = nn.Conv2d(2 * told, filters, 1) if told else None
        self.drop = nn.Dropout(dropout)
        self.second = Shifted(2 * filters, 2 * filters, kernel)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Map (N, filters, H, W) to the same shape."""
        inner = self.first(_concat_elu(x))
        if self.told is not None:
            inner = inner + self.told(_concat_elu(other))
        value, gate = self.second(self.drop(_concat_elu(inner))).chunk(2, 1)
        return x + value * gate.sigmoid()


def _concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], 1))


def _down(x: Tensor) -> Tensor:
    """Move features one row down, so that a row only has those of the rows above it."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def _right(x: Tensor) -> Tensor:
    return F.pad(x, (1, 0, 0, 0))[:, :, :, :-1]


def _embedded(embedding: nn.Embedding, levels: Tensor) -> Tensor:
    return embedding(levels).permute(0, 3, 1, 2)
