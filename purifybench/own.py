"""Objects of the caller as components that configs can name. They exist only in the caller's process."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.frozen import frozen
from data.images import Dataset, Images
from purifiers.purifier import TRIAL_STEPS, Purifier
from purifybench.fingerprint import fingerprint

Config = dict[str, Any]
HELD: dict[str, Any] = {}  # the objects, by their fingerprints
TRAITS = ("stochastic", "gradient", "uses_victim", "batch_coupled", "per_image_optimization", "scale")


def _held(name: str) -> Any:
    if name not in HELD:
        raise InputError("an object of one process was asked for in another: evaluate it with workers=1")
    return HELD[name]


def _copied(value: Any, what: str) -> Any:
    """Return a copy, so that neither the caller nor the run changes the other's object."""
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise InputError(f"{what}: cannot be copied ({type(error).__name__}: {error})") from error


class OwnVictim(nn.Module):
    """A network of the caller, which takes images in [0, 1] and returns logits.

    Args:
        held: fingerprint of the network.
        label_space: label space of the data set, to whose classes the logits belong.
    """

    version = 1

    def __init__(self, *, held: str, label_space: str) -> None:
        super().__init__()
        self.network, self.label_space = _held(held), label_space

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's answer."""
        return self.network(images)


class OwnPurifier(Purifier):
    """A purifier of the caller: an instance of Purifier, or a callable with the signature of `purify`.

    Args:
        held: fingerprint of the purifier.
    """

    version = 1

    def __init__(self, *, held: str) -> None:
        self._hold(_held(held))

    def _hold(self, inner: Any) -> None:
        self.inner = inner
        for name in TRAITS:
            setattr(self, name, getattr(inner, name, getattr(Purifier, name)))

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images that the caller's purifier returns."""
        if isinstance(self.inner, Purifier) and self.inner.shared_run() is not None:
            return self.inner(images, seeds=seeds, victim=victim)
        called = self.inner.purify if isinstance(self.inner, Purifier) else self.inner
        purified = called(images, seeds, victim)
        if not isinstance(purified, Tensor):
            raise TypeError(f"expected a purifier that returns a tensor, got a {type(purified).__name__}")
        return purified

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a shortened copy, as the caller's purifier defines it."""
        if not isinstance(self.inner, Purifier):
            return self, 1.0
        short, factor = self.inner.shortened(steps=steps)
        copied = copy.copy(self)
        copied._hold(short)
        return copied, factor


class OwnImages(Dataset):
    """Images of the caller, all of them in the evaluation split.

    Args:
        held: digest of the images.
        label_space: name of the meaning of the labels.
    """

    def __init__(self, *, held: str, label_space: str) -> None:
        self.images: Images = _held(held)
        self.label_space = label_space
        self.classes = tuple(str(label) for label in range(1 + int(self.images.labels.max())))

    def load(self, split: str) -> Images:
        """Return the images; raise InputError for any split but evaluation."""
        self.check_split(split)
        if split != "evaluation":
            raise InputError(f"split: expected evaluation, which passed images are, got {split}")
        return self.images


def victim_config(network: nn.Module, label_space: str) -> Config:
    """Return a config that names a frozen copy of this network in evaluation mode."""
    if not isinstance(network, nn.Module):
        raise InputError(
            f"victim: expected the name of a config or a torch.nn.Module, got a {type(network).__name__}"
        )
    tensors = [*network.named_parameters(), *network.named_buffers()]
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise InputError(
            f"victim: expected weights with values, got {empty[0]} on the device meta: load them"
        )
    name = fingerprint(network, "victim")
    HELD[name] = frozen(_copied(network, "victim"))
    return {"_target_": f"{__name__}.{OwnVictim.__name__}", "held": name, "label_space": label_space}


def purifier_config(purifier: Callable[..., Tensor]) -> Config:
    """Return a config that names this purifier."""
    if not callable(purifier) or isinstance(purifier, type):
        got = (
            f"the class {purifier.__name__}: make an instance"
            if isinstance(purifier, type)
            else repr(purifier)
        )
        raise InputError(f"purifier: expected the name of a config, a Purifier or a callable, got {got:.200}")
    name = fingerprint(purifier, "purifier")
    HELD[name] = _copied(purifier, "purifier")
    return {"_target_": f"{__name__}.{OwnPurifier.__name__}", "held": name}


def dataset_config(dataset: Any, label_space: str) -> Config:
    """Return a config that names these images: Images, or a pair of tensors of images and of labels."""
    if isinstance(dataset, tuple) and len(dataset) == 2 and all(isinstance(part, Tensor) for part in dataset):
        images, labels = (part.detach().cpu() for part in dataset)
        if labels.is_floating_point() and not torch.equal(labels, labels.round()):
            raise InputError(f"dataset: expected whole numbers as labels, got {labels.flatten()[0].item():g}")
        dataset = Images(tuple(f"own/{i}" for i in range(len(images))), images, labels.to(torch.int64))
    if not isinstance(dataset, Images):
        raise InputError(
            "dataset: expected the name of a config, purifybench.Images, or a pair (images, labels), "
            f"got a {type(dataset).__name__}"
        )
    if not len(dataset):
        raise InputError("dataset: expected images, got none")
    if int(dataset.labels.min()) < 0:
        raise InputError(f"dataset: expected labels of 0 and more, got {int(dataset.labels.min())}")
    HELD[dataset.digest] = dataset
    return {
        "_target_": f"{__name__}.{OwnImages.__name__}",
        "held": dataset.digest,
        "label_space": label_space,
    }


def name_of(value: Any) -> str:
    """Return the name of an object in records and messages."""
    name = getattr(value, "__name__", type(value).__name__)
    return name.strip("<>")
