"""EDSR: Lim et al. 2017, Enhanced Deep Residual Networks for Single Image Super-Resolution.
https://arxiv.org/abs/1707.02921
"""

import torch
from torch import Tensor, nn

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's training images, which the networks were trained on
RANGE = 255


class EDSR(nn.Module):
    """The x2 baseline, which maps RGB (N, 3, H, W) in [0, 1] to (N, 3, 2H, 2W), approximately in [0, 1].

    Parameter names are those of the authors' edsr_baseline_x2 checkpoint, including the mean shifts.

    Args:
        blocks: number of residual blocks; their sums are not scaled.
        features: number of inner channels.
    """

    version = 1

    def __init__(self, *, blocks: int = 16, features: int = 64) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = _shift(-1), _shift(1)
        self.head = nn.Sequential(_conv(3, features))
        self.body = nn.Sequential(*(Block(features) for _ in range(blocks)), _conv(features, features))
        grow = nn.Sequential(_conv(features, 4 * features), nn.PixelShuffle(2))
        self.tail = nn.Sequential(grow, _conv(features, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images at twice their size."""
        x = self.head(self.sub_mean(images * RANGE))
        return self.add_mean(self.tail(x + self.body(x))) / RANGE


class Block(nn.Module):
    """A residual block without normalisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(features, features), nn.ReLU(), _conv(features, features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, features, H, W) to the same shape."""
        return x + self.body(x)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _shift(sign: int) -> nn.Conv2d:
    """Return a convolution that adds or subtracts the mean colour; the checkpoint stores it as one."""
    shift = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        shift.bias.copy_(sign * RANGE * torch.tensor(MEAN))
    return shift
