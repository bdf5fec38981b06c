"""Victims of a user: one that loads its own weights, and some that break a rule for all victims."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Small(nn.Module):
    """A network of ten classes for small images, whose normalisation depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(24, 10), nn.Dropout(0.5),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class LoadsItsOwn(Small):
    """A victim that loads its own weights and stays in training mode, as a new module does."""

    def __init__(self, *, path: str) -> None:
        super().__init__()
        self.load_state_dict(load_file(path))


class Drawn(Small):
    """A victim that has other weights each time."""


def written(path: Path, seed: int = 0) -> Path:
    """Write a weight file of `Small`, and return its path."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = Small().state_dict()
    state["layers.1.running_mean"] += 0.3
    save_file(state, path)
    return path


class Broken(nn.Module):
    """A frozen network that gives its logits, except for one thing that a subclass does wrong."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = Small()
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class Noisy(Broken):
    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits + torch.randn(logits.shape).to(logits)


class Trains(Broken):
    """A victim that enters training mode and leaves it, so that only its statistics show it."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.train()(images[:2]) if not self.training else None
        self.eval()
        return logits


class Probable(Broken):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).softmax(1)


class Unfinite(Broken):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).log() - torch.inf


class Flattened(Broken):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).flatten()


class Few(Broken):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, :4]


class Decides(Broken):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).argmax(1)


class CutOff(Broken):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.detach())


class SetsThreads(Broken):
    def forward(self, images: Tensor) -> Tensor:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return self.network(images)


class Training(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.network.layers[1].train()


class Learning(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.network.layers[0].requires_grad_(True)


class Elsewhere(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("far", torch.empty(1, device="meta"))
