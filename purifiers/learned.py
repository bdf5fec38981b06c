"""Purifiers with a network that is trained once, on clean images, and then fixed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.frozen import misfits
from data.weights import WeightFile
from purifiers.purifier import Purifier
from purifiers.training import Training


class TrainedNetwork(ABC):
    """A network with its training loss and the source of its trained weights.

    Until `load_frozen` has given it trained weights, it can only be trained.

    Attributes:
        inference_only: parameters on which the training does not depend.
        resumable: whether a checkpoint holds all state, because the objective keeps nothing between steps.
        channels: channels of the images that the network takes.

    Args:
        weights: a verified file, or the training of the network. The caller loads or trains them.
        network: the untrained network.
    """

    inference_only: ClassVar[frozenset[str]] = frozenset()
    resumable: ClassVar[bool] = True

    def __init__(self, *, weights: WeightFile | Training, network: nn.Module) -> None:
        self.weights = weights
        self.network = network
        self.channels = 3
        self.frozen = False

    @abstractmethod
    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar training loss on clean images (N, C, H, W) in [0, 1].

        It is differentiable in the network's parameters, and every random draw comes from `generator`.
        """

    def check_channels(self, images: Tensor) -> None:
        """Raise InputError for images with another number of channels than the network takes."""
        if images.shape[1] != self.channels:
            raise InputError(
                f"{type(self).__name__}: expected images with the channels of its network, {self.channels}, "
                f"got {images.shape[1]}"
            )

    def load_frozen(self, state: Mapping[str, Tensor]) -> Self:
        """Load the network's weights, and fix them: evaluation mode, and no gradient to the weights.

        Raises InputError for tensors that are missing, unknown or of another shape.
        """
        own = self.network.state_dict()
        problems = {
            "missing": own.keys() - state.keys(),
            "unexpected": state.keys() - own.keys(),
            "of another shape": {n for n in own.keys() & state.keys() if own[n].shape != state[n].shape},
        }
        if mismatch := misfits(problems):
            raise InputError(f"{type(self).__name__} weights do not fit its network: tensors: {mismatch}")
        self.network.load_state_dict(state)
        self.network.eval().requires_grad_(False)
        self.frozen = True
        return self


class Learned(TrainedNetwork, Purifier):
    """A purifier with a trained network. A subclass builds the network, and defines its loss and how it
    purifies."""

    @abstractmethod
    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the purified images in [0, 1]; the network is trained, and is on the images' device."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images that `restore` makes; raise ValueError before `load_frozen`, and InputError for
        images with another number of channels than the network takes."""
        if not self.frozen:
            raise ValueError(
                f"{type(self).__name__} has no trained weights: expected load_frozen(state) first"
            )
        self.check_channels(images)
        self.network.to(images.device)
        return self.restore(images, seeds)
