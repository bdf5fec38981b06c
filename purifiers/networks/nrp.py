"""The networks of NRP: Naseer et al. 2020, A Self-supervised Approach for Adversarial Robustness.

https://arxiv.org/abs/2006.04924; the parameters are named as in its public checkpoints.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARE = 0.2  # of a dense block's result that is added to its input


class RRDBNet(nn.Module):
    """Maps images (N, C, H, W) to the same shape by residual dense blocks (ESRGAN: Wang et al. 2018,
    https://arxiv.org/abs/1809.00219) between two convolutions. The input is not added to the output.

    Args:
        channels: number of image channels.
        filters: filters of the trunk.
        growth: number of channels that each convolution in a dense block adds.
        blocks: number of blocks, of three dense blocks each.
    """

    def __init__(self, *, channels: int = 3, filters: int = 64, growth: int = 32, blocks: int = 23) -> None:
        super().__init__()
        self.conv_first = _conv(channels, filters)
        self.RRDB_trunk = nn.Sequential(*(RRDB(filters, growth) for _ in range(blocks)))
        self.trunk_conv = _conv(filters, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return images whose values are not bounded."""
        return self.trunk_conv(self.RRDB_trunk(self.conv_first(x)))


class RRDB(nn.Module):
    """Three dense blocks, a share of whose output is added to the input."""

    def __init__(self, filters: int, growth: int) -> None:
        super().__init__()
        self.RDB1 = DenseBlock(filters, growth)
        self.RDB2 = DenseBlock(filters, growth)
        self.RDB3 = DenseBlock(filters, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, filters, H, W) to the same shape."""
        return x + SHARE * self.RDB3(self.RDB2(self.RDB1(x)))


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and the results of those before it."""

    def __init__(self, filters: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 6):
            outputs = growth if i < 5 else filters
            self.add_module(f"conv{i}", _conv(filters + (i - 1) * growth, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, filters, H, W) to the same shape."""
        *growing, last = self.children()
        features = x
        for conv in growing:
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], 1)
        return x + SHARE * last(features)


class ResG(nn.Module):
    """Maps images (N, C, H, W) to the same shape by residual blocks without normalisation between two
    convolutions: the small network of NRP's public code. The input is not added to the output.

    Args:
        channels: number of image channels.
        filters: filters of every hidden convolution.
        blocks: number of blocks, of two convolutions each.
    """

    def __init__(self, *, channels: int = 3, filters: int = 64, blocks: int = 23) -> None:
        super().__init__()
        self.conv_first = _conv(channels, filters)
        self.recon_trunk = nn.Sequential(*(ResidualBlock(filters) for _ in range(blocks)))
        self.conv_last = _conv(filters, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return images whose values are not bounded."""
        return self.conv_last(self.recon_trunk(F.leaky_relu(self.conv_first(x), 0.1)))


class ResidualBlock(nn.Module):
    """A convolution, a ReLU and a convolution, whose output is added to the input."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv1 = _conv(filters, filters)
        self.conv2 = _conv(filters, filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, filters, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Critic(nn.Module):
    """Maps images (N, C, H, W) to one logit each, which is high for clean images.

    This small network is our choice: three convolutions of stride 2, and the mean over places.
    """

    def __init__(self, *, channels: int = 3, filters: int = 32) -> None:
        super().__init__()
        sizes = [channels, filters, 2 * filters, 4 * filters]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        self.out = nn.Conv2d(sizes[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N,) logits."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return self.out(x).mean((1, 2, 3))


class RandomFeatures(nn.Module):
    """A fixed random convolutional network that maps images (N, C, H, W) to (N, filters, H/2, W/2).

    It is for runs and tests without pretrained weights; the authors' features are VGG-16's conv3_3.

    Args:
        channels: number of image channels.
        filters: filters of each convolution.
        seed: seed of the weights.
    """

    version = 1

    def __init__(self, *, channels: int = 3, filters: int = 32, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, inputs in (("first", channels), ("second", filters)):
            scale = (2 / (9 * inputs)) ** 0.5  # keeps the variance through a ReLU (He et al. 2015)
            drawn = scale * torch.randn(filters, inputs, 3, 3, generator=generator)
            self.register_buffer(name, drawn, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, which are not negative."""
        x = F.relu(F.conv2d(2 * x - 1, self.first, padding=1))
        return F.relu(F.conv2d(x, self.second, padding=1, stride=2))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
