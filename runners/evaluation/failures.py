"""Failures: why a chunk has no result, with the traceback, kept in the store until it has one."""

import inspect
import socket
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from traceback import extract_tb
from typing import Any

from hydra.utils import get_object

from runners.app import CONFIGS
from runners.evaluation.cell import Crafting, Purifying
from runners.store.store import Recipe, Store, key_of

ROOT = CONFIGS.parent
LIBRARIES = {Path(place) for name, place in sysconfig.get_paths().items() if name.endswith("lib")}
DIED = "its process died (killed, or out of memory)"


@dataclass(frozen=True)
class Failure:
    """A reason in one line, and what Python said of it; `launch` is the run that saw it, `path` its file.

    Text that no file can hold, such as half of a surrogate pair in the message of an exception, is written
    with escapes.
    """

    reason: str
    traceback: str = ""
    launch: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        for name in ("reason", "traceback"):
            text = getattr(self, name).encode(errors="backslashreplace").decode()
            object.__setattr__(self, name, text)


def told(error: BaseException) -> str:
    """What was raised, in one line."""
    if isinstance(error, SystemExit):
        return f"it asked the whole process to end (SystemExit: {error.code})"
    said = str(error).splitlines()[0] if str(error) else "no message"
    return f"{type(error).__name__}: {said}"


def reason_of(error: BaseException, configs: Iterable[Any]) -> str:
    """One line that says what was raised, and in which line of the components that these configs name, or of
    what a user's own modules have: "purifiers/gamma.py line 12: ValueError: ..."."""
    own = {_source(target) for config in configs for target in _targets(config)}
    for frame in reversed(extract_tb(error.__traceback__)):
        if (path := Path(frame.filename)) in own or _foreign(path):
            near = next((path.relative_to(top) for top in (Path.cwd(), ROOT) if top in path.parents), path)
            return f"{near} line {frame.lineno}: {told(error)}"
    return told(error)


def configs_of(task: Crafting | Purifying) -> list[Any]:
    """The configs of all components that take part in a task."""
    crafting = task if isinstance(task, Crafting) else task.crafting
    specs = [crafting.victim, *crafting.others, *([crafting.seen] if crafting.seen is not None else [])]
    specs += [] if isinstance(task, Crafting) else task.purifiers
    return [crafting.attack, crafting.knowledge, *(spec.config for spec in specs)]


def _targets(config: Any) -> Iterator[str]:
    """Every `_target_` in a config, however deep."""
    if isinstance(config, dict):
        yield from (value for name, value in config.items() if name == "_target_")
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _targets(value)


def _source(target: str) -> Path | None:
    """The file that a target is written in; None where it has none."""
    try:
        return Path(inspect.getsourcefile(get_object(target)))
    except TypeError:  # written in C, or an object without a class of its own
        return None


def _foreign(path: Path) -> bool:
    """Whether a file belongs neither to this project nor to Python and its installed packages."""
    return path.is_file() and not any(top in path.parents for top in (ROOT, *LIBRARIES))


def recipe_of(key: str) -> Recipe:
    """The store's name of the failure to make `key`."""
    return {"stage": "failures", "of": key}


def keep(store: Store, task: Crafting | Purifying, failure: Failure) -> None:
    """Keep it for everything that the task has not made."""
    chunk = (task if isinstance(task, Crafting) else task.crafting).chunk
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = (
        f"{failure.reason}\nlaunch {failure.launch}\n{now} on {socket.gethostname()}, images "
        f"{chunk.ids[0]} to {chunk.ids[-1]}\n\n{failure.traceback}"
    )
    for key in lacking(store, task):
        store.put(recipe_of(key), told.encode())


def of(store: Store, key: str) -> Failure | None:
    """Why `key` could not be made when it was last tried, or None where that did not fail."""
    recipe = recipe_of(key)
    if not store.has(recipe):
        return None
    content = store.get(recipe)
    if content is None:
        return None
    reason, launch, _, _, traceback = (*content.decode(errors="replace").split("\n", 4), "", "", "", "")[:5]
    return Failure(reason, traceback, launch.removeprefix("launch "), store.path(recipe))


def forget(store: Store, task: Crafting | Purifying) -> None:
    """What the task has made has not failed."""
    for key in keys(task):
        store.remove(recipe_of(key))


def lacking(store: Store, task: Crafting | Purifying) -> list[str]:
    """The keys of what the task has not made."""
    if isinstance(task, Crafting):
        return [] if store.has(task.recipe) else [task.key]
    return [
        key_of(task.records(purifier))
        for purifier in task.purifiers
        if not store.has(task.records(purifier)) or (task.images and not store.has(task.purified(purifier)))
    ]


def keys(task: Crafting | Purifying) -> list[str]:
    """The keys of all that the task makes."""
    if isinstance(task, Crafting):
        return [task.key]
    return [key_of(task.records(purifier)) for purifier in task.purifiers]
