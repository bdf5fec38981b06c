"""Fits many small networks at once, one to each image, as one grouped network.

B networks are stacked along the channels of a single (n, B*C, H, W) tensor. Convolution with B
groups is then exactly B convolutions; BatchNorm over a batch of one normalises each image by
itself; Adam is elementwise; the loss is the sum of the images' own losses. An image's optimisation
is therefore what it would be alone, up to rounding. On a CPU even the rounding is the same wherever the
channels fill whole vector registers (tested), so batches are filled up to a multiple of FILL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from purifiers.fitting.draws import Draws

Parameters = Mapping[str, Tensor]

# The kernels of a CPU take other paths for channels that are left over. Adam turns a gradient that is
# only rounding into a full step, so that after some steps such a difference can be seen.
FILL = 8
WARM_UP = 3  # steps before a CUDA graph is captured, in which libraries choose and allocate


@dataclass(frozen=True)
class Stack:
    """Layers of `size` independent networks that lie side by side along the channels."""

    size: int
    draws: Draws

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: str
    ) -> Tensor:
        """Convolution that keeps the size (divided by the stride), for odd and even kernels.

        `padding` is F.pad's mode. An even kernel takes its extra row and column at the far end.
        """
        k = weight.shape[-1]
        if padding == "constant" and k % 2:  # zeros: the convolution's own
            return F.conv2d(x, weight, bias, stride=stride, padding=k // 2, groups=self.size)
        if k > 1:
            near, far = (k - 1) // 2, k // 2
            x = F.pad(x, (near, far, near, far), mode=padding)
        return F.conv2d(x, weight, bias, stride=stride, groups=self.size)

    def conv_blocks(self, x: Tensor, weight: Tensor, bias: Tensor, *, stride: int) -> Tensor:
        """`conv` of an odd kernel on zero padding, as one of stride 1 over blocks of stride x stride pixels.

        Equal up to rounding. On a CPU the gradient to x takes less than half the time (docs/performance.md).
        """
        k = weight.shape[-1]
        whole = -(-k // stride) * stride  # the kernel, filled up with zeros to whole blocks
        weight = F.pad(weight, (0, whole - k, 0, whole - k))
        near = k // 2
        down, right = ((-(-side // stride) - 1) * stride + whole - side - near for side in x.shape[2:])
        blocks = F.pixel_unshuffle(F.pad(x, (near, right, near, down)), stride)
        blocks = blocks.contiguous(memory_format=torch.channels_last)
        return F.conv2d(blocks, F.pixel_unshuffle(weight, stride), bias, groups=self.size)

    def conv_back(
        self, x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, size: Sequence[int]
    ) -> Tensor:
        """Transposed convolution on zero padding to images of `size`; weights are (in, out, k, k)."""
        k = weight.shape[-1]
        beyond = [side - 1 - stride * (small - 1) for side, small in zip(size, x.shape[2:], strict=True)]
        return F.conv_transpose2d(
            x, weight, bias, stride=stride, padding=k // 2, output_padding=beyond, groups=self.size
        )

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Batch normalisation of each image by its own statistics."""
        return F.batch_norm(x, None, None, scale, shift, training=True)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the channels of each network's parts."""
        last = [part.permute(0, 2, 3, 1).unflatten(3, (self.size, -1)) for part in parts]
        return torch.cat(last, 4).flatten(3).permute(0, 3, 1, 2)

    def dropout(self, x: Tensor, share: float) -> Tensor:
        """Set a random share of the values to zero and enlarge the others; active at all times."""
        n, _, height, width = x.shape
        kept = self.draws.chosen(1 - share, (n, height, width, x.shape[1] // self.size))
        return x * self.beside(kept.permute(0, 1, 4, 2, 3)).to(x.dtype).div_(1 - share)

    def beside(self, images: Tensor) -> Tensor:
        """(B, C, H, W), or (B, n, C, H, W), to (n, B*C, H, W): the networks' images side by side."""
        images = images if images.ndim == 5 else images.unsqueeze(1)
        return images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def apart(self, x: Tensor) -> Tensor:
        """(n, B*C, H, W) to (B, n, C, H, W)."""
        return x.unflatten(1, (self.size, -1)).transpose(0, 1)


@runtime_checkable
class Architecture(Protocol):
    """A network by its parameters: how to draw them for one image, and how to run B of them."""

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """One image's parameters, drawn on the CPU; convolution weights are (out, in, k, k).

        Raises InputError for images (C, H, W) that the network cannot take.
        """
        ...

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Stacked inputs (n, B*in, H, W) to stacked outputs."""
        ...


class Networks:
    """One network for each image (B, C, H, W), initialised from the image's own seed.

    Attributes:
        images: filled up with copies of the last to whole vector registers.
        asked: how many of them were given.
        stack: the layers, and the images' random numbers.
    """

    def __init__(self, architecture: Architecture, images: Tensor, *, seeds: Sequence[int]) -> None:
        self.architecture, self.asked = architecture, len(images)
        if images.device.type == "cpu" and (extra := -len(images) % FILL):
            images = torch.cat([images, images[-1:].expand(extra, -1, -1, -1)])
            seeds = [*seeds, *[seeds[-1]] * extra]
        self.images, self.stack = images, Stack(len(images), Draws(seeds, images.device))
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [architecture.initialise(tuple(images.shape[1:]), g) for g in self.generators]
        self.parameters = {
            name: leaf(torch.cat([one[name] for one in drawn]).to(images)) for name in drawn[0]
        }

    def __call__(self, inputs: Tensor) -> Tensor:
        """Stacked inputs to stacked outputs."""
        return self.architecture(self.parameters, inputs, self.stack)

    def drawn_once(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """(1, B*C, H, W): for each image what `draw` makes (C, H, W) of its generator."""
        return self.stack.beside(torch.stack([draw(g) for g in self.generators]).to(self.images))

    def normal(self, like: Tensor, n: int = 1) -> Tensor:
        """(n, B*C, H, W) standard normal numbers, new at each call, for stacked images (_, B*C, H, W)."""
        _, channels, height, width = like.shape
        drawn = self.stack.draws.normal((n, channels // len(self.images), height, width))
        return self.stack.beside(drawn.to(like.dtype))


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2014, https://arxiv.org/abs/1412.6980; `weight_decay` is added to the gradient."""

    lr: float
    weight_decay: float = 0.0
    amsgrad: bool = False

    def __call__(self, leaves: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""
        options: dict[str, Any] = {"fused": True, "capturable": leaves[0].is_cuda}
        return torch.optim.Adam(
            leaves, lr=self.lr, weight_decay=self.weight_decay, amsgrad=self.amsgrad, **options
        )


@dataclass(frozen=True)
class SGD:
    """Plain gradient descent."""

    lr: float

    def __call__(self, leaves: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""
        return torch.optim.SGD(leaves, lr=self.lr, fused=True)


class Fit:
    """An optimisation of networks that can be run in parts; on CUDA its step is one captured graph.

    Args:
        networks: what is fitted.
        loss: makes one step's images (B, C, H, W) and losses (B,) from tensors that stay where they
            are: on CUDA it is recorded once and replayed.
        optimiser: updates the networks' parameters.
        also: further leaves that it updates.
    """

    def __init__(
        self,
        networks: Networks,
        loss: Callable[[], tuple[Tensor, Tensor]],
        optimiser: Adam | SGD,
        *,
        also: Sequence[Tensor] = (),
    ) -> None:
        self.networks, self.loss = networks, loss
        self.optimiser = optimiser([*networks.parameters.values(), *also])
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, steps: int, observe: Callable[[int, Tensor], None] = lambda step, images: None) -> None:
        """Take `steps` steps. `observe` is called after each with its number in this run, from 0, and the
        images that its loss was taken of, before the update: (asked, C, H, W), detached."""
        for step in range(steps):
            images = self._replay() if self.networks.images.is_cuda else self._step()
            observe(step, images[: self.networks.asked])

    @torch.enable_grad()
    def _step(self) -> Tensor:
        self.optimiser.zero_grad()
        images, losses = self.loss()
        losses.sum().backward()
        self.optimiser.step()
        return images.detach()

    def _replay(self) -> Tensor:
        self.taken += 1
        if self.taken <= WARM_UP:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                images = self._step()
            torch.cuda.current_stream().wait_stream(aside)
            return images
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.images = self._step()
        self.graph.replay()
        return self.images.clone()


def leaf(x: Tensor) -> Tensor:
    """To be learnt, in the layout of the stack."""
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return x.detach().contiguous(memory_format=layout).requires_grad_()
