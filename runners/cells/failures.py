"""Failures: why a chunk has no result, with the traceback, kept in the store until it has one."""

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runners.cells.cell import Crafting, Purifying
from runners.store.store import Recipe, Store, key_of

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
