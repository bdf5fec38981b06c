"""The network of a diffusion model: the U-Net of Ho et al. 2020, Denoising Diffusion Probabilistic Models,
https://arxiv.org/abs/2006.11239, without attention.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8  # of each GroupNorm


class DiffusionUNet(nn.Module):
    """Noisy images (N, C, H, W) in about [-1, 1] and their times (N,) to the noise in them.

    Args:
        channels: of the images.
        width: filters at full resolution, a multiple of 8.
        multiples: of the width at each scale, outermost first; each scale halves the size.
    """

    version = 1

    def __init__(self, *, channels: int = 3, width: int = 32, multiples: Sequence[int] = (1, 2, 2)) -> None:
        super().__init__()
        widths = [width * multiple for multiple in multiples]
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
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
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, channels, 3, padding=1)
        )

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        """The predicted noise, of the images' shape."""
        code = self.time(_waves(times, self.width).to(images.dtype))
        x, seen = self.first(images), []
        for i, block in enumerate(self.down):
            x = block(x, code)
            seen.append(x)
            if i < len(self.smaller):
                x = self.smaller[i](x)
        x = self.middle(x, code)
        for block in self.up:
            skip = seen.pop()
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1), code)
        return self.last(x)


class Block(nn.Module):
    """A residual block that is told the time."""

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
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        inner = self.before(x) + self.told(F.silu(code))[:, :, None, None]
        return self.past(x) + self.after(inner)


def _waves(times: Tensor, width: int) -> Tensor:
    """(N, width) sines and cosines of the times."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=times.device) / half)
    angles = times.unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
