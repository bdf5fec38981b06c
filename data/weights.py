"""Weight files, which are verified by sha256, and read without executing anything in them."""

import hashlib
import io
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from data.errors import InputError, MissingError

HOLDERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts store the tensors


class UnverifiedError(MissingError):
    """Raised for a file whose sha256 the config does not state."""

    def __init__(self, path: Path, found: str, setting: str = "weights.sha256") -> None:
        super().__init__(
            f"weights {path}: no sha256 is set for this file; if you trust the file that is there, set "
            f"{setting}={found[:16]}"
        )
        self.path, self.found = path, found


@dataclass(frozen=True)
class WeightFile:
    """A checkpoint of tensors: .pt or .pth (weights_only), .safetensors or .npz (without pickle).

    The tensors may be stored together with other objects, under one of the names in `HOLDERS`.

    Args:
        path: path of the file, usually under DATA_DIR.
        sha256: sha256 of the whole file, or its first digits (8 or more: PyTorch's checkpoints have those in
            their names, and some are published with no more). Nothing is read from a file that differs. None
            if no sha256 is published: the user must then state which file is meant.
        source: origin of the file; scripts.fetch downloads it if this is its URL.
        what: setting that names the file, for errors.
    """

    version = 1
    descriptive = frozenset({"path", "source", "what"})
    path: str
    sha256: str | None
    source: str = ""
    what: str = "weights"

    def __post_init__(self) -> None:
        sha256 = self.sha256
        if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{8,64}", sha256)):
            raise InputError(
                f"{self.what}.sha256: expected 8 to 64 hexadecimal digits as text (in quotes if they look "
                f"like a number), got {sha256!r}"
            )

    @property
    def url(self) -> str | None:
        """The address from which it can be downloaded, or None."""
        return self.source if re.fullmatch(r"https?://\S+", self.source) else None

    def digest(self) -> str:
        """Return the file's whole sha256; raise as `load` does."""
        return hashlib.sha256(self.read()).hexdigest()

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a .safetensors file; raise as `load` does."""
        self.read()
        with safetensors.safe_open(self.path, "pt") as file:
            return file.metadata() or {}

    def load(self) -> dict[str, Tensor]:
        """Return the tensors by name; raise MissingError if the file is absent, InputError if it differs."""
        content = self.read()
        try:
            state = _read(content, Path(self.path).suffix)
        except (
            safetensors.SafetensorError,
            pickle.UnpicklingError,
            RuntimeError,
            ValueError,
            zipfile.BadZipFile,
        ) as error:
            raise InputError(
                f"{self.what} {self.path}: expected a checkpoint of tensors only, got one that cannot "
                f"be read safely ({str(error).splitlines()[0]}); nothing in it was executed"
            ) from error
        state = _opened(state)
        if not _is_state(state):
            keys = f" of {', '.join(map(str, [*state][:5]))}" if isinstance(state, dict) else ""
            raise InputError(
                f"{self.what} {self.path}: expected a dictionary of tensors, or one that has it as "
                f"{' or '.join(HOLDERS)}; got {type(state).__name__}{keys}: save the state_dict alone"
            )
        return state

    def read(self) -> bytes:
        """Return the file's content after its sha256 is verified; raise as `load` does."""
        path = Path(self.path)
        if not path.is_file():
            origin = f"; their source is {self.source}" if self.source else ""
            fetch = f"; python -m scripts.fetch downloads them from {self.url}" if self.url else origin
            raise MissingError(f"{self.what} {path} do not exist (set DATA_DIR, or give a path){fetch}")
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if self.sha256 is None:
            raise UnverifiedError(path, found, f"{self.what}.sha256")
        if not found.startswith(self.sha256):
            kind = "a web page" if content[:200].lstrip()[:1] == b"<" else "truncated, or another file"
            again = f"download it again from {self.source}" if self.source else "download it again"
            raise InputError(
                f"{self.what} {path}: expected sha256 {self.sha256}, got {found} ({len(content)} bytes): the "
                f"file is {kind}; {again}, or set {self.what}.sha256 if this is the file you mean"
            )
        return content


def _opened(state: Any) -> Any:
    """Return the tensors of the network from a checkpoint that may also have an optimiser or an epoch."""
    if not isinstance(state, dict) or _is_state(state):
        return state
    return next((state[name] for name in HOLDERS if _is_state(state.get(name))), state)


def _is_state(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(item, Tensor) for item in state.values())


def _read(content: bytes, suffix: str) -> Any:
    if suffix == ".npz":
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}
    if suffix == ".safetensors":
        from safetensors.torch import load

        return load(content)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
