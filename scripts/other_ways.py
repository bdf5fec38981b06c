"""Other ways to fit a network to each image, to which `make bench` compares the engine.

DIP and RIDE run one image at a time, as the public DIP code is used: modules, a loss, a loop. The other
functions compute the engine's convolutions in other layouts.
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purifiers.fitting.stack import Stack

DEPTH, WIDTH, SKIP, SCALES = 4, 32, 3, 3  # DDIP Appendix B, CIFAR-10


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with reflection padding."""
    return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, stride))


def act(features: int) -> nn.Sequential:
    """Return the normalisation and activation that follow each convolution."""
    return nn.Sequential(nn.BatchNorm2d(features), nn.LeakyReLU(0.2, inplace=True))


class Scale(nn.Module):
    """One scale of the U-Net, with all smaller scales."""

    def __init__(self, inputs: int, left: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(conv(inputs, SKIP, 1), act(SKIP))
        inner = [Scale(WIDTH, left - 1)] if left > 1 else []
        self.deep = nn.Sequential(
            conv(inputs, WIDTH, 3, 2), act(WIDTH), conv(WIDTH, WIDTH, 3), act(WIDTH), *inner,
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.BatchNorm2d(WIDTH + SKIP), conv(WIDTH + SKIP, WIDTH, 3), act(WIDTH),
            conv(WIDTH, WIDTH, 1), act(WIDTH),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, inputs, H, W) to (1, WIDTH, H, W)."""
        return self.out(torch.cat([self.skip(x), self.deep(x)], 1))


def plain_dip(image: Tensor, steps: int) -> float:
    """Return the seconds of one step of DIP for an image (1, C, H, W), on its device."""
    network = nn.Sequential(Scale(DEPTH, SCALES), conv(WIDTH, image.shape[1], 1), nn.Sigmoid())
    fixed = torch.rand(1, DEPTH, *image.shape[2:], device=image.device) * 0.1
    noise = torch.empty_like(fixed)
    return timed(network, lambda: (fixed + noise.normal_() * (1 / 30), image), 0.01, steps)


def plain_ride(image: Tensor, steps: int, *, hidden: int, dropout: Sequence[int]) -> float:
    """Return the seconds of one step of RIDE for an image (1, C, H, W).

    The network has `hidden` layers of 32 filters.
    """
    channels = image.shape[1]
    layers: list[nn.Module] = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()]
    for i in range(2, hidden + 1):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), *([nn.Dropout()] if i in dropout else [])]
    network = nn.Sequential(*layers, nn.Conv2d(32, channels, 3, padding=1), nn.Sigmoid())
    return timed(
        network,
        lambda: (image + 0.5 * torch.randn_like(image), image + 0.5 * torch.randn_like(image)),
        1e-4,
        steps,
    )


def timed(network: nn.Module, draw: Callable[[], tuple[Tensor, Tensor]], lr: float, steps: int) -> float:
    """Return the seconds of one step of a loop that fits the network to drawn inputs and targets."""
    cuda = (device := draw()[0].device).type == "cuda"
    network.to(device)
    optimiser, criterion = torch.optim.Adam(network.parameters(), lr=lr), nn.MSELoss()
    for step in range(steps + 5):
        if step == 5:
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
        optimiser.zero_grad()
        inputs, target = draw()
        loss = criterion(network(inputs), target)
        loss.backward()
        loss.item()
        optimiser.step()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def unfolded(stack: Stack, x: Tensor, w: Tensor, b: Tensor | None, stride: int) -> Tensor:
    """Convolve padded images by one batched matrix product."""
    k, apart = w.shape[-1], x.unflatten(1, (stack.size, -1))[0]
    columns = F.unfold(apart, k, stride=stride)
    out = torch.bmm(w.reshape(stack.size, -1, columns.shape[1]), columns)
    sides = [(side - k) // stride + 1 for side in x.shape[2:]]
    out = out.view(1, -1, *sides)
    return out if b is None else out + b.view(1, -1, 1, 1)


def in_turn(stack: Stack, x: Tensor, w: Tensor, b: Tensor | None, stride: int) -> Tensor:
    """Convolve padded images by one convolution for each image."""
    biases = [None] * stack.size if b is None else b.chunk(stack.size)
    parts = zip(x.chunk(stack.size, 1), w.chunk(stack.size), biases, strict=True)
    return torch.cat([F.conv2d(image, weight, bias, stride=stride) for image, weight, bias in parts], 1)
