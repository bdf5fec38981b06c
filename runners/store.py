"""A content-addressed store of artefacts: whole or absent, verified on read, shared by processes.

An artefact is one file. Its name is the sha256 of what it was made from; its first line is JSON
(what it was made from, and the sha256 of the rest), the rest its content. Files appear by an atomic
rename, so that a killed process, or several at once, never leave half of one.
"""

import hashlib
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from data.errors import InputError
from runners.artefact import content_of, place

log = logging.getLogger(__name__)

Recipe = Mapping[str, Any]
STALE_SECONDS = 24 * 3600


def key_of(made_from: Recipe) -> str:
    """The name of the artefact made from `made_from` (JSON values only)."""
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Store:
    """Artefacts below `root`, in a folder a stage.

    Raises InputError where the folder cannot be written; a full disk raises InputError too, and
    what was stored before stays as it was.

    Args:
        made_by: code, versions and device of the writer, for the headers of what is written. It is part of
            neither names nor contents.
    """

    def __init__(self, root: str | Path, *, made_by: Mapping[str, Any] | None = None) -> None:
        self.root, self.writer = Path(root), made_by
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"store {self.root}: cannot make this folder ({error})") from error
        self._sweep()

    def path(self, made_from: Recipe) -> Path:
        """Where the artefact lies, or will."""
        return place(self.root, made_from["stage"], key_of(made_from))

    def put(self, made_from: Recipe, content: bytes) -> None:
        """Write an artefact whole."""
        path = self.path(made_from)
        header = {"sha256": hashlib.sha256(content).hexdigest(), "made_from": made_from}
        if self.writer is not None:
            header["made_by"] = self.writer
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = f".part-{socket.gethostname()}-{os.getpid()}-"
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, delete=False) as file:
                part = Path(file.name)
                file.write(json.dumps(header, sort_keys=True).encode() + b"\n" + content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            if part is not None:
                part.unlink(missing_ok=True)
            raise InputError(
                f"store {self.root}: cannot write ({error.strerror or error}). Free space or choose "
                "another folder with store=...; finished work is kept and is not done again"
            ) from error

    def get(self, made_from: Recipe) -> bytes | None:
        """The content, or None where there is none or it is damaged (which is logged)."""
        path = self.path(made_from)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"store {self.root}: cannot read {path} ({error.strerror})") from error
        content = content_of(raw)
        if content is None:
            log.warning("damaged: %s does not match its checksum; it will be made again", path)
        return content

    def made_by(self, made_from: Recipe) -> Mapping[str, Any] | None:
        """Who wrote an artefact, or None where that is not known."""
        try:
            with self.path(made_from).open("rb") as file:
                return json.loads(file.readline()).get("made_by")
        except (OSError, ValueError, AttributeError):  # none, or damaged: `get` says so
            return None

    def put_tensors(self, made_from: Recipe, tensors: dict[str, Tensor]) -> None:
        """Write tensors as safetensors."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.put(made_from, safetensors.torch.save(tensors))

    def get_tensors(self, made_from: Recipe) -> dict[str, Tensor] | None:
        """Tensors as they were written, or None."""
        content = self.get(made_from)
        return None if content is None else safetensors.torch.load(content)

    def _sweep(self) -> None:
        """Remove parts that processes killed long ago left behind."""
        for part in self.root.glob("*/*/.part-*"):
            try:
                if time.time() - part.stat().st_mtime > STALE_SECONDS:
                    part.unlink()
            except OSError:  # another process was faster
                continue
