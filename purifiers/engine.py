"""Fits many small networks at once, one to each image, as one grouped network.

B networks are stacked along the channels of a single (1, B*C, H, W) tensor. Convolution with B
groups is then exactly B convolutions; BatchNorm over a batch of one normalises each image by
itself; Adam is elementwise; the loss is the sum of the images' own means. An image's optimisation
is therefore what it would be alone, up to rounding. On a CPU even the rounding is the same wherever the
channels fill whole vector registers (tested), so batches are filled up to a multiple of FILL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]

# The kernels of a CPU take other paths for channels that are left over. Adam turns a gradient that is
# only rounding into a full step, so that after some steps such a difference can be seen.
FILL = 8


class Architecture(Protocol):
    """A network by its parameters: how to draw them for one image, and how to run B of them."""

    def initialise(self, channels: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One image's parameters, drawn on the CPU; convolution weights are (out, in, k, k)."""
        ...

    def noise(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """One image's input (channels, H, W), values in [0, 1)."""
        ...

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: "Stack") -> Tensor:
        """(1, B*in, H, W) to images (1, B*out, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True)
class Stack:
    """Layers of `size` independent networks that lie side by side along the channels."""

    size: int

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: str
    ) -> Tensor:
        """Convolution that keeps the size (divided by the stride), for odd and even kernels.

        `padding` is F.pad's mode. An even kernel takes its extra row and column at the far end.
        """
        k = weight.shape[-1]
        if k == 1:
            return F.conv2d(x, weight, bias, stride=stride, groups=self.size)
        near, far = (k - 1) // 2, k // 2
        x = F.pad(x, (near, far, near, far), mode=padding)
        return F.conv2d(x, weight, bias, stride=stride, groups=self.size)

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Batch normalisation of each image by its own statistics."""
        return F.batch_norm(x, None, None, scale, shift, training=True)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the channels of each network's parts."""
        split = [part.unflatten(1, (self.size, -1)) for part in parts]
        return torch.cat(split, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)


def fit(
    network: Architecture,
    targets: Tensor,
    *,
    seeds: Sequence[int],
    steps: int,
    lr: float,
    input_scale: float,
    jitter: float,
    optimise_input: bool,
    observe: Callable[[int, Tensor], None],
) -> None:
    """Fit one network to each target by Adam on the mean squared error.

    Args:
        targets: images (B, C, H, W) in [0, 1].
        seeds: one an image; it draws the image's parameters, input and jitter.
        steps: iterations.
        input_scale: the fixed input is uniform in [0, input_scale).
        jitter: standard deviation of normal noise added to the input, anew at each step.
        optimise_input: let Adam move the input too.
        observe: called before each update with the step (from 0) and the reconstructions
            (B, C, H, W), detached.
    """
    asked = len(targets)
    if targets.device.type == "cpu" and (extra := -asked % FILL):
        targets = torch.cat([targets, targets[-1:].expand(extra, -1, -1, -1)])
        seeds = [*seeds, *[seeds[-1]] * extra]
    batch, channels, height, width = targets.shape
    stack = Stack(batch)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn = [network.initialise(channels, generator) for generator in generators]
    noise = [network.noise((height, width), generator) for generator in generators]
    parameters = {name: _leaf(torch.cat([one[name] for one in drawn]).to(targets)) for name in drawn[0]}
    inputs = _leaf(torch.cat(noise).to(targets).unsqueeze(0) * input_scale)
    target = _layout(targets.reshape(1, batch * channels, height, width))
    leaves = [*parameters.values(), *([inputs] if optimise_input else [])]
    inputs.requires_grad_(optimise_input)
    optimiser = torch.optim.Adam(leaves, lr=lr, fused=True)
    pixels = channels * height * width
    with torch.enable_grad():
        for step in range(steps):
            given = inputs
            if jitter:
                draws = [torch.randn(noise[0].shape, generator=g) for g in generators]
                given = inputs + _layout(torch.cat(draws).to(targets).unsqueeze(0)) * jitter
            output = network(parameters, given, stack)
            observe(step, output.detach().reshape(targets.shape)[:asked])
            loss = (output - target).square().sum() / pixels
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def _layout(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


def _leaf(x: Tensor) -> Tensor:
    return _layout(x).requires_grad_()
