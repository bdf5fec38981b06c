"""The state that a component loads by itself, without a config that names its file."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from hydra.utils import get_object, instantiate
from torch import Tensor, nn

from data.errors import InputError
from data.frozen import digest_of, frozen, state_digest, state_of
from runners.evaluation.identity import declares_version


def own_state(component: Any) -> str | None:
    """Return the digest of what a component has loaded by itself, or None if it holds nothing.

    For a component that is a network, and for one that wraps a victim or a purifier, this is the network's
    state. For any other component that declares no version, it is the state of all networks and tensors among
    its attributes. Components that declare a version make their networks anew for each image.
    """
    if isinstance(component, nn.Module):
        return state_digest(frozen(component))
    inner = (getattr(component, name, None) for name in ("victim", "purifier"))
    if (wrapped := next((part for part in inner if part is not None), None)) is not None:
        return own_state(wrapped)
    if component is None or declares_version(type(component)):
        return None
    tensors = dict(_held("", getattr(component, "__dict__", {})))
    return digest_of(tensors) if tensors else None


def own_state_beside(inner: Sequence[str], component: Any) -> str | None:
    """Return the digest of what a component that wraps others has loaded by itself, or None if its class
    declares a version or holds nothing of its own.

    Args:
        inner: the names of the attributes that hold the others.
    """
    if declares_version(type(component)):
        return None
    held = dict(_held("", component.__dict__))
    own = {name: value for name, value in held.items() if not set(name.split(".")[1:3]) & set(inner)}
    return digest_of(own) if own else None


def state_behind(config: dict[str, Any]) -> str | None:
    """Return `own_state` of the component that a config names, or None if its class declares a version and
    those of its arguments do so too.

    A component without a version is built at each call, since the files that it loads may have changed.
    Raises InputError if it is another one each time.
    """
    if declares_version(get_object(config["_target_"])):
        named = [item for item in config.values() if isinstance(item, dict) and "_target_" in item]
        states = [state for item in named if (state := state_behind(item)) is not None]
        return hashlib.sha256("".join(states).encode()).hexdigest() if states else None
    state = own_state(instantiate(config))
    if state is not None and state != own_state(instantiate(config)):
        raise InputError(
            f"{config['_target_']}: expected the same weights each time it is built, got others: load them "
            "from a file, or draw them from a fixed seed"
        )
    return state


def _held(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of an attribute by name: its own, or those of the networks and containers in it."""
    if isinstance(value, nn.Module):
        yield from ((f"{name}.{inner}", item) for inner, item in state_of(value).items())
    elif isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield name, torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _held(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _held(f"{name}.{index}", item)
