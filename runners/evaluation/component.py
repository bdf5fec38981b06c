"""Configs to components: what Hydra's `_target_` names, its identity, its seeds."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from data.errors import InputError
from data.images import Dataset
from data.listing import FileDataset
from data.weights import WeightFile
from runners.app import CONFIGS
from runners.evaluation.identity import identity
from runners.evaluation.own_state import own_state
from runners.evaluation.shipped import shipped_content
from runners.evaluation.training_progress import Reached, TrainingProgress
from runners.store.leases import Holder
from runners.store.store import Recipe, Store, key_of

FRACTION = re.compile(r"(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
VICTIMS = CONFIGS / "victim"
INNER = ("victim", "purifier", "denoiser")  # arguments that hold a component with the weights of the whole

Config = dict[str, Any]


def _if_file(path: str, there: str, absent: str) -> str:
    """In configs, ${if_file:<path>,<value>,<other value>}: the resolved config says which one it was."""
    return there if Path(path).is_file() else absent


OmegaConf.register_new_resolver("if_file", _if_file, replace=True)


def to_plain_dict(node: DictConfig) -> Config:
    """The resolved config as plain values; text like 8/255 becomes the number.

    Raises InputError for a config that is empty and for numbers that are not finite.
    """
    if not isinstance(node, DictConfig):
        raise InputError(f"expected the name of a config, got {node!r}")

    def value(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: value(inner) for name, inner in item.items()}
        if isinstance(item, list):
            return [value(inner) for inner in item]
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"expected finite numbers, got {item}")
        if isinstance(item, str) and (match := FRACTION.fullmatch(item.strip())):
            if float(match[2]) == 0:
                raise InputError(f"expected a number or a fraction, got {item!r}")
            return float(match[1]) / float(match[2])
        return item

    return value(OmegaConf.to_container(node, resolve=True))


def build(config: Config) -> Any:
    """The component itself. What it objects to is raised as InputError, in one line."""
    try:
        return instantiate(config)
    except SystemExit as error:
        raise InputError(
            f"{config.get('_target_')}: asked the whole process to end ({error.code})"
        ) from error
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"{config.get('_target_', 'component')}: {str(cause).splitlines()[0]}") from error


def seed_of(run_seed: int, image_id: str, stage: str, draw: int = 0) -> int:
    """The seed of one image's draws in one stage."""
    text = f"{run_seed}/{image_id}/{stage}/{draw}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Spec:
    """A victim or purifier whose weights, if it has any, are known: any process can load it.

    `weights_sha256` is that of a file, of trained weights, or of the state that a component loads by itself.
    """

    config: Config
    weights_sha256: str | None = None
    trained: Recipe | None = None  # the store's artefact, for weights that we train

    @property
    def identity(self) -> Config:
        """What results depend on: the component's parameters, its weights' content."""
        if self.weights_sha256 is None:
            return identity(self.config)
        rest = {name: item for name, item in self.config.items() if name != "weights"}
        return {**identity(rest), "weights_sha256": self.weights_sha256}

    def load(self, store: Store) -> Any:
        """The component itself, with its weights fixed."""
        component = build(self.config)
        if self.trained is not None:
            state = store.get_tensors(self.trained)
            if state is None:
                raise InputError("trained weights are not in the store any more: run again")
            return component.freeze(state)
        if (weights := _weights_of(component)) is not None:
            return component.freeze(weights.load())
        own = own_state(component)
        if own is not None and own != self.weights_sha256:
            raise InputError(
                f"{self.config['_target_']}: expected the same weights each time it is loaded, got "
                "others: load them from a file (weights=...), or draw them from a fixed seed"
            )
        return component


@dataclass(frozen=True)
class StoredCheckpoint:
    """A training's state in the store, replaced as it goes on."""

    store: Store
    of: Recipe

    @property
    def recipe(self) -> Recipe:
        """Its name in the store."""
        return {"stage": "checkpoint", "of": key_of(self.of)}

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last."""
        return self.store.get_tensors(self.recipe)

    def save(self, state: dict[str, Tensor]) -> None:
        """Replace it."""
        self.store.put_tensors(self.recipe, state)

    def remove(self) -> None:
        """Once the training is done."""
        self.store.remove(self.recipe)


def load_or_train(
    config: Config,
    store: Store,
    *,
    progress: Callable[[float], None] | None = None,
    waiting: Callable[[Holder, Reached | None], None] = lambda holder, reached: None,
    device: torch.device | None = None,
) -> Spec:
    """Verify the component's weight file, or take the weights that are shipped with the project or that the
    store has, or else train it, on `device` if it can be.

    One process trains, and others that need the same wait for it; `waiting` is told for whom, and how far its
    training is. Raises
    MissingError for a file that is not there, InputError for one that does not fit.
    """
    if held := next((config[part] for part in INNER if part in config), None):
        # One inside another: the weights are the inner one's.
        inner = load_or_train(held, store, progress=progress, waiting=waiting, device=device)
        return Spec(config, inner.weights_sha256, inner.trained)
    component = build(config)
    weights = _weights_of(component)
    if weights is None:
        return Spec(config, own_state(component))
    if isinstance(weights, WeightFile):
        component.freeze(weights.load())
        return Spec(config, weights.digest())
    afterwards = getattr(component, "afterwards", frozenset())
    learnt = {name: item for name, item in config.items() if name not in afterwards}
    trained = {"stage": "weights", "component": identity(learnt), **_learnt_from(weights.dataset)}
    content = shipped_content(config, component)
    if content is not None and store.get(trained) != content:
        store.put(trained, content)
    content = content or store.get(trained)
    if content is None:
        what = f"training: {config['_target_'].rpartition('.')[2]}"
        reached = TrainingProgress(store, trained)
        with store.leases.alone(key_of(trained), what, lambda holder: waiting(holder, reached.read())):
            content = store.get(trained) or _train(component, trained, store, progress, device)
    return Spec(config, hashlib.sha256(content).hexdigest(), trained)


def _weights_of(component: Any) -> Any:
    """What its weights are loaded or learnt from; None for a component that sees to its weights by itself."""
    weights = getattr(component, "weights", None)
    return weights if isinstance(weights, WeightFile) or hasattr(weights, "fit") else None


def _learnt_from(dataset: Dataset) -> Recipe:
    """Of data sets in files, which images are learnt: a folder may come to hold more of them, or others."""
    return {"images": dataset.index("train").fingerprint} if isinstance(dataset, FileDataset) else {}


def _train(
    component: Any,
    trained: Recipe,
    store: Store,
    progress: Callable[[float], None] | None,
    device: torch.device | None,
) -> bytes:
    """Train, and keep the weights."""
    checkpoint, weights = StoredCheckpoint(store, trained), component.weights
    wanted = {"checkpoint": checkpoint} if getattr(component, "resumable", False) else {}
    if getattr(weights, "gpu", False) and device is not None:
        wanted["device"] = device
    reached = TrainingProgress(store, trained)

    def advanced(share: float) -> None:
        reached.report(share)
        if progress is not None:
            progress(share)

    try:
        state: Mapping[str, Tensor] = weights.fit(component, progress=advanced, **wanted)
    finally:
        reached.remove()
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise InputError("training diverged (NaN or infinite weights): lower its lr")
    store.put_tensors(trained, dict(state))
    checkpoint.remove()
    content = store.get(trained)
    if content is None:
        raise InputError(f"store {store.root}: what was written cannot be read back")
    return content


@contextmanager
def usable(what: str) -> Iterator[None]:
    """A component that cannot be made ready from its config is bad input, not a fault of ours."""
    try:
        yield
    except InputError:
        raise
    except SystemExit as error:
        raise InputError(f"{what}: asked the whole process to end ({error.code})") from error
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(f"{what}: its config cannot be used: {str(error).splitlines()[0]}") from error


def victims_for(label_space: str) -> list[str]:
    """Names of the victims that know these labels."""
    leaves = {str(leaf.relative_to(VICTIMS).with_suffix("")): leaf for leaf in VICTIMS.rglob("*.yaml")}
    return sorted(n for n, leaf in leaves.items() if OmegaConf.load(leaf).get("label_space") == label_space)
