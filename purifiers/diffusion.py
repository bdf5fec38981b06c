"""Diffusion purification: Nie et al. 2022, Diffusion Models for Adversarial Purification (DiffPure),
https://arxiv.org/abs/2205.07460, on a model of Ho et al. 2020, https://arxiv.org/abs/2006.11239.
"""

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.fitting.draws import Draws
from purifiers.learned import Learned
from purifiers.purifier import TRIAL_STEPS, Purifier
from purifiers.training import Training

FIRST, LAST = 1e-4, 0.02  # the variances added at the first and the last time, linear between


class Diffusion(Learned):
    """Noise is added up to a time, and taken away again step by step by a diffusion model.

    The steps are the model's own ancestral sampling, which discretises the reverse SDE of the paper at
    every time of the model. The estimate of the clean image is kept in [-1, 1] at each step.

    Args:
        weights: of the network.
        network: noisy images in [-1, 1] and times to their noise.
        times: T of the model.
        until: the time t* up to which noise is added; 100 of 1000 on CIFAR-10 in the paper, 150 on
            ImageNet.
    """

    version = 1
    stochastic: ClassVar = True
    gradient: ClassVar = "exact"
    afterwards = frozenset({"until"})

    def __init__(
        self, *, weights: WeightFile | Training, network: nn.Module, times: int = 1000, until: int = 100
    ) -> None:
        if not 1 <= until <= times:
            raise InputError(f"purifier.until: expected 1 to {times}, got {until}")
        super().__init__(weights=weights, network=network)
        self.until = until
        self.betas = torch.linspace(FIRST, LAST, times, dtype=torch.float64)
        self.kept = torch.cumprod(1 - self.betas, 0)  # the share of the image's variance at each time

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the predicted noise at random times (Ho et al., Eq. 14)."""
        times = torch.randint(len(self.kept), (len(images),), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        share = self.kept[times].view(-1, 1, 1, 1).to(images)
        noisy = share.sqrt() * (2 * images - 1) + (1 - share).sqrt() * noise.to(images)
        return F.mse_loss(self.network(noisy, times.to(images.device)), noise.to(images))

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Forward to `until` in one go, back in as many steps."""
        draws = Draws(seeds, images.device)
        share = self.kept[self.until - 1].item()
        noise = draws.normal(images.shape[1:]).to(images)
        x = share**0.5 * (2 * images - 1) + (1 - share) ** 0.5 * noise
        for time in reversed(range(self.until)):
            x = self._back(x, time, draws)
        return (x / 2 + 0.5).clamp(0, 1)

    def trial(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """The same up to an early time, from which there are few steps back."""
        short = copy.copy(self)
        short.until = min(self.until, steps)
        return short, self.until / short.until

    def _back(self, x: Tensor, time: int, draws: Draws) -> Tensor:
        """One step of ancestral sampling, from `time` to the one before."""
        beta, share = self.betas[time].item(), self.kept[time].item()
        before = self.kept[time - 1].item() if time else 1.0
        predicted = self.network(x, torch.full((len(x),), time, device=x.device))
        clean = ((x - (1 - share) ** 0.5 * predicted) / share**0.5).clamp(-1, 1)
        mean = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - share)
        if time == 0:
            return mean
        spread = (beta * (1 - before) / (1 - share)) ** 0.5
        return mean + spread * draws.normal(x.shape[1:]).to(x)
