"""IMDN: Hui et al. 2019, Lightweight Image Super-Resolution with Information Multi-Distillation
Network. https://arxiv.org/abs/1909.11856
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.05  # of the leaky ReLUs


class IMDN(nn.Module):
    """The x2 network, which maps RGB (N, 3, H, W) in [0, 1] to (N, 3, 2H, 2W), approximately in [0, 1].

    Parameter names are those of the authors' IMDN_x2 checkpoint.

    Args:
        blocks: number of distillation blocks.
        features: number of inner channels; a quarter of them is distilled at each step of a block.
    """

    version = 1

    def __init__(self, *, blocks: int = 6, features: int = 64) -> None:
        super().__init__()
        self.blocks = [f"IMDB{i}" for i in range(1, blocks + 1)]
        self.fea_conv = nn.Conv2d(3, features, 3, padding=1)
        for name in self.blocks:
            self.add_module(name, Distillation(features))
        self.c = nn.Sequential(nn.Conv2d(blocks * features, features, 1), nn.LeakyReLU(SLOPE))
        self.LR_conv = nn.Conv2d(features, features, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(features, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images at twice their size."""
        first = x = self.fea_conv(images)
        outputs = []
        for name in self.blocks:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return self.upsampler(first + self.LR_conv(self.c(torch.cat(outputs, 1))))


class Distillation(nn.Module):
    """A block that three times keeps a quarter of the channels and refines the rest, and then fuses all parts
    and adds them to the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.kept, self.rest = features // 4, features - features // 4
        self.c1 = nn.Conv2d(features, features, 3, padding=1)
        self.c2 = nn.Conv2d(self.rest, features, 3, padding=1)
        self.c3 = nn.Conv2d(self.rest, features, 3, padding=1)
        self.c4 = nn.Conv2d(self.rest, self.kept, 3, padding=1)
        self.c5 = nn.Conv2d(4 * self.kept, features, 1)
        self.cca = ContrastAttention(4 * self.kept)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, features, H, W) to the same shape."""
        kept, rest = [], x
        for layer in (self.c1, self.c2, self.c3):
            distilled, rest = F.leaky_relu(layer(rest), SLOPE).split([self.kept, self.rest], 1)
            kept.append(distilled)
        kept.append(self.c4(rest))
        return x + self.c5(self.cca(torch.cat(kept, 1)))


class ContrastAttention(nn.Module):
    """Weights channels by a network of their mean plus standard deviation over the image."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        contrast = x.mean((2, 3), keepdim=True) + x.std((2, 3), correction=0, keepdim=True)
        return x * self.conv_du(contrast)
