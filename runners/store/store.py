"""A content-addressed store of artifacts, which are verified on read and shared by processes and hosts.

An artifact is one file (runners/store/artifact.py). Files appear by an atomic rename, so that a killed
process, or several at once, never leave half of one.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from data.errors import InputError
from runners.store.artifact import Artifact, DamagedError, content_of, file_of, header_of, place
from runners.store.leases import Leases

log = logging.getLogger(__name__)

PARTS = ".parts"  # where files are written before they are renamed
LEASES = "claims"
UMASK = os.umask(0)  # it can only be read by setting it
os.umask(UMASK)


class Store:
    """Artifacts below `root`, in one folder per stage.

    Raises InputError if the folder cannot be written. A full disk raises InputError too, and what was stored
    before stays as it was.

    Args:
        made_by: code, versions and device of the process that writes, for the headers of its files. It is not
            part of names or contents.
    """

    def __init__(self, root: str | Path, *, made_by: Mapping[str, Any] | None = None) -> None:
        self.root, self.writer = Path(root), made_by
        self.leases = Leases(self.root / LEASES)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"store {self.root}: cannot make this folder ({error})") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.root, self.writer)  # a copy has no claims

    def path(self, artifact: Artifact) -> Path:
        """Return the path of an artifact, whether it exists or not."""
        return place(self.root, artifact.stage, artifact.key)

    def put(self, artifact: Artifact, content: bytes, *, pack: bool = False) -> None:
        """Write an artifact completely; `pack` compresses it, which `get` undoes."""
        header: dict[str, Any] = {"made_from": artifact.made_from}
        if self.writer is not None:
            header["made_by"] = self.writer
        self.write(self.path(artifact), file_of(header, content, pack=pack))

    def write(self, path: Path, raw: bytes) -> None:
        """Write a file of the store with its header, completely or not at all."""
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = self.root / PARTS
            parts.mkdir(exist_ok=True)
            prefix = f"{socket.gethostname()}-{os.getpid()}-"
            with tempfile.NamedTemporaryFile(dir=parts, prefix=prefix, delete=False) as file:
                part = Path(file.name)
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o666 & ~UMASK)  # other users may share a store, if the umask permits
            part.replace(path)
        except OSError as error:
            if part is not None:
                part.unlink(missing_ok=True)
            raise InputError(
                f"store {self.root}: cannot write ({error.strerror or error}). Free space or choose "
                "another folder with store=...; finished work is kept and is not done again"
            ) from error

    def has(self, artifact: Artifact) -> bool:
        """Return whether an artifact exists; only `get` verifies it.

        On a network file system, a file that another host wrote may stay invisible for a minute, unless its
        folder is opened, which asks the server.
        """
        path = self.path(artifact)
        if path.exists():
            return True
        try:
            os.close(os.open(path.parent, os.O_RDONLY))
        except OSError:
            return False
        return path.exists()

    def get(self, artifact: Artifact) -> bytes | None:
        """Return the content, or None if it is missing or damaged. A damaged file is logged and removed."""
        return self.content(self.path(artifact))

    def content(self, path: Path) -> bytes | None:
        """Return the content of a file of the store, as `get` does."""
        try:
            return content_of(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"store {self.root}: cannot read {path} ({reason})") from error
        except DamagedError as error:
            log.warning("%s: %s; it will be made again", error, path)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # read-only: writing it again will report that
                log.debug("%s cannot be removed (%s)", path, error)
            return None

    def remove(self, artifact: Artifact) -> None:
        """Remove an artifact if it exists. Raises InputError if it cannot be removed."""
        path = self.path(artifact)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"store {self.root}: cannot remove {path} ({reason})") from error

    def files(self, stage: str) -> Iterator[os.DirEntry[str]]:
        """Return the files of all artifacts of a stage; their names are keys."""
        try:
            folders = sorted(entry.path for entry in os.scandir(self.root / stage) if entry.is_dir())
        except FileNotFoundError:
            return
        for folder in folders:
            yield from (entry for entry in os.scandir(folder) if not entry.name.startswith("."))

    def made_by(self, artifact: Artifact) -> Mapping[str, Any] | None:
        """Return who wrote an artifact, or None if that is unknown."""
        try:
            return header_of(self.path(artifact)).get("made_by")
        except (OSError, ValueError):  # absent, or damaged, which `get` reports
            return None

    def put_tensors(self, artifact: Artifact, tensors: dict[str, Tensor], *, pack: bool = False) -> None:
        """Write tensors as safetensors; `pack` is as in `put`."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.put(artifact, safetensors.torch.save(tensors), pack=pack)

    def get_tensors(self, artifact: Artifact) -> dict[str, Tensor] | None:
        """Return the tensors as they were written, or None if they are missing or damaged."""
        content = self.get(artifact)
        return None if content is None else safetensors.torch.load(content)


def _reopened(root: Path, made_by: Mapping[str, Any] | None) -> Store:
    return Store(root, made_by=made_by)
