"""Fits many small networks at once, one to each image, as one grouped network.

B networks are stacked along the channels of a single (n, B*C, H, W) tensor. Convolution with B
groups is then exactly B convolutions; BatchNorm over a batch of one normalises each image by
itself; Adam is elementwise; the loss is the sum of the images' own losses. An image's optimisation
is therefore what it would be alone, up to rounding. On a CPU even the rounding is the same wherever the
channels fill whole vector registers (tested), so batches are filled up to a multiple of FILL.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from purifiers.fitting.draws import Draws
from purifiers.fitting.stack import STACKS, Stack

Parameters = Mapping[str, Tensor]
Observer = Callable[[int, Tensor], None]  # is told a step and the reconstructions before its update

# The kernels of a CPU take other paths for channels that are left over. Adam turns a gradient that is
# only rounding into a full step, so that after some steps such a difference can be seen.
FILL = 8
WARM_UP = 3  # steps before a CUDA graph is captured, in which libraries choose and allocate


@runtime_checkable
class Architecture(Protocol):
    """A network by its parameters: how to draw them for one image, and how to run B of them."""

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """One image's parameters, drawn on the CPU; convolution weights are (out, in, k, k).

        Raises InputError for images (C, H, W) that the network cannot take.
        """
        ...

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked inputs (n, B*in, H, W) to stacked outputs."""
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
        stack = STACKS[images.device.type]
        self.images, self.stack = images, stack(len(images), Draws(seeds, images.device))
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [architecture.initialise(tuple(images.shape[1:]), g) for g in self.generators]
        self.parameters = {
            name: leaf(self.stack.laid_out(torch.cat([one[name] for one in drawn]).to(images)))
            for name in drawn[0]
        }

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map stacked inputs to stacked outputs."""
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
        """Return the optimiser of these parameters."""
        options: dict[str, Any] = {"fused": True, "capturable": leaves[0].is_cuda}
        return torch.optim.Adam(
            leaves, lr=self.lr, weight_decay=self.weight_decay, amsgrad=self.amsgrad, **options
        )


@dataclass(frozen=True)
class SGD:
    """Plain gradient descent."""

    lr: float

    def __call__(self, leaves: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of these parameters."""
        return torch.optim.SGD(leaves, lr=self.lr, fused=True)


class Fit:
    """An optimisation of networks that can be run in parts; on CUDA its step is one captured graph.

    Args:
        networks: what is fitted.
        loss: makes one step's images (B, C, H, W) and losses (B,) from tensors that stay where they
            are: on CUDA it is recorded once and replayed.
        optimiser: updates the networks' parameters.
    """

    def __init__(
        self,
        networks: Networks,
        loss: Callable[[], tuple[Tensor, Tensor]],
        optimiser: Adam | SGD,
    ) -> None:
        self.networks, self.loss = networks, loss
        self.optimiser = optimiser([*networks.parameters.values()])
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, steps: int, observe: Observer = lambda step, images: None) -> None:
        """Take `steps` steps. `observe` is called after each with its number in this run, from 0, and the
        images that its loss was taken of, before the update: (asked, C, H, W), detached."""
        for step in range(steps):
            images = self._replay() if self._is_captured else self._step()
            observe(step, images[: self.networks.asked])

    @property
    def _is_captured(self) -> bool:
        return self.networks.images.is_cuda

    @torch.enable_grad()
    def _step(self) -> Tensor:
        self.optimiser.zero_grad()
        images, losses = self.loss()
        losses.sum().backward()
        self.optimiser.step()
        return images.detach()

    def _replay(self) -> Tensor:
        self.taken += 1
        aside = _side_stream(self.networks.images.device)
        if self.taken <= WARM_UP:
            # What is allocated aside is used again aside only, after all that the current stream had to do
            # with it: so every step begins and ends with a wait.
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                images = self._step()
            torch.cuda.current_stream().wait_stream(aside)
            return images
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside):
                self.images = self._step()
            self.graph = graph
        self.graph.replay()
        return self.images.clone()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream on which steps are warmed up and captured. The memory that a stream has freed can only
    be used again on that stream, so that many streams would hold many times the memory."""
    return torch.cuda.Stream(device)


def leaf(x: Tensor) -> Tensor:
    """Return a tensor that is learnt, in its own memory layout."""
    return x.detach().requires_grad_()
