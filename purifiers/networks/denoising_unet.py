"""A denoiser that is given the noise level: the U-Net of Ho et al. 2020, Denoising Diffusion Probabilistic
Models, https://arxiv.org/abs/2006.11239, without attention, preconditioned as in Karras et al. 2022,
Elucidating the Design Space of Diffusion-Based Generative Models, https://arxiv.org/abs/2206.00364.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8  # of each GroupNorm


class DenoisingUNet(nn.Module):
    """Estimates the clean images, in [-1, 1], from noisy ones (N, C, H, W) and their noise levels (N,).

    Args:
        channels: number of image channels.
        patch: side of the squares of pixels that the U-Net sees as channels; 2 costs a quarter of 1 (Zhang et
            al. 2018, FFDNet, https://arxiv.org/abs/1710.04026).
        width: filters at the outermost scale, a multiple of 8.
        multiples: multiples of the width at each scale, outermost first; each scale halves the size.
        spread: standard deviation of the values of clean images.
    """

    version = 1

    def __init__(
        self,
        *,
        channels: int = 3,
        patch: int = 2,
        width: int = 40,
        multiples: Sequence[int] = (1, 2),
        spread: float = 0.5,
    ) -> None:
        super().__init__()
        widths = [width * multiple for multiple in multiples]
        self.channels, self.patch, self.width, self.spread = channels, patch, width, spread
        seen = channels * patch**2
        self.level = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.first = nn.Conv2d(seen, width, 3, padding=1)
        self.down, self.smaller, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = width
        for i, outputs in enumerate(widths):
            self.down.append(Block(inputs, outputs, 4 * width))
            inputs = outputs
            if i + 1 < len(widths):
                self.smaller.append(nn.Conv2d(inputs, inputs, 3, stride=2, padding=1))
        self.middle = Block(inputs, inputs, 4 * width)
        for outputs in reversed(widths):
            self.up.append(Block(inputs + outputs, outputs, 4 * width))
            inputs = outputs
        self.last = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, seen, 3, padding=1)
        )

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """Return the estimate of the clean images, which is not clipped.

        Args:
            noisy: clean images in [-1, 1] plus normal noise.
            levels: standard deviation of the noise in each image.
        """
        sigma = levels.to(noisy).view(-1, 1, 1, 1)
        total = (sigma.square() + self.spread**2).sqrt()
        learnt = self._learnt(noisy / total, sigma.flatten())
        return (self.spread / total) ** 2 * noisy + sigma * self.spread / total * learnt

    def _learnt(self, images: Tensor, levels: Tensor) -> Tensor:
        """Return the output of the U-Net itself for images of variance 1."""
        code = self.level(_waves(250 * levels.log(), self.width).to(images.dtype))
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % self.patch, 0, -height % self.patch), mode="replicate")
        x, skips = self.first(F.pixel_unshuffle(padded, self.patch)), []
        for i, block in enumerate(self.down):
            x = block(x, code)
            skips.append(x)
            if i < len(self.smaller):
                x = self.smaller[i](x)
        x = self.middle(x, code)
        for block in self.up:
            skip = skips.pop()
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1), code)
        return F.pixel_shuffle(self.last(x), self.patch)[:, :, :height, :width]


class Block(nn.Module):
    """A residual block that is given the code of the noise level."""

    def __init__(self, inputs: int, outputs: int, code: int) -> None:
        super().__init__()
        self.before = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.told = nn.Linear(code, outputs)
        self.after = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.past = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        inner = self.before(x) + self.told(F.silu(code))[:, :, None, None]
        return self.past(x) + self.after(inner)


def _waves(places: Tensor, width: int) -> Tensor:
    """Return (N, width) sines and cosines of (N,) numbers, as Ho et al. give the times to their network."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=places.device) / half)
    angles = places.unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
