"""OAG: Li et al. 2020, Online Alternate Generator against Adversarial Attacks.
https://arxiv.org/abs/2009.08110
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from purifiers.fitting.engine import SGD, Fit, Networks, Observer, Parameters
from purifiers.fitting.stack import Stack
from purifiers.fitting.trace import Newest, Readout, Trace, TracePurifier
from purifiers.networks.fcn import conv_parameters

SLOPE = 0.2  # of a LeakyReLU on a single number: a ReLU that starts negative would never learn


@dataclass(frozen=True)
class Generator:
    """The paper's F, which maps an image to one number by a convolution, a fully connected layer and a
    non-linearity.

    Args:
        kernel: size of the convolution (Table V).
        filters: number of filters of the convolution; the paper does not state it.
        stride: stride of the convolution; the paper does not state it.
        activation: position of the non-linearity. "middle": a ReLU after the convolution, as in the
            prototype that the paper analyses (Eq. 6). "last": after the fully connected layer, which is
            the order of the paper's list.
    """

    version = 1
    kernel: int = 15
    filters: int = 32
    stride: int = 3
    activation: Literal["middle", "last"] = "middle"

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise InputError(f"network.kernel: expected an odd size, got {self.kernel}")
        if self.activation not in ("middle", "last"):
            raise InputError(f"network.activation: expected middle or last, got {self.activation!r}")

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one network for images of shape (C, H, W)."""
        channels, *size = shape
        sides = [-(-side // self.stride) for side in size]
        features = self.filters * sides[0] * sides[1]
        drawn = conv_parameters("conv", channels, self.filters, self.kernel, generator)
        bound = (6 / (features + 1)) ** 0.5
        weight = torch.empty(self.filters, *sides).uniform_(-bound, bound, generator=generator)
        return drawn | {"full.weight": weight, "full.bias": torch.zeros(1)}

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked images (n, B*C, H, W) to (n, B)."""
        weight, bias = parameters["conv.weight"], parameters["conv.bias"]
        x = stack.conv_blocks(inputs, weight, bias, stride=self.stride)
        if self.activation == "middle":
            x = F.relu_(x)
        full = stack.laid_out(parameters["full.weight"].unsqueeze(0))
        x = (x * full).unflatten(1, (stack.size, -1)).sum((2, 3, 4)) + parameters["full.bias"]
        return x if self.activation == "middle" else F.leaky_relu(x, SLOPE)


@dataclass(frozen=True)
class Autoencoder:
    """Section H's control, fitted in one go: the generator's convolution, a fully connected layer to
    one number, a non-linearity, a fully connected layer back, and the mirrored convolution.

    Args:
        kernel, filters, stride: as for the generator.
    """

    version = 1
    kernel: int = 15
    filters: int = 32
    stride: int = 3

    def initialise(self, shape: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial parameters of one network for images of shape (C, H, W)."""
        drawn = Generator(self.kernel, self.filters, self.stride).initialise(shape, generator)
        back = conv_parameters("back", shape[0], self.filters, self.kernel, generator)
        features = drawn["full.weight"].shape
        return drawn | {
            "spread.weight": torch.empty(features).uniform_(-1, 1, generator=generator),
            "spread.bias": torch.empty(features).uniform_(-1, 1, generator=generator),
            "back.weight": back["back.weight"],  # (filters, C, k, k)
            "back.bias": torch.zeros(shape[0]),
        }

    def __call__(self, parameters: Parameters, inputs: Tensor, stack: Stack) -> Tensor:
        """Map stacked images to stacked images, both (n, B*C, H, W)."""
        p = parameters
        x = stack.conv(inputs, p["conv.weight"], p["conv.bias"], stride=self.stride, padding="constant")
        x = (x * p["full.weight"]).unflatten(1, (stack.size, -1)).flatten(2).sum(2) + p["full.bias"]
        x = F.leaky_relu(x, SLOPE).unsqueeze(2).unsqueeze(2).unsqueeze(2)  # (n, B, 1, 1, 1)
        wide = p["spread.weight"].unflatten(0, (stack.size, -1)) * x
        wide = (wide + p["spread.bias"].unflatten(0, (stack.size, -1))).flatten(1, 2)
        return stack.conv_back(
            wide, p["back.weight"], p["back.bias"], stride=self.stride, size=inputs.shape[2:]
        )


@dataclass(frozen=True)
class OAGTrace(Trace):
    """Synthesises an image from zero, by Langevin steps on an energy that is learnt meanwhile (Algorithm 1).

    It is not a FitTrace, and its gradient is "bpda": each step updates the image by gradients of the network
    with respect to it, and the image is state that no parameter holds.

    One update of the network (Eq. 5) follows `image_steps` updates of the image (Eq. 3).

    Args:
        network: the generator.
        image_steps: T_I.
        noise: epsilon_g of Eq. 3.
        lr: beta of Eq. 5.
        scale: range of the image's values, from -scale/2 to scale/2. The noise of Eq. 3, whose
            standard deviation settles at 1, is 1/scale of the range.

    The paper does not state noise, lr and scale; docs/findings.md says how these values were found.
    """

    version = 1
    network: Generator
    image_steps: int = 20
    noise: float = 0.3
    lr: float = 3e-5
    scale: float = 255.0

    def stream(self, images: Tensor, seeds: Sequence[int], steps: int, observe: Observer) -> None:
        """Call `observe` with the synthesised images, each before the network's update that follows it."""
        networks = Networks(self.network, images, seeds=seeds)
        stack = networks.stack
        reference = stack.beside((networks.images - 0.5) * self.scale)
        made = torch.zeros_like(reference)
        rate = self.noise**2 / 2

        def loss() -> tuple[Tensor, Tensor]:
            for _ in range(self.image_steps):
                at = made.clone().requires_grad_()
                (slope,) = torch.autograd.grad(networks(at).sum(), at)
                made.sub_(rate * (made - slope)).add_(networks.normal(made) * self.noise)
            energies = networks(torch.cat([made, reference]))
            return stack.apart(made / self.scale + 0.5)[:, 0].clamp(0, 1), energies[0] - energies[1]

        Fit(networks, loss, SGD(self.lr)).run(steps, observe)


class OAG(TracePurifier):
    """Returns the image that is synthesised after `network_steps` updates.

    Args:
        trace: the updates of image and network.
        network_steps: T_N, 300 on Flower-17 and 600 on ILSVRC, chosen by the rule of section III-D from
            images with Gaussian noise.
    """

    version = 3

    def __init__(self, *, trace: OAGTrace, network_steps: int = 300) -> None:
        super().__init__(trace=trace, steps=network_steps)

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Return a readout that keeps the newest image."""
        return Newest()
