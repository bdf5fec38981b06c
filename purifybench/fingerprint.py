"""The fingerprint of a Python object: a digest of its source code and of all that it contains."""

import argparse
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import InputError
from data.frozen import digest_of
from runners.evaluation.identity import INSTALLED, PLAIN, version_of

DEPTH = 64  # largest depth of objects within objects
BY_NAME = (torch.dtype, torch.device, torch.Size, PurePath, Enum, range, slice, bytes, complex)
DATA = (
    Tensor,
    np.ndarray,
    nn.Module,
    Mapping,
    list,
    tuple,
    set,
    frozenset,
    functools.partial,
    argparse.Namespace,
    SimpleNamespace,
)
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
        return {"class": _code(value), "sets": items(_set_on(value))}
    if inspect.isfunction(value):
        return {
            "function": _code(value),
            "defaults": inner([value.__defaults__, value.__kwdefaults__]),
            "closure": inner([cell.cell_contents for cell in value.__closure__ or ()]),
            "attributes": items(vars(value)),
            "reads": items(_read_by([value])),
        }
    if not hasattr(value, "__dict__"):
        raise InputError(
            f"{what}: expected an object whose content can be told, got one that holds a "
            f"{type(value).__name__}; pass the name of a config instead (docs/your-own.md)"
        )
    attributes = {name: item for name, item in vars(value).items() if name not in PASSING}
    return {
        "object": _code(type(value)),
        "sets": items(_set_on(type(value))),
        "holds": items(attributes if isinstance(value, nn.Module) else vars(value)),
    }


def _set_on(target: type) -> dict[str, Any]:
    """Return the values that a class and its bases set, and the globals that their methods read, except for
    classes of installed packages."""
    own = [base for base in reversed(target.__mro__) if not _is_installed(base.__module__)]
    named = {name: item for base in own for name, item in vars(base).items()}
    methods = [getattr(item, "__func__", item) for item in named.values()]
    values = {name: item for name, item in named.items() if not name.startswith("__") and _is_told(item)}
    return values | _read_by([method for method in methods if inspect.isfunction(method)])


def _read_by(functions: Sequence[Callable[..., Any]]) -> dict[str, Any]:
    """Return the global variables that functions read, by name, as far as results can depend on them."""
    read: dict[str, Any] = {}
    for function in functions:
        codes = [] if _is_installed(function.__module__) else [function.__code__]
        while codes:
            code = codes.pop()
            codes += [part for part in code.co_consts if inspect.iscode(part)]
            read |= {
                name: function.__globals__[name] for name in code.co_names if name in function.__globals__
            }
    return {name: item for name, item in read.items() if _is_told(item) or inspect.isfunction(item)}


def _is_told(value: Any) -> bool:
    """Return whether a value is data: no module, no code, and of the objects of installed packages only
    those in `DATA`."""
    if isinstance(value, (*DATA, *PLAIN, *BY_NAME)):
        return True
    return not callable(value) and hasattr(value, "__dict__") and not _is_installed(type(value).__module__)


def _is_installed(module: str) -> bool:
    """Return whether a module is built in or lies in the folders of Python or of installed packages."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module in ("__main__", "__mp_main__"):
        return False
    return file is None or any(folder in Path(file).resolve().parents for folder in INSTALLED)


def _code(target: Any) -> list[str]:
    return [target.__qualname__, version_of(target)]
