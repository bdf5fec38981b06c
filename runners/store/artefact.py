"""An artefact of the store as it lies in a file; apart, so that what only reads starts fast."""

import hashlib
import json
import re
from pathlib import Path

from data.errors import InputError

NAME = re.compile(r"\w+")


def intact(raw: bytes) -> bytes | None:
    """The content of an artefact's file, or None where it does not match its checksum."""
    head, newline, content = raw.partition(b"\n")
    try:
        whole = bool(newline) and json.loads(head)["sha256"] == hashlib.sha256(content).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    return content if whole else None


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
