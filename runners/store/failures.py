"""Failures: the reasons why artifacts could not be made, kept in the store until they have been made."""

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runners.store.artifact import Artifact
from runners.store.store import Store


@dataclass(frozen=True)
class Failure:
    """The reason why a result could not be made.

    Text that no file can hold, such as half of a surrogate pair in the message of an exception, is written
    with escapes.

    Args:
        reason: the error in one line.
        traceback: Python's traceback of the error.
        launch: the run of a command in which it occurred.
        path: the file that holds this failure.
    """

    reason: str
    traceback: str = ""
    launch: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        for name in ("reason", "traceback"):
            text = getattr(self, name).encode(errors="backslashreplace").decode()
            object.__setattr__(self, name, text)


def failure_artifact(key: str) -> Artifact:
    """Return the artifact that holds the failure to make the artifact with this key."""
    return Artifact("failures", {"of": key})


def keep_failure(store: Store, key: str, failure: Failure, *, images: str) -> None:
    """Store the failure to make the artifact with this key; `images` names the images of the chunk."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [failure.reason, f"launch {failure.launch}", f"{now} on {socket.gethostname()}, images {images}"]
    store.put(failure_artifact(key), "\n".join([*lines, "", failure.traceback]).encode())


def failure_of(store: Store, key: str) -> Failure | None:
    """Return why the last attempt to make the artifact with this key failed; None if it did not fail."""
    artifact = failure_artifact(key)
    content = store.get(artifact) if store.has(artifact) else None
    if content is None:
        return None
    reason, launch, _, _, traceback = (*content.decode(errors="replace").split("\n", 4), "", "", "", "")[:5]
    return Failure(reason, traceback, launch.removeprefix("launch "), store.path(artifact))
