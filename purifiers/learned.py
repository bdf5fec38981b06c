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
    """A network with the loss that it is trained on, and with where its trained weights come from.

    Until `load_frozen` has given it trained weights, it can only be trained.

    Attributes:
        inference_only: parameters on which the training does not depend.
        resumable: the objective keeps nothing from step to step, so that a checkpoint holds all.

    Args:
        weights: a verified file, or how we train the network; whoever builds this object loads it.
        network: untrained.
    """

    inference_only: ClassVar[frozenset[str]] = frozenset()
    resumable: ClassVar[bool] = True

    def __init__(self, *, weights: WeightFile | Training, network: nn.Module) -> None:
        self.weights = weights
        self.network = network
        self.frozen = False

    @abstractmethod
    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar training loss on clean images (N, C, H, W) in [0, 1].

        Differentiable in the network's parameters; every random draw comes from `generator`.
        """

    def load_frozen(self, state: Mapping[str, Tensor]) -> Self:
        """Load the network's weights and fix them: evaluation mode, no gradient to weights.

        Raises InputError for tensors that are missing, unknown or of another shape.
        """
        own = self.network.state_dict()
        problems = {
            "missing": own.keys() - state.keys(),
            "unexpected": state.keys() - own.keys(),
            "of another shape": {n for n in own.keys() & state.keys() if own[n].shape != state[n].shape},
        }
        if found := misfits(problems):
            raise InputError(f"{type(self).__name__} weights do not fit its network: tensors: {found}")
        self.network.load_state_dict(state)
        self.network.eval().requires_grad_(False)
        self.frozen = True
        return self


class Learned(TrainedNetwork, Purifier):
    """A purifier with a network of its own. A subclass builds the network, and says what it learns and how
    it purifies."""

    @abstractmethod
    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Purified images in [0, 1]; the network is trained and on the images' device."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """What `restore` makes of the images; raises ValueError before `load_frozen`."""
        if not self.frozen:
            raise ValueError(
                f"{type(self).__name__} has no trained weights: expected load_frozen(state) first"
            )
        self.network.to(images.device)
        return self.restore(images, seeds)
