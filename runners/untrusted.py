"""Checks of data that may come from other people: record files, manifests, archives and tables.

Nothing in such data is ever resolved or called. `check_plain` refuses all text that OmegaConf or Hydra would
act on, and `component` accepts only the names of this project's own classes. Every reader of data that may
come from other people uses this module.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any
from zipfile import BadZipFile

from safetensors import SafetensorError
from torch import nn

from attacks.attack import Attack
from attacks.knowledge import Knowledge
from data.errors import InputError
from data.images import Dataset
from data.weights import WeightFile
from purifiers.fitting.engine import Architecture
from purifiers.fitting.trace import Trace
from purifiers.learned import TrainedNetwork
from purifiers.purifier import Purifier
from purifiers.training import Training
from runners.places import ROOT
from victims.recipe import Recipe

KINDS: dict[str, tuple[type, ...]] = {  # what a foreign config may name, by top-level folder
    "data": (Dataset, WeightFile),
    "victims": (nn.Module, Recipe),
    "attacks": (Attack, Knowledge),
    "purifiers": (Purifier, TrainedNetwork, Trace, Training, Architecture, nn.Module),
}
TARGET = re.compile(r"(?P<module>(?P<folder>[a-z]+)(?:\.[a-z_0-9]+)+)\.(?P<name>[A-Z]\w*)", re.ASCII)
INSTRUCTION = re.compile(r"_[a-z]+_")  # keys that Hydra's instantiate acts on
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # terminals act on some of them
DEPTH = 32  # levels of nesting; the deepest config of this project has 7
LARGEST = 2**64  # bound of whole numbers
UNWORKABLE = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError,
              ValueError, SafetensorError, BadZipFile)  # fmt: skip
SHOWN = 80  # characters of a refused text


def parsed(raw: bytes | str, what: str, shape: Any = None) -> Any:
    """Return JSON from an untrusted file as plain data.

    Raises InputError if it is not JSON, and as `check_plain` and `check_shape` do.

    Args:
        what: the file, for the error.
        shape: what the data must look like, as `check_shape` takes it.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: damaged: expected JSON, got what cannot be read ({error})") from error
    check_plain(data, what)
    if shape is not None:
        check_shape(data, shape, what)
    return data


def check_plain(data: Any, what: str, *, where: str = "", depth: int = 0) -> None:
    """Raise InputError, with the place, for data that could be resolved or called, or that breaks a reader.

    This refuses text with an interpolation or with control characters, as values and as keys; the keys that
    tell Hydra how to call something; a `_target_` that is not a string; numbers that are not finite or have
    more than 64 bits; deep nesting; and everything that is not JSON.
    """
    if depth > DEPTH:
        raise InputError(f"{what}: {where[:SHOWN]}: expected at most {DEPTH} levels of nesting, got more")
    if isinstance(data, str):
        check_text(data, f"{what}: {where}" if where else what)
    elif isinstance(data, Mapping):
        for name, item in data.items():
            check_text(name, f"{what}: a name in {where or 'it'}")
            if INSTRUCTION.fullmatch(name) and (name != "_target_" or not isinstance(item, str)):
                raise InputError(f"{what}: {where or 'it'}: expected plain data, got the key {name}")
            check_plain(item, what, where=f"{where}.{name}".lstrip("."), depth=depth + 1)
    elif isinstance(data, list):
        for i, item in enumerate(data):
            check_plain(item, what, where=f"{where}.{i}".lstrip("."), depth=depth + 1)
    elif isinstance(data, float) and not math.isfinite(data):
        raise InputError(f"{what}: {where}: expected a finite number, got {data}")
    elif isinstance(data, int) and abs(data) >= LARGEST:
        raise InputError(f"{what}: {where}: expected at most 64 bits, got a larger number")
    elif not (data is None or isinstance(data, bool | int | float)):
        raise InputError(f"{what}: {where}: expected plain data, got {type(data).__name__}")


def check_text(value: Any, what: str) -> None:
    """Raise InputError unless the value is text that nothing resolves and every terminal can show."""
    if not isinstance(value, str):
        raise InputError(f"{what}: expected text, got {type(value).__name__}")
    if "${" in value:
        raise InputError(f"{what}: expected plain text, got an interpolation, {value[:SHOWN]!r}")
    if UNPRINTABLE.search(value):
        raise InputError(f"{what}: expected printable text, got {value[:SHOWN]!r}")


def check_shape(data: Any, shape: Any, what: str, *, where: str = "") -> None:
    """Raise InputError, with the place, unless the data have the shape.

    A shape is a type or a tuple of types; [shape] for a list of it; {name: shape} for an object with these
    names and perhaps others; {...: shape} for an object with any names; or a pattern that text matches.
    """
    if isinstance(shape, dict):
        expected = "an object" if ... in shape else f"an object with {', '.join(shape)}"
        fits = isinstance(data, dict) and (... in shape or shape.keys() <= data.keys())
        names = () if not fits else data if ... in shape else shape
        inner = {name: shape.get(..., shape.get(name)) for name in names}
    elif isinstance(shape, list):
        expected, fits = "a list", isinstance(data, list)
        inner = dict.fromkeys(range(len(data)), shape[0]) if fits else {}
    elif isinstance(shape, re.Pattern):
        expected, fits, inner = shape.pattern, isinstance(data, str) and bool(shape.fullmatch(data)), {}
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        expected, inner = " or ".join(kind.__name__ for kind in kinds), {}
        fits = isinstance(data, kinds) and (bool in kinds or not isinstance(data, bool))
    if not fits:
        got = repr(data)
        got = got if len(got) <= SHOWN else f"{got[:SHOWN]}..."
        raise InputError(f"{what}: {where or 'it'}: expected {expected}, got {got}")
    for name, part in inner.items():
        check_shape(data[name], part, what, where=f"{where}.{name}".lstrip("."))


def targets(config: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every component in a config with its place: purifier, purifier.trace, ..."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield where, config
        inner = config.items()
    else:
        inner = enumerate(config) if isinstance(config, list) else ()
    for name, item in inner:
        yield from targets(item, f"{where}.{name}".lstrip("."))


def component(target: Any, what: str) -> type:
    """Return the class of that name, wherever this project defines it now: modules may have moved since.

    Raises InputError unless exactly one module below data/, victims/, attacks/ or purifiers/ defines the
    class itself and it is a kind of component; functions and imported names are refused.
    """
    refused = InputError(f"{what}: expected the name of a component of this project, got {target!r:.80}")
    named = TARGET.fullmatch(target) if isinstance(target, str) else None
    if named is None or named["folder"] not in KINDS:
        raise refused
    modules = _modules_defining(named["name"])
    if named["module"] in modules:
        modules = [named["module"]]
    if len(modules) != 1:
        raise refused
    (module,) = modules
    component_class = vars(import_module(module)).get(named["name"])
    defined = isinstance(component_class, type) and component_class.__module__ == module
    if not defined or not issubclass(component_class, KINDS[module.partition(".")[0]]):
        raise refused
    return component_class


def relocated(config: Any, what: str) -> Any:
    """Return the config with the present modules of its components. Raises InputError as `component` does."""
    if isinstance(config, list):
        return [relocated(item, what) for item in config]
    if not isinstance(config, dict):
        return config
    moved = {name: relocated(item, f"{what}.{name}") for name, item in config.items()}
    if "_target_" in config:
        component_class = component(config["_target_"], what)
        moved["_target_"] = f"{component_class.__module__}.{component_class.__name__}"
    return moved


@cache
def _modules_defining(name: str) -> list[str]:
    """Return the component modules that define a class of this name, found without importing them."""
    definition = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    files = (file for folder in KINDS for file in sorted((ROOT / folder).rglob("*.py")))
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if definition.search(file.read_text(encoding="utf-8"))
    ]


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise InputError if well-formed foreign data still cannot be worked with, since it is bad input."""
    try:
        yield
    except InputError:
        raise
    except UNWORKABLE as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{what}: cannot be worked with ({reason}); was it edited?") from error
