"""The trainer of victims whose weights nobody ships."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.images import Dataset, Images
from data.repeatable import repeatable


class Recipe:
    """SGD with Nesterov momentum and a one-cycle learning rate; repeatable from its seed.

    Args:
        dataset: its training split is learnt.
        epochs, batch, lr, momentum, weight_decay: as usual; lr is the peak of the cycle.
        shift: random translation of up to this many pixels (reflected borders).
        seed: draws initial weights, order and translations.
    """

    version = 1

    def __init__(
        self,
        *,
        dataset: Dataset,
        epochs: int = 8,
        batch: int = 128,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        shift: int = 0,
        seed: int = 0,
    ) -> None:
        self.dataset = dataset
        self.epochs, self.batch, self.lr = epochs, batch, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.shift, self.seed = shift, seed

    def fit(
        self, victim: nn.Module, *, progress: Callable[[float], None] = lambda share: None
    ) -> dict[str, Tensor]:
        """Train `victim.network` from scratch on the CPU; returns its state.

        `progress` is told the share of the steps done, after each epoch.
        """
        data: Images = self.dataset.load("train")
        network = victim.network
        generator = torch.Generator().manual_seed(self.seed)
        if not 1 <= self.batch <= len(data):
            raise InputError(f"victim.weights.batch: expected 1 to {len(data)}, got {self.batch}")
        steps_per_epoch = len(data) // self.batch
        with repeatable(network, self.seed):
            network.train()
            optimiser = torch.optim.SGD(
                network.parameters(),
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=True,
            )
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, self.lr, total_steps=self.epochs * steps_per_epoch
            )
            for epoch in range(self.epochs):
                order = torch.randperm(len(data), generator=generator)
                for step in range(steps_per_epoch):
                    picked = order[step * self.batch : (step + 1) * self.batch]
                    images = _translate(data.images[picked], self.shift, generator)
                    loss = F.cross_entropy(victim(images), data.labels[picked])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                progress((epoch + 1) / self.epochs)
        network.eval()
        return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _translate(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    if shift == 0:
        return images
    size = images.shape[-1]
    padded = F.pad(images, (shift,) * 4, mode="reflect")
    offsets = torch.randint(2 * shift + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, offsets, strict=True)])
