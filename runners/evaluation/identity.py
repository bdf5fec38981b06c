"""The identity of a component: its name, its version and all of its arguments, never the place of its code.

The identity is part of every key of the store and of every record file, so that a module can be moved or
renamed without orphaning results. A class of the project declares its `version`, which is raised whenever its
behaviour changes. If a component declares none, the digest of its source code is its version, so that edited
code never uses the results of earlier code.
"""

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.utils import get_object

from data.errors import InputError

PLAIN = (bool, int, float, str, type(None))
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))


def identity(config: Any) -> Any:
    """Return what a result depends on as JSON values.

    The config of a component becomes its name, its version and all arguments of its constructor, with the
    defaults of those that the config does not set. Arguments that the class lists in `descriptive` (where a
    file is, what is published about it) are left out, because no result depends on them.

    Raises InputError if the version of a component cannot be determined.
    """
    if isinstance(config, list):
        return [identity(item) for item in config]
    if not isinstance(config, dict):
        return config
    if "_target_" not in config:
        return {name: identity(item) for name, item in config.items()}
    target = get_object(config["_target_"])
    left_out = {"_target_", *getattr(target, "descriptive", ())}
    given = {**_defaults(target), **config}
    arguments = {name: identity(item) for name, item in given.items() if name not in left_out}
    if not declares_version(target):
        arguments = _with_file_contents(arguments)
    return {"component": target.__name__, "version": version_of(target), "arguments": arguments}


def declares_version(target: Any) -> bool:
    """Return whether the class itself declares its version; that of a base class does not count."""
    return isinstance(vars(target).get("version"), int)


def version_of(target: Any) -> str:
    """Return the version of a component and of its base classes, such as "2.1".

    If the component declares no version, the digest of its source code takes that place.
    """
    bases = inspect.getmro(target)[1:] if inspect.isclass(target) else ()
    own = str(target.version) if declares_version(target) else _source_version(target)
    return ".".join([own, *(str(base.version) for base in bases if declares_version(base))])


@cache
def _defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments of the constructor that have a default."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some compiled callables have no signature
        return {}
    return {p.name: _plain_value(p.default) for p in parameters if p.default is not p.empty}


def _plain_value(value: Any) -> Any:
    """Return a default argument as JSON values. A path is its text, a member of an enumeration has its name,
    and any other object is represented by the name of its class."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain_value(item) for name, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return str(value)
    return getattr(value, "__name__", type(value).__name__)


def _with_file_contents(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the digest of the content of each file that they name, also in lists and
    dictionaries."""
    digests = {
        f"{name} (content)": hashlib.sha256(Path(text).read_bytes()).hexdigest()
        for name, text in _texts("", arguments)
        if _is_file(text)
    }
    return arguments | digests


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in nested lists and dictionaries, with the names and places that lead to it."""
    if isinstance(value, str):
        yield name, value
    elif (
        isinstance(value, dict | list) and "component" not in value
    ):  # a component has an identity of its own
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(f"{name}.{key}" if name else str(key), item)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


@cache
def _source_version(target: Any) -> str:
    """Return a version made from the source code that defines the target.

    It is the digest of the target's module and of the modules of the same folder tree that it imports. For an
    installed package, it is the digest of the package's version and of the module. Raises InputError if there
    is no source.
    """
    module = sys.modules[target.__module__]
    path = Path(module.__file__).resolve() if getattr(module, "__file__", None) else None
    if path is None or path.suffix != ".py":
        raise InputError(
            f"{target.__module__}.{target.__name__}: expected a class attribute `version`, since its source "
            "code cannot be read; declare one, and raise it when the behaviour changes"
        )
    digest = hashlib.sha256()
    if any(path.is_relative_to(place) for place in INSTALLED):
        digest.update(_installed_version(module).encode())
        sources = [path]
    else:
        sources = sorted(_imported_files(path, _root_of(module, path)))
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return f"source-{digest.hexdigest()[:16]}"


def _installed_version(module: ModuleType) -> str:
    """Return the versions of the distributions that provide the module's package."""
    package = module.__name__.partition(".")[0]
    names = sorted(metadata.packages_distributions().get(package, ()))
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _root_of(module: ModuleType, path: Path) -> Path:
    """Return the folder from which the module's package is imported."""
    depth = module.__name__.count(".") + (path.name == "__init__.py")
    return path.parents[depth] if module.__name__ != "__main__" else path.parent


def _imported_files(path: Path, root: Path) -> set[Path]:
    """Return `path` and the source files below `root` that it imports, directly or not."""
    files, waiting = {path}, [path]
    while waiting:
        for name in _imported_names(waiting.pop(), root):
            for candidate in _files_of(name, root):
                if candidate not in files:
                    files.add(candidate)
                    waiting.append(candidate)
    return files


def _imported_names(path: Path, root: Path) -> Iterator[str]:
    """Yield the dotted names that a source file imports; for `from a import b`, both `a` and `a.b`."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem
            yield from (f"{stem}.{alias.name}".lstrip(".") for alias in node.names)


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """Yield the files below `root` that are executed when a module of this name is imported."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())
