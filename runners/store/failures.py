"""Failures: why an artifact could not be made, kept in the store until it has been made."""

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
        reason: what was raised, in one line.
        traceback: what Python said of it.
        launch: the run of a command that saw it.
        path: the file that holds it.
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
    """Under which name the failure to make the artifact with this key is kept."""
    return Artifact("failures", {"of": key})


def keep_failure(store: Store, key: str, failure: Failure, *, images: str) -> None:
    """Keep the failure to make the artifact with this key; `images` says of which images."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [failure.reason, f"launch {failure.launch}", f"{now} on {socket.gethostname()}, images {images}"]
    store.put(failure_artifact(key), "\n".join([*lines, "", failure.traceback]).encode())


def failure_of(store: Store, key: str) -> Failure | None:
    """Why the artifact with this key could not be made when it was last tried; None if that did not fail."""
    artifact = failure_artifact(key)
    content = store.get(artifact) if store.has(artifact) else None
    if content is None:
        return None
    reason, launch, _, _, traceback = (*content.decode(errors="replace").split("\n", 4), "", "", "", "")[:5]
    return Failure(reason, traceback, launch.removeprefix("launch "), store.path(artifact))
