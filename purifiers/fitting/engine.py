"""Fits many small networks at once, one to each image, as one grouped network.

B networks are stacked along the channels of a single (n, B*C, H, W) tensor. Convolution with B
groups is then exactly B convolutions; BatchNorm over a batch of one normalises each image by
itself; Adam is elementwise; the loss is the sum of the images' own losses. An image's optimisation
is therefore what it would be alone, up to rounding. On a CPU even the rounding is the same if the
channels fill whole vector registers (tested), so batches are padded to a multiple of FILL.
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
Observer = Callable[[int, Tensor], None]  # called with a step and the reconstructions before its update

# CPU kernels take other code paths for channels that do not fill a vector register. Adam turns a gradient
# that is only rounding into a full step, so that such a difference becomes visible after some steps.
FILL = 8
WARM_UP = 3  # steps before a CUDA graph is captured, in which libraries choose algorithms and allocate memory


@runtime_checkable
class Architecture(Protocol):
    """An architecture, which draws the parameters of one image's network and runs B such networks."""

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return one image's parameters, drawn on the CPU; convolution weights are (out, in, k, k).

        Raises InputError for images (C, H, W) that the network cannot take.
        """
        ...

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked inputs (n, B*in, H, W) to stacked outputs."""
        ...


class Networks:
    """One network for each image (B, C, H, W), initialised from the image's own seed.

    Attributes:
        images: the images, padded with copies of the last one to whole vector registers.
        asked: number of given images.
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
            name: leaf(self.stack.laid_out(torch.cat([parameters[name] for parameters in drawn]).to(images)))
            for name in drawn[0]
        }

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map stacked inputs to stacked outputs."""
        return self.architecture(self.parameters, inputs, self.stack)

    def drawn_once(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """Return the stacked (1, B*C, H, W) results (C, H, W) of `draw` for each image's generator."""
        return self.stack.beside(torch.stack([draw(g) for g in self.generators]).to(self.images))

    def normal(self, like: Tensor, n: int = 1) -> Tensor:
        """Return new (n, B*C, H, W) standard normal numbers for stacked images (_, B*C, H, W)."""
        _, channels, height, width = like.shape
        drawn = self.stack.draws.normal((n, channels // len(self.images), height, width))
        return self.stack.beside(drawn.to(like.dtype))


@dataclass(frozen=True)
class Adam:
    """Adam: Kingma and Ba 2014, https://arxiv.org/abs/1412.6980. The decay is added to the gradient."""

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
        networks: the networks that are fitted.
        loss: function that computes one step's images (B, C, H, W) and losses (B,). Its tensors must keep
            their addresses, since on CUDA it is recorded once and replayed.
        optimiser: optimiser of the networks' parameters.
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
        """Take `steps` steps, and call `observe` after each.

        Its arguments are the step's number in this run, from 0, and the detached images (asked, C, H, W) of
        the step's loss, which are those before the update.
        """
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
            # Memory that is allocated on the side stream is reused only on that stream, and only after the
            # current stream has finished with it, so every step begins and ends with a wait.
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
    """Return the single stream on which steps are warmed up and captured.

    Memory that a stream has freed can only be reused on that stream, so that many streams would hold many
    times the memory.
    """
    return torch.cuda.Stream(device)


def leaf(x: Tensor) -> Tensor:
    """Return the detached tensor with `requires_grad`, in its own memory layout."""
    return x.detach().requires_grad_()
