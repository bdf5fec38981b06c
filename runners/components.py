"""Configs to components: what Hydra's `_target_` names, its identity, its seeds."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from data.errors import InputError
from data.weights import WeightFile
from runners.store import Recipe, Store
from victims.victim import Victim

FRACTION = re.compile(r"(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
WHERE = {"path", "root", "source"}  # where something lies is not what it is

Config = dict[str, Any]


def plain(node: DictConfig) -> Config:
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


def identity(config: Any) -> Any:
    """What a result depends on: targets, their versions and arguments, but no places."""
    if isinstance(config, list):
        return [identity(item) for item in config]
    if not isinstance(config, dict):
        return config
    kept = {name: identity(item) for name, item in config.items() if name not in WHERE}
    if "_target_" in config:
        kept["version"] = getattr(get_class(config["_target_"]), "version", 1)
    return kept


def build(config: Config) -> Any:
    """The component itself. What it objects to is raised as InputError, in one line."""
    try:
        return instantiate(config)
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
class VictimSpec:
    """A victim whose weights are known: any process can load it, and its identity names them."""

    config: Config
    weights_sha256: str
    trained: Recipe | None  # the store's artefact, for a victim that we train

    @property
    def identity(self) -> Config:
        """What results depend on: the network, its normalisation, its weights' content."""
        network = {name: item for name, item in self.config.items() if name != "weights"}
        return {**identity(network), "weights_sha256": self.weights_sha256}

    def load(self, store: Store) -> Victim:
        """The frozen victim."""
        victim = build(self.config)
        if self.trained is None:
            return victim.freeze(victim.weights.load())
        state = store.get_tensors(self.trained)
        if state is None:
            raise InputError("the trained victim is not in the store any more: run again")
        return victim.freeze(state)


def prepare_victim(
    config: Config, store: Store, *, progress: Callable[[float], None] | None = None
) -> VictimSpec:
    """Verify the victim's weight file, or train it unless the store has it."""
    victim = build(config)
    if isinstance(victim.weights, WeightFile):
        victim.freeze(victim.weights.load())
        return VictimSpec(config, victim.weights.sha256, None)
    trained = {"stage": "weights", "victim": identity(config)}
    content = store.get(trained)
    if content is None:
        state: Mapping[str, Tensor] = victim.weights.fit(victim, progress=progress or (lambda s: None))
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise InputError("the victim's training diverged (NaN or infinite weights): lower its lr")
        store.put_tensors(trained, dict(state))
        content = store.get(trained)
        if content is None:
            raise InputError(f"store {store.root}: what was written cannot be read back")
    return VictimSpec(config, hashlib.sha256(content).hexdigest(), trained)
