"""What the tests share: a linear victim with known answers, small images, a short trace."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # no spinning: two test processes share the cores

import pytest
import torch
from torch import Tensor, nn

from data.images import Images
from purifiers.dip import DIPTrace
from purifiers.skipnet import SkipNet

torch.set_num_threads(1)  # a process a core, as the runners have it


class LinearVictim(nn.Module):
    """Two classes: logits (0, w.x + b) + 50. Its smallest perturbations are known in closed form.

    The offset changes no decision; torchattacks' C&W needs positive logits.
    """

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), bias

    def margin(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight + self.bias

    def forward(self, images: Tensor) -> Tensor:
        score = self.margin(images)
        return torch.stack([torch.zeros_like(score), score], 1) + 50


def random_images(n: int, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def linear_victim(size: int = 32) -> LinearVictim:
    weight = torch.randn(3 * size * size, generator=torch.Generator().manual_seed(2))
    return LinearVictim(weight, float(-weight.sum() / 2))


def losses_of(purifier, images: Tensor, *, steps: int, lr: float) -> list[float]:
    """A learned purifier's objective along some plain Adam steps."""
    draws, losses = torch.Generator().manual_seed(0), []
    optimiser = torch.optim.Adam(purifier.network.parameters(), lr=lr)
    for _ in range(steps):
        loss = purifier.objective(images, draws)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def linear() -> tuple[LinearVictim, Images]:
    """A linear victim and 64 images away from the borders of [0, 1], all classified correctly."""
    generator = torch.Generator().manual_seed(1)
    images = 0.3 + 0.4 * torch.rand(64, 3, 8, 8, generator=generator)
    weight = torch.randn(192, generator=generator)
    victim = LinearVictim(weight, float(-(images.flatten(1) @ weight).median()) - 1e-3)
    labels = (victim.margin(images) > 0).long()
    return victim, Images(tuple(f"t/{i}" for i in range(64)), images, labels)


@pytest.fixture
def small_trace() -> DIPTrace:
    return DIPTrace(
        network=SkipNet(down=[8, 8], up=[8, 8], skip=[2, 2], kernel_down=[3, 3], kernel_up=[3, 3])
    )
