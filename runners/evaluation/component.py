"""Components that configs describe by their `_target_`: how they are built, identified, loaded and seeded."""

import hashlib
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load

from data.errors import InputError
from data.weights import WeightFile
from runners.evaluation.failures import one_line
from runners.evaluation.identity import identity
from runners.evaluation.locating import why_not_loaded
from runners.evaluation.own_state import own_state, own_state_beside
from runners.store.artifact import Artifact, key_of
from runners.store.store import Store

INNER = ("victim", "purifier", "denoiser")  # arguments that hold a component with all the weights
FRACTION = re.compile(r"(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")

Config = dict[str, Any]


def _if_file(path: str, there: str, absent: str) -> str:
    """Resolve ${if_file:<path>,<value>,<other value>} in a config: the first value if the file exists,
    otherwise the second. The resolved config holds the value that was chosen."""
    return there if Path(path).is_file() else absent


OmegaConf.register_new_resolver("if_file", _if_file, replace=True)


def to_plain_dict(node: DictConfig) -> Config:
    """Return the resolved config as plain values; text such as 8/255 becomes a number.

    Raises InputError if there are no settings, for numbers that are not finite and for a division by zero.
    """
    if not isinstance(node, DictConfig):
        raise InputError(f"expected a config with settings (name: value), got {node!r}")

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
    """Return the object that a config describes. Raises InputError with one line if it cannot be built."""
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
        target = config.get("_target_", "component")
        if isinstance(cause, ImportError) and isinstance(target, str):
            raise InputError(
                f"_target_: {target} cannot be loaded: {why_not_loaded(target, cause)}"
            ) from error
        raise InputError(f"{target}: {one_line(cause)}") from error


def seed_of(run_seed: int, image_id: str, stage: str, draw: int = 0) -> int:
    """Return the seed of the random draws for one image in one stage."""
    text = f"{run_seed}/{image_id}/{stage}/{draw}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Component:
    """An attack, its knowledge, a victim or a purifier: its config, and the digest of its weights.

    Only the fields are pickled, so that any process can load the component from its config.

    Args:
        config: the class and its arguments.
        weights_sha256: the sha256 of a weight file, of trained weights, or of the state that the component
            loads by itself; None for a component without weights.
        trained: the artifact of trained weights in the store; None if the weights are not trained.
    """

    config: Config
    weights_sha256: str | None = None
    trained: Artifact | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def identity(self) -> Config:
        """Everything that results depend on: name, version, arguments, and the digest of the weights."""
        if self.weights_sha256 is None:
            known = identity(self.config)
        else:
            rest = {name: item for name, item in self.config.items() if name != "weights"}
            known = {**identity(rest), "weights_sha256": self.weights_sha256}
        inner = [part for part in INNER if part in self.config]
        if inner and (beside := own_state_beside(inner, self.object)) is not None:
            known["state"] = beside
        return known

    @cached_property
    def key(self) -> str:
        return key_of(self.identity)

    @cached_property
    def run_key(self) -> str:
        """The key of the trace if the component has one, otherwise the key of the component.

        Purifiers that read their results off the same optimisation, their trace, share this key.
        """
        return key_of(identity(self.config["trace"])) if "trace" in self.config else self.key

    @property
    def declared(self) -> Any:
        """The class of the component, which declares its traits."""
        return get_class(self.config["_target_"])

    @property
    def name(self) -> str:
        return self.config["_target_"].rpartition(".")[2]

    @cached_property
    def object(self) -> Any:
        """An object of the component without weights, built once to read what the component declares."""
        return build(self.config)

    def build(self) -> Any:
        """Return a new object of the component without weights."""
        return build(self.config)

    def load(self, store: Store) -> Any:
        """Return a new object of the component with its weights loaded and frozen."""
        component = build(self.config)
        if self.trained is not None:
            content = store.get(self.trained)
            if content is None or hashlib.sha256(content).hexdigest() != self.weights_sha256:
                raise InputError(
                    f"{self.name}: expected the trained weights with which the run began, but the store has "
                    f"{'none' if content is None else 'others'} now: run again"
                )
            return component.load_frozen(load(content))
        if (weights := weights_of(component)) is not None:
            return component.load_frozen(weights.load())
        own = own_state(component)
        if own is not None and own != self.weights_sha256:
            raise InputError(
                f"{self.config['_target_']}: expected the same weights each time it is loaded, got "
                "others: load them from a file (weights=...), or draw them from a fixed seed"
            )
        return component


def weights_of(component: Any) -> Any:
    """Return what a component's weights are loaded or learnt from, or None if it loads them by itself."""
    weights = getattr(component, "weights", None)
    return weights if isinstance(weights, WeightFile) or hasattr(weights, "fit") else None


@contextmanager
def usable(what: str) -> Iterator[None]:
    """Convert errors of the code inside to InputError, because a config that cannot be used is bad input."""
    try:
        yield
    except InputError:
        raise
    except SystemExit as error:
        raise InputError(f"{what}: asked the whole process to end ({error.code})") from error
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(f"{what}: its config cannot be used: {one_line(error)}") from error
