"""Artifacts of the store: their names, and the format of their files.

The first line of a file is JSON: what the artifact was made from, the sha256 of the rest, and whether the
rest is packed. The name of the file is the artifact's key, and its folder is named after the stage.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from data.errors import InputError
from runners.store import packing

LONGEST = 2**24  # bytes of a header
NAME = re.compile(r"\w+")


class DamagedError(Exception):
    """Raised if a file of the store does not hold what its name says."""


def key_of(content: Any) -> str:
    """Return the sha256 of JSON values, which does not depend on the order of their names."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """Identifies something in the store by everything that it is made from.

    Args:
        stage: the kind of artifact, which is its folder in the store.
        inputs: what it is made from, as JSON values.
    """

    stage: str
    inputs: Mapping[str, Any]

    @property
    def made_from(self) -> dict[str, Any]:
        """The stage and the inputs, as the header of the artifact's file holds them."""
        return {"stage": self.stage, **self.inputs}

    @cached_property
    def key(self) -> str:
        """The sha256 of what it is made from, which is the name of its file."""
        return key_of(self.made_from)

    @classmethod
    def read(cls, made_from: Mapping[str, Any]) -> "Artifact":
        """Return the artifact that a file states it was made from."""
        inputs = dict(made_from)
        return cls(inputs.pop("stage"), inputs)


def file_of(header: Mapping[str, Any], content: bytes, *, pack: bool) -> bytes:
    """Return an artifact's file: a header with the checksum, and the content, packed if that saves space."""
    small = packing.packed(content) if pack else None
    stored, packing_note = (content, {}) if small is None else (small, {"packed": packing.VERSION})
    head = {**header, **packing_note, "sha256": hashlib.sha256(stored).hexdigest()}
    return json.dumps(head, sort_keys=True).encode() + b"\n" + stored


def opened(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises OSError for anything else: reading from a pipe or a device could wait for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
    return os.fdopen(handle, "rb")


def header_of(path: Path) -> dict[str, Any]:
    """Return the first line of an artifact's file without checking it.

    Raises OSError if it cannot be read, ValueError if it is not a JSON object.
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
    """Return what the artifact at `path` holds. Raises OSError if it cannot be read, and as `held_in`."""
    with opened(path) as file:
        raw = file.read()
    return held_in(raw, path.parent.parent.name, path.name)


def held_in(raw: bytes, stage: str, key: str) -> bytes:
    """Return the content of the artifact's file with this name.

    Raises DamagedError if it is not what its name says, and InputError if a newer version of this project
    wrote it.
    """
    if (wrong := fault(raw, stage, key)) is not None:
        raise DamagedError(wrong)
    head, _, stored = raw.partition(b"\n")
    version = json.loads(head).get("packed")
    if version is None:
        return stored
    if version != packing.VERSION:
        raise InputError(
            f"{stage}/{key}: packed in form {version!r}, but this version of purifybench reads form "
            f"{packing.VERSION}; use the newer version, or another store"
        )
    try:
        return packing.unpacked(stored)
    except ValueError as error:
        raise DamagedError(f"damaged, it cannot be unpacked ({error})") from error


def fault(raw: bytes, stage: str, key: str) -> str | None:
    """Return what is wrong with an artifact's file of this name, or None."""
    head, newline, stored = raw.partition(b"\n")
    try:
        header = json.loads(head)
        intact = bool(newline) and header["sha256"] == hashlib.sha256(stored).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        return "damaged, its checksum differs"
    made_from = header.get("made_from")
    try:
        named = made_from["stage"] == stage and key_of(made_from) == key
    except (ValueError, KeyError, TypeError, RecursionError):
        named = False
    return None if named else "misplaced, its name is not that of its recipe"


def place(root: Path, stage: str, key: str) -> Path:
    """Return the path of the artifact of this name in the store at `root`.

    Raises InputError for a name that would lead elsewhere, since records may come from anyone.
    """
    if not NAME.fullmatch(stage) or not NAME.fullmatch(key):
        raise InputError(f"store {root}: expected the name of an artifact, got {f'{stage}/{key}'!r:.80}")
    return root / stage / key[:2] / key


def megabytes(size: int) -> str:
    return f"{size / 2**20:.1f}"
