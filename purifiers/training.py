"""The trainer of learned purifiers: Adam on the purifier's own objective, on clean images only."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from data.checkpoint import Checkpoint, resume, state_of
from data.errors import InputError
from data.images import Dataset
from data.repeatable import repeatable
from data.weights import WeightFile

EVERY = 200  # steps between checkpoints


class Trainable(Protocol):
    """What the trainer asks of a purifier."""

    network: nn.Module

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch of clean images (N, C, H, W) in [0, 1]; no label is given."""
        ...


class Training:
    """How a learned purifier is trained; repeatable from its seed on one kind of CPU, and resumable.

    Args:
        dataset: its training split is used, without labels.
        steps, batch: updates, and images in each, drawn without replacement in every epoch.
        lr: Adam's, falling to 0 along a cosine.
        seed: draws initial weights, order and whatever the objective draws.
        share: of the training images that are used, drawn by the seed (NCIS, supplement, Table 1).
        shipped: weights that exactly these parameters made; they are used instead of a new training, and
            ignored where any parameter differs.
    """

    version = 1

    def __init__(
        self,
        *,
        dataset: Dataset,
        steps: int = 600,
        batch: int = 32,
        lr: float = 1e-3,
        seed: int = 0,
        share: float = 1.0,
        shipped: WeightFile | None = None,
    ) -> None:
        if steps < 1 or batch < 1 or lr <= 0:
            raise InputError(f"training: expected steps, batch >= 1 and lr > 0, got {steps}, {batch}, {lr}")
        if not 0 < share <= 1:
            raise InputError(f"training.share: expected more than 0, at most 1, got {share}")
        self.dataset, self.steps, self.batch, self.lr, self.seed = dataset, steps, batch, lr, seed
        self.share, self.shipped = share, shipped

    def fit(
        self,
        purifier: Trainable,
        *,
        progress: Callable[[float], None] = lambda share: None,
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, Tensor]:
        """Train `purifier.network` from scratch on the CPU; returns its state.

        `progress` is told the share of the steps done, after each. Raises InputError where the loss is not
        finite.
        """
        images = self.dataset.load("train").images
        if self.share < 1:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
            images = images[order[: round(self.share * len(images))]]
        if self.batch > len(images):
            raise InputError(f"training.batch: expected at most {len(images)}, got {self.batch}")
        network, generator = purifier.network, torch.Generator().manual_seed(self.seed)
        with repeatable(network, self.seed):
            network.train().requires_grad_(True)
            optimiser = torch.optim.Adam(network.parameters(), lr=self.lr)
            saved = checkpoint.load() if checkpoint is not None else None
            for step in range(resume(saved, network, optimiser, generator), self.steps):
                optimiser.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
                loss = purifier.objective(images[self._picked(step, len(images))], generator)
                if not torch.isfinite(loss):
                    raise InputError(f"training: the loss is not finite at step {step}: lower its lr")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                progress((step + 1) / self.steps)
                if (step + 1) % EVERY == 0 and checkpoint is not None:
                    checkpoint.save(state_of(step + 1, network, optimiser, generator))
        network.eval()
        return {name: value.detach().clone() for name, value in network.state_dict().items()}

    def _picked(self, step: int, count: int) -> Tensor:
        """The images of a step: a place in the order of its epoch, so that a resume needs no history."""
        epoch, place = divmod(step, count // self.batch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 2**20 + epoch))
        return order[place * self.batch : (place + 1) * self.batch]
