"""Files of results, which are written completely or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from data.errors import InputError


def folder(value: object, name: str) -> Path:
    """Return the folder that a setting names. Raises InputError for null and all else that is no path."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{name}: expected a folder, got {value!r}")
    return Path(str(value))


def writable(folder: Path) -> Path:
    """Return the folder, which is created if needed. Raises InputError if nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder}: cannot write there ({error.strerror or error})") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all. Raises InputError if it cannot be written."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together.

    All of them are written under temporary names before the first one gets its own, so that a full disk
    leaves the earlier files as they were. Raises InputError if one cannot be written.
    """
    parts = {path.parent / f".{path.name}.{os.getpid()}.part": path for path in contents}
    try:
        for part, path in parts.items():
            part.write_bytes(contents[path])
        for part, path in parts.items():
            part.replace(path)
    except OSError as error:
        for part in parts:
            part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot write ({error.strerror or error}); the store is intact") from error
