"""MobileNets with the 8-bit weights of google-coral/test_data, in floating point: Howard et al. 2017,
https://arxiv.org/abs/1704.04861, and Sandler et al. 2018, https://arxiv.org/abs/1801.04381.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from victims.pretrained import PretrainedNetwork, without_background

# Filters and stride of each pair of depthwise and 1x1 convolutions.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *5 * ((512, 1),), (1024, 2), (1024, 1))
# Widening, filters, repetitions and first stride of each group of inverted residuals.
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Int8MobileNet(PretrainedNetwork):
    """Maps images (N, 3, 224, 224) in [-1, 1] to logits.

    A checkpoint holds, in the network's order, 8-bit weights w<i> (out, height, width, in) with scale and
    zero point, and biases b<i>; BatchNorm is folded into them. The weights become float32,
    scale * (w - zero point). Activations are float32 too; their rounding to 8 bits is not imitated. Padding
    is TensorFlow's SAME.

    Args:
        architecture: version of MobileNet, 1 or 2.
        classes: number of logits; the checkpoints' first class, the background, is dropped.
    """

    version = 1

    def __init__(self, *, architecture: Literal[1, 2], classes: int = 1000) -> None:
        if architecture not in (1, 2):
            raise InputError(f"victim.network.architecture: expected 1 or 2, got {architecture}")
        self.architecture, self.classes = architecture, classes
        super().__init__()

    def made(self) -> nn.Module:
        """Return the untrained network."""
        body = _v1() if self.architecture == 1 else _v2()
        last = 1024 if self.architecture == 1 else 1280
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Conv2d(last, self.classes, 1), nn.Flatten())

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert integers to weights; a checkpoint with the network's own names is returned unchanged."""
        if "w0" not in state:
            return dict(state)
        layers = {name: part for name, part in self.model.named_modules() if isinstance(part, nn.Conv2d)}
        weights = {}
        for i, (name, layer) in enumerate(layers.items()):
            if f"w{i}" not in state or state[f"w{i}_scale"].numel() != 1:
                raise InputError(
                    f"victim weights do not fit the network: expected {len(layers)} layers, each with one "
                    f"scale, got another layer {i}"
                )
            integers = state[f"w{i}"].float() - state[f"w{i}_zp"].float()
            depthwise = layer.groups > 1
            order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
            weights[f"{name}.weight"] = (integers * state[f"w{i}_scale"]).permute(order).contiguous()
            weights[f"{name}.bias"] = state[f"b{i}"]
        if len(weights[f"{self.head}.bias"]) == 1001:
            weights = without_background(weights, self.head)
        return weights


class UnfoldedMobileNet(Int8MobileNet):
    """The same network with BatchNorm after each convolution again, so that all layers can be fine-tuned.

    With a checkpoint without BatchNorm it computes the function of the checkpoint: see `Unfolded`.
    """

    version = 1

    def made(self) -> nn.Module:
        """Return the untrained network."""
        network = super().made()
        for name, layer in list(network.named_modules()):
            if isinstance(layer, Same):
                network.set_submodule(name, _with_norm(layer))
        return network

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert integers to weights, and each convolution's bias to that of its BatchNorm."""
        if "w0" not in state:
            return dict(state)
        weights = super().converted(state)
        for name, layer in self.model.named_modules():
            if isinstance(layer, Unfolded):
                bias = weights.pop(f"{name.rpartition('.')[0]}.0.bias")
                weights |= {f"{name}.{part}": value for part, value in layer.state_without(bias).items()}
        return weights


class Unfolded(nn.BatchNorm2d):
    """A restored BatchNorm that was folded into the convolution before it.

    The checkpoint lacks its statistics. The first training batch gives them, and weight and bias are changed
    accordingly, so that the layer still computes the same function. That batch is normalised by its own
    statistics, as always in training, so the network's output for it does not change either.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)  # as in TensorFlow's MobileNets
        self.register_buffer("lacking", torch.tensor(False))  # whether its statistics are missing

    def state_without(self, bias: Tensor) -> dict[str, Tensor]:
        """Return the state without statistics in which the layer only adds `bias`."""
        plain = {"weight": torch.full_like(bias, (1 + self.eps) ** 0.5), "bias": bias}
        statistics = {"running_mean": torch.zeros_like(bias), "running_var": torch.ones_like(bias)}
        return plain | statistics | {"num_batches_tracked": torch.tensor(0), "lacking": torch.tensor(True)}

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised values (N, channels, H, W)."""
        if self.training and self.lacking:
            self._measure(x)
        return super().forward(x)

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        slope = self.weight / (self.running_var + self.eps).sqrt()
        self.bias.add_(slope * (mean - self.running_mean))
        self.weight.copy_(slope * (variance + self.eps).sqrt())
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        self.lacking.fill_(False)


class Same(nn.Conv2d):
    """A convolution with TensorFlow's padding, which for stride 2 and an even side is on the right and at the
    bottom only."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, filters, ceil(H / stride), ceil(W / stride))."""
        pads = []
        for side in reversed(images.shape[2:]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            lacking = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [lacking // 2, lacking - lacking // 2]
        return super().forward(F.pad(images, pads) if any(pads) else images)


class Inverted(nn.Module):
    """MobileNetV2's block, which widens its input, filters each channel and narrows the result.

    The result is added to an input of the same shape.
    """

    def __init__(self, inputs: int, outputs: int, *, widen: int, stride: int) -> None:
        super().__init__()
        inner = inputs * widen
        wide = _convolution(inputs, inner, 1) if widen > 1 else []
        self.layers = nn.Sequential(
            *wide, *_convolution(inner, inner, 3, stride, groups=inner), Same(inner, outputs, 1)
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        narrowed = self.layers(x)
        return x + narrowed if self.adds else narrowed


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    return Same(inputs, outputs, kernel, stride, groups=groups), nn.ReLU6()


def _with_norm(layer: Same) -> nn.Sequential:
    bare = Same(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size[0],
        layer.stride[0],
        groups=layer.groups,
        bias=False,
    )
    return nn.Sequential(bare, Unfolded(layer.out_channels))


def _v1() -> list[nn.Module]:
    layers = [*_convolution(3, 32, 3, 2)]
    for (inputs, _), (outputs, stride) in pairwise(((32, 2), *V1)):
        layers += [*_convolution(inputs, inputs, 3, stride, groups=inputs), *_convolution(inputs, outputs, 1)]
    return layers


def _v2() -> list[nn.Module]:
    layers, inputs = [*_convolution(3, 32, 3, 2)], 32
    for widen, outputs, repetitions, first in V2:
        for repetition in range(repetitions):
            stride = first if repetition == 0 else 1
            layers.append(Inverted(inputs, outputs, widen=widen, stride=stride))
            inputs = outputs
    return [*layers, *_convolution(320, 1280, 1)]
