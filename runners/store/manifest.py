"""Manifests: what a command asked for and which artifacts that needs, kept in the store itself.

A manifest alone tells what is done, running, failed or missing (status.py), which artifacts are no longer
needed (maintenance.py), and what goes into an archive (archive.py).
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from runners import untrusted
from runners.store.artifact import Artifact, DamagedError, content_of, opened
from runners.store.store import Store

log = logging.getLogger(__name__)

VERSION = 1
MODULES = ("runners.table", "runners.evaluate")
# Options that set where and how something is computed: the request is the same without them.
PLACES = ("store", "records", "tables", "workers", "device", "budget_hours", "data_dir", "hydra",
          "keep_purified", "chunk_seconds")  # fmt: skip
SAFE = re.compile(r"[\w/@.]+=")  # name=value, but no switch and no syntax of Hydra's own
WRITTEN = ("store", "records", "tables", "logger")  # options that say where results go
UNSAFE = re.compile(r"_[a-z]+_\W")  # keys that Hydra's instantiate acts on
UPWARDS = re.compile(r"(?!data_dir=)[\w/@]+=.*\.\.")  # a config from outside configs/
KEY = re.compile(r"\w+")
DEPENDENT = {"made_from": {"stage": str, "of": (str, list)}}  # the header of a probe or a failure
SHAPE = {  # the shape of the file, as untrusted.check_shape reads it
    "version": int,
    "request": {"module": str, "name": str, "words": [str]},
    "n": int,
    "cells": {...: [[KEY]]},
    "other": [re.compile(r"\w+/\w+")],
    "seconds": {...: (int, float)},
}


@dataclass(frozen=True)
class Manifest:
    """A request, and the keys of all artifacts that it needs.

    Args:
        module: the command, runners.table or runners.evaluate.
        name: the readable name of the table or of the cell.
        words: the words of the command line.
        n: the number of images.
        cells: for each cell by its label, four keys for each chunk of images: of the crafting, the
            purification, the purified images and the records.
        other: weights, checks and clean images, as stage/key.
        seconds: estimates of the work, by the keys of tasks.
    """

    module: str
    name: str
    words: tuple[str, ...] = ()
    n: int = 0
    cells: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    other: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word in self.words:  # anyone may repeat the request, so its words must be safe
            untrusted.check_text(word, f"{self.name}: {_option(word)}")

    @property
    def request(self) -> list[str]:
        """The words that distinguish this request from others, in a fixed order."""
        return sorted(word for word in self.words if not word.startswith(PLACES))

    @property
    def artifact(self) -> Artifact:
        """The artifact under which the manifest is stored."""
        return Artifact("manifests", {"module": self.module, "name": self.name, "words": self.request})

    @property
    def is_table(self) -> bool:
        return self.module == "runners.table"

    @property
    def artifacts(self) -> set[tuple[str, str]]:
        """The stage and the key of everything that is needed."""
        needed = {(stage, key) for stage, _, key in (name.partition("/") for name in self.other)}
        for chunks in self.cells.values():
            for crafting, _, purified, records in chunks:
                needed |= {("adversarial", crafting), ("purified", purified), ("records", records)}
        return needed | {("manifests", self.artifact.key)}

    def command(self, also: Sequence[str] = ()) -> list[str]:
        """Return the words that `python -m` runs to repeat the request.

        Words in `also` replace those that set the same option. Raises InputError for a word that could do
        anything but set a parameter, or that says where results go, since the manifest may come from an
        archive.
        """
        if self.module not in MODULES:
            raise InputError(f"manifest: expected {' or '.join(MODULES)}, got {self.module}")
        replaced = {_option(word) for word in also}
        words = [word for word in self.words if _option(word) not in replaced]
        for word in words:
            if not SAFE.match(word) or word.startswith("hydra") or UNSAFE.search(word) or UPWARDS.match(word):
                raise InputError(f"{self.name}: {word!r} is not repeated; type the command yourself")
            if _option(word).partition(".")[0] in WRITTEN:
                raise InputError(
                    f"{self.name}: {word!r} is not repeated, because it says where results go; give your own "
                    f"{_option(word)}=... after the command"
                )
        return [self.module, *words, *also]

    def write(self, store: Store) -> None:
        """Put the manifest into the store, unless the store already has the same one."""
        content = json.dumps(
            {
                "version": VERSION,
                "request": {"module": self.module, "name": self.name, "words": list(self.words)},
                "n": self.n,
                "cells": self.cells,
                "other": list(self.other),
                "seconds": {key: round(value, 3) for key, value in self.seconds.items()},
            }
        ).encode()
        if not store.has(self.artifact) or store.get(self.artifact) != content:
            store.put(self.artifact, content)


def _option(word: str) -> str:
    return word.partition("=")[0]


def parse(content: bytes, path: Path) -> Manifest | None:
    """Return the manifest in the file at `path`, or None if it has another version.

    Raises InputError for content that is not plain data of the expected shape, or that does not match the
    name of its file, since it may come from anyone.
    """
    data: dict[str, Any] = untrusted.parsed(content, f"manifest {path}")
    if isinstance(data, dict) and data.get("version") != VERSION:
        return None
    untrusted.check_shape(data, SHAPE, f"manifest {path}")
    for label, chunks in data["cells"].items():
        if any(len(chunk) != 4 for chunk in chunks):
            raise InputError(f"manifest {path}: cells.{label}: expected four keys of each chunk")
    words = tuple(data["request"].pop("words"))
    rest = {name: data[name] for name in ("n", "cells", "other", "seconds")}
    manifest = Manifest(**{name: data["request"][name] for name in ("module", "name")}, words=words, **rest)
    if manifest.artifact.key != path.name:
        raise InputError(f"manifest {path}: expected the request that it is named after, got another one")
    return manifest


def manifests(store: Store) -> list[Manifest]:
    """Return all manifests in the store, tables first; unusable ones are left out with a warning."""
    usable = []
    for entry in store.files("manifests"):
        path = Path(entry.path)
        try:
            manifest = parse(content_of(path), path)
        except FileNotFoundError:  # another process has removed it
            continue
        except (DamagedError, InputError) as error:
            log.warning("left out: %s: %s", path, error)
            continue
        if manifest is not None:
            usable.append(manifest)
    return sorted(usable, key=lambda manifest: (not manifest.is_table, manifest.name, manifest.n))


def dependents(store: Store, needed: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield stage and key of the probes and failures of what is needed, which no manifest names."""
    keys = {key for _, key in needed}
    for stage in ("probe", "failures"):
        for entry in store.files(stage):
            with opened(Path(entry.path)) as file:
                try:
                    made_from = untrusted.parsed(file.readline(), entry.path, DEPENDENT)["made_from"]
                    origins = [made_from["of"]] if isinstance(made_from["of"], str) else made_from["of"]
                    untrusted.check_shape(origins, [str], entry.path)
                except InputError:  # damaged files are left out
                    continue
            if keys.issuperset(origins):
                yield stage, entry.name


def names_of(found: Iterable[Manifest]) -> str:
    """Return the names of the requests for an error message."""
    return f"there are {', '.join(sorted({manifest.name for manifest in found})) or 'none'}"
