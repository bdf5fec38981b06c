"""An artefact of the store as it lies in a file; apart, so that what only reads starts fast.

The first line of the file is JSON: what the artefact was made from, the sha256 of the rest, and whether the
rest is packed. The file's name is the sha256 of what the artefact was made from, its folder the stage.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import InputError
from runners.store import packing

Recipe = Mapping[str, Any]
LONGEST = 2**24  # bytes of a header
NAME = re.compile(r"\w+")


class DamagedError(Exception):
    """A file of the store does not hold what its name says."""


def key_of(made_from: Recipe) -> str:
    """The name of the artefact made from `made_from` (JSON values only)."""
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_of(header: Mapping[str, Any], content: bytes, *, pack: bool) -> bytes:
    """An artefact's file: its header with the checksum, and the content, packed where that is worth it."""
    small = packing.packed(content) if pack else None
    held, told = (content, {}) if small is None else (small, {"packed": packing.VERSION})
    head = {**header, **told, "sha256": hashlib.sha256(held).hexdigest()}
    return json.dumps(head, sort_keys=True).encode() + b"\n" + held


def opened(path: Path) -> BinaryIO:
    """A regular file, to be read.

    Raises OSError for anything else: to read from a pipe or a device could wait for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
    return os.fdopen(handle, "rb")


def header_of(path: Path) -> dict[str, Any]:
    """The first line of an artefact's file; nothing of it is checked.

    Raises OSError where it cannot be read, ValueError where it is not a JSON object.
    """
    with opened(path) as file:
        try:
            header = json.loads(file.readline(LONGEST))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError(f"expected an object, got {type(header).__name__}")
    return header


def content_of(path: Path) -> bytes:
    """What the artefact at `path` holds. Raises OSError where it cannot be read, and as `held_in`."""
    with opened(path) as file:
        raw = file.read()
    return held_in(raw, path.parent.parent.name, path.name)


def held_in(raw: bytes, stage: str, key: str) -> bytes:
    """The content of an artefact's file of this name.

    Raises DamagedError where it is not what its name says, and InputError where a newer version of this
    project wrote it.
    """
    if (wrong := fault(raw, stage, key)) is not None:
        raise DamagedError(wrong)
    head, _, held = raw.partition(b"\n")
    version = json.loads(head).get("packed")
    if version is None:
        return held
    if version != packing.VERSION:
        raise InputError(
            f"{stage}/{key}: packed in form {version!r}, but this version of purifybench reads form "
            f"{packing.VERSION}; use the newer version, or another store"
        )
    try:
        return packing.unpacked(held)
    except ValueError as error:
        raise DamagedError(f"damaged, it cannot be unpacked ({error})") from error


def fault(raw: bytes, stage: str, key: str) -> str | None:
    """What is wrong with an artefact's file of this name, if anything."""
    head, newline, held = raw.partition(b"\n")
    try:
        told = json.loads(head)
        whole = bool(newline) and told["sha256"] == hashlib.sha256(held).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        return "damaged, its checksum differs"
    made_from = told.get("made_from")
    try:
        named = made_from["stage"] == stage and key_of(made_from) == key
    except (ValueError, KeyError, TypeError, RecursionError):
        named = False
    return None if named else "misplaced, its name is not that of its recipe"


def place(root: Path, stage: str, key: str) -> Path:
    """Where the artefact of this name lies in the store at `root`.

    Raises InputError for a name that leads elsewhere: records may come from anyone.
    """
    if not NAME.fullmatch(stage) or not NAME.fullmatch(key):
        raise InputError(f"store {root}: expected the name of an artefact, got {f'{stage}/{key}'!r:.80}")
    return root / stage / key[:2] / key


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:.1f}"
