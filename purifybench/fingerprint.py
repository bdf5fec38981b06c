"""The fingerprint of a Python object: a digest of its source code and of all that it contains."""

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import InputError
from data.frozen import digest_of
from runners.evaluation.identity import PLAIN, version_of

DEPTH = 64  # largest depth of objects within objects
BY_NAME = (torch.dtype, torch.device, torch.Size, PurePath, Enum, range, slice, bytes, complex)
PASSING = {"training"}  # attributes of a network that say how it is used at the moment, not what it is


def fingerprint(value: Any, what: str) -> str:
    """Return the sha256 of an object's code and content, which is equal for equal objects in all processes.

    Code is identified by the digest of its source file and of the files that it imports from the same folder
    tree, or by a `version` that its author declares, as for the components that configs name.

    Args:
        what: name of the argument, for errors.

    Raises InputError if the object's content cannot be determined.
    """
    described = json.dumps(_described(value, what, ()), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _described(value: Any, what: str, above: tuple[int, ...]) -> Any:
    """Return the object as JSON values, where an object inside itself is replaced by its place in `above`."""
    if isinstance(value, PLAIN) and not isinstance(value, Enum):
        return value
    if id(value) in above:
        return {"within": above.index(id(value))}
    if len(above) > DEPTH:
        raise InputError(f"{what}: expected at most {DEPTH} objects within each other, got more")

    def inner(item: Any) -> Any:
        return _described(item, what, (*above, id(value)))

    def items(mapping: Mapping[Any, Any]) -> list[Any]:
        return [[str(name), inner(item)] for name, item in sorted(mapping.items(), key=lambda i: str(i[0]))]

    if isinstance(value, Tensor):
        return {"tensor": digest_of({"": value})}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"array": [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]}
    if isinstance(value, BY_NAME):
        return {type(value).__name__: str(value)}
    if isinstance(value, Mapping):
        return {"mapping": items(value)}
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted(json.dumps(inner(item), sort_keys=True) for item in value)}
    if isinstance(value, functools.partial):
        return {"partial": [inner(value.func), inner(value.args), inner(value.keywords)]}
    if inspect.ismethod(value):
        return {"method": value.__name__, "of": inner(value.__self__)}
    if inspect.isbuiltin(value):
        return {"builtin": f"{value.__module__}.{value.__qualname__}"}
    if inspect.isclass(value):
        return {"class": _code(value)}
    if inspect.isfunction(value):
        return {
            "function": _code(value),
            "defaults": inner([value.__defaults__, value.__kwdefaults__]),
            "closure": inner([cell.cell_contents for cell in value.__closure__ or ()]),
        }
    if not hasattr(value, "__dict__"):
        raise InputError(
            f"{what}: expected an object whose content can be told, got one that holds a "
            f"{type(value).__name__}; pass the name of a config instead (docs/your-own.md)"
        )
    attributes = {name: item for name, item in vars(value).items() if name not in PASSING}
    return {
        "object": _code(type(value)),
        "holds": items(attributes if isinstance(value, nn.Module) else vars(value)),
    }


def _code(target: Any) -> list[str]:
    return [target.__qualname__, version_of(target)]
