"""EDSR: Lim et al. 2017, Enhanced Deep Residual Networks for Single Image Super-Resolution.
https://arxiv.org/abs/1707.02921
"""

import torch
from torch import Tensor, nn

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's training images, which the networks were trained on
RANGE = 255


class EDSR(nn.Module):
    """The baseline, x2: RGB (N, 3, H, W) in [0, 1] to (N, 3, 2H, 2W), about [0, 1].

    Parameter names are those of the authors' edsr_baseline_x2 checkpoint, the mean shifts included.

    Args:
        blocks: residual blocks; their sums are not scaled.
        features: channels within.
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
        """Twice as large."""
        x = self.head(self.sub_mean(images * RANGE))
        return self.add_mean(self.tail(x + self.body(x))) / RANGE


class Block(nn.Module):
    """A residual block without normalisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(features, features), nn.ReLU(), _conv(features, features))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.body(x)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _shift(sign: int) -> nn.Conv2d:
    """The mean colour added or taken away; a convolution, because the checkpoint stores one."""
    shift = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        shift.bias.copy_(sign * RANGE * torch.tensor(MEAN))
    return shift
