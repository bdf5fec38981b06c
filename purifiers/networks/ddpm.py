"""The CIFAR-10 network of Ho et al. 2020, Denoising Diffusion Probabilistic Models,
https://arxiv.org/abs/2006.11239, with the tensor names of the checkpoint that was published for the library
diffusers (google/ddpm-cifar10-32).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purifiers.networks.noise_schedule import variances

GROUPS, EPS = 32, 1e-6  # of each GroupNorm


class DDPM(nn.Module):
    """Maps noisy images (N, C, H, W) and noise levels (N,) to an estimate of the clean images in [-1, 1].

    The network itself predicts the noise in images that were scaled down at one of the times of the chain.
    The image is scaled by its noise level, and the time is the one whose noise level is nearest.

    Args:
        channels: number of image channels.
        widths: filters at each scale, outermost first; each scale halves the size.
        attention: scale that has attention, counted from 0.
        layers: residual blocks at each scale on the way down; there is one more on the way up.
        times: number of times in the chain.
    """

    version = 1

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: Sequence[int] = (128, 256, 256, 256),
        attention: int = 1,
        layers: int = 2,
        times: int = 1000,
    ) -> None:
        super().__init__()
        self.channels = channels
        kept = variances(times)[1]
        self.register_buffer("levels", ((1 - kept) / kept).sqrt().float(), persistent=False)
        first, code = widths[0], 4 * widths[0]
        self.first = first
        self.conv_in = nn.Conv2d(channels, first, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(first, code), "linear_2": nn.Linear(code, code)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        inputs, skips = first, [first]
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            sizes = [(inputs if j == 0 else width, width) for j in range(layers)]
            self.down_blocks.append(
                Scale(sizes, code, attention=i == attention, sampler=None if last else "downsamplers")
            )
            skips += [width] * (layers if last else layers + 1)
            inputs = width
        self.mid_block = Scale([(inputs, inputs)] * 2, code, attention=True, sampler=None, between=True)
        for i, width in reversed(list(enumerate(widths))):
            sizes = [((inputs if j == 0 else width) + skips.pop(), width) for j in range(layers + 1)]
            sampler = None if i == 0 else "upsamplers"
            self.up_blocks.append(Scale(sizes, code, attention=i == attention, sampler=sampler))
            inputs = width
        self.conv_norm_out = nn.GroupNorm(GROUPS, first, eps=EPS)
        self.conv_out = nn.Conv2d(first, channels, 3, padding=1)

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """Return the estimate of the clean images, which is not clipped; sides are multiples of 8 pixels."""
        sigma = levels.to(noisy).view(-1, 1, 1, 1)
        times = (self.levels.log() - levels.to(noisy).log().unsqueeze(1)).abs().argmin(1)
        return noisy - sigma * self.noise(noisy / (1 + sigma.square()).sqrt(), times)

    def noise(self, images: Tensor, times: Tensor) -> Tensor:
        """Return the predicted noise in images of the chain at these times."""
        code = self._code(times).to(images)
        x = self.conv_in(images)
        skips = [x]
        for block in self.down_blocks:
            for layer in range(len(block.resnets)):
                x = block.layer(layer, x, code)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0]["conv"](F.pad(x, (0, 1, 0, 1)))
                skips.append(x)
        x = self.mid_block.layer(0, x, code)
        x = self.mid_block.resnets[1](x, code)
        for block in self.up_blocks:
            for layer in range(len(block.resnets)):
                x = block.layer(layer, torch.cat([x, skips.pop()], 1), code)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0]["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def _code(self, times: Tensor) -> Tensor:
        """Return the (N, 4 x first) codes of the times."""
        half = self.first // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half, device=times.device) / (half - 1))
        angles = times.unsqueeze(1) * rates
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.conv_in.weight)
        return self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](waves)))


class Scale(nn.Module):
    """The residual blocks of one scale, each with its attention, and the convolution to the next scale."""

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        code: int,
        *,
        attention: bool,
        sampler: str | None,
        between: bool = False,
    ) -> None:
        super().__init__()
        width = sizes[0][1]
        self.resnets = nn.ModuleList([Residual(inputs, outputs, code) for inputs, outputs in sizes])
        if attention:
            count = len(sizes) - 1 if between else len(sizes)
            self.attentions = nn.ModuleList([Attention(width) for _ in range(count)])
        if sampler is not None:
            stride, padding = (2, 0) if sampler == "downsamplers" else (1, 1)
            convolution = nn.Conv2d(width, width, 3, stride=stride, padding=padding)
            setattr(self, sampler, nn.ModuleList([nn.ModuleDict({"conv": convolution})]))

    def layer(self, place: int, x: Tensor, code: Tensor) -> Tensor:
        """Apply one residual block, and its attention if the scale has attention."""
        x = self.resnets[place](x, code)
        return self.attentions[place](x) if hasattr(self, "attentions") else x


class Residual(nn.Module):
    """A residual block that is given the code of the time."""

    def __init__(self, inputs: int, outputs: int, code: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(code, outputs)
        self.norm2 = nn.GroupNorm(GROUPS, outputs, eps=EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        inner = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(code))[:, :, None, None]
        past = self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x
        return past + self.conv2(F.silu(self.norm2(inner)))


class Attention(nn.Module):
    """Attention of each place to all places, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, width, eps=EPS)
        self.query, self.key, self.value, self.proj_attn = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        places = self.group_norm(x).flatten(2).transpose(1, 2)
        attended = F.scaled_dot_product_attention(self.query(places), self.key(places), self.value(places))
        return x + self.proj_attn(attended).transpose(1, 2).reshape(x.shape)
