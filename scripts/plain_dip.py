"""DIP one image at a time, the way the public DIP code is used: modules, a loss, a loop. The yardstick of
`make bench`; nothing else uses it.
"""

import time

import torch
from torch import Tensor, nn

DEPTH, WIDTH, SKIP, SCALES = 4, 32, 3, 3  # DDIP Appendix B, CIFAR-10


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution on reflection padding."""
    return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, stride))


def act(features: int) -> nn.Sequential:
    """What follows each convolution."""
    return nn.Sequential(nn.BatchNorm2d(features), nn.LeakyReLU(0.2, inplace=True))


class Scale(nn.Module):
    """One scale of the U-Net, with those inside it."""

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
        """(1, inputs, H, W) to (1, WIDTH, H, W)."""
        return self.out(torch.cat([self.skip(x), self.deep(x)], 1))


def plain_dip(image: Tensor, steps: int) -> float:
    """Seconds of one step for an image (1, C, H, W), on its device."""
    network = nn.Sequential(Scale(DEPTH, SCALES), conv(WIDTH, image.shape[1], 1), nn.Sigmoid())
    network.to(image.device)
    fixed = torch.rand(1, DEPTH, *image.shape[2:], device=image.device) * 0.1
    noise = torch.empty_like(fixed)
    optimiser, criterion = torch.optim.Adam(network.parameters(), lr=0.01), nn.MSELoss()
    for step in range(steps + 5):
        if step == 5:
            if image.is_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
        optimiser.zero_grad()
        loss = criterion(network(fixed + noise.normal_() * (1 / 30)), image)
        loss.backward()
        loss.item()
        optimiser.step()
    if image.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps
