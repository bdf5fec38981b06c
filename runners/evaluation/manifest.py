"""Manifests: what a table, or a cell evaluated alone, needs of the store, kept in the store itself.

From it alone can be said what is done, running, failed or missing (runners/status.py), what no table needs
any more, and what goes into an archive (archive.py).
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
from runners.evaluation.cell import Cell, Purifying
from runners.store.artifact import opened
from runners.store.store import Recipe, Store, key_of

log = logging.getLogger(__name__)

VERSION = 1
PLACES = ("store", "records", "tables", "workers", "device", "budget_hours", "data_dir", "hydra",
          "keep_purified")  # fmt: skip
SAFE = re.compile(r"[\w/@.]+=")  # name=value; no switch, and nothing of Hydra's own
WRITTEN = ("store", "records", "tables", "logger")  # what says where results go, or who is told of them
UNSAFE = re.compile(r"_[a-z]+_\W")  # keys that Hydra's instantiate acts on
UPWARDS = re.compile(r"(?!data_dir=)[\w/@]+=.*\.\.")  # a config from outside configs/
KEY = re.compile(r"\w+")
BESIDE = {"made_from": {"stage": str, "of": (str, list)}}  # the header of a probe or a failure
SHAPE = {  # of the file, as runners/untrusted.py reads it
    "version": int,
    "request": {"module": str, "name": str, "words": [str]},
    "n": int,
    "cells": {...: [[KEY]]},
    "other": [re.compile(r"\w+/\w+")],
    "seconds": {...: (int, float)},
}


@dataclass(frozen=True)
class Request:
    """What was asked for: a module of ours, a name for people, the words of the command line."""

    module: str  # runners.table or runners.evaluate
    name: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in self.words:  # what is asked for must be fit to be asked for again, by anyone
            untrusted.check_text(word, f"{self.name}: {_option(word)}")

    @property
    def recipe(self) -> Recipe:
        """The manifest's name in the store: another device or number of processes asks for the same."""
        words = sorted(word for word in self.words if not word.startswith(PLACES))
        return {"stage": "manifests", "module": self.module, "name": self.name, "words": words}

    def command(self, also: Sequence[str] = ()) -> list[str]:
        """What python -m runs to ask again; words in `also` take the place of those that set the same.

        Raises InputError where a word could do anything but set a parameter, or says where results go: a
        manifest may come from an archive.
        """
        if self.module not in ("runners.table", "runners.evaluate"):
            raise InputError(f"manifest: expected runners.table or runners.evaluate, got {self.module}")
        replaced = {_option(word) for word in also}
        words = [word for word in self.words if _option(word) not in replaced]
        for word in words:
            if not SAFE.match(word) or word.startswith("hydra") or UNSAFE.search(word) or UPWARDS.match(word):
                raise InputError(f"{self.name}: {word!r} is not repeated; type the command yourself")
            if _option(word).partition(".")[0] in WRITTEN:
                raise InputError(
                    f"{self.name}: {word!r} is not repeated, because it says where results go; give your own "
                    f"{_option(word)}=... after --retry"
                )
        return [self.module, *words, *also]


def _option(word: str) -> str:
    return word.partition("=")[0]


@dataclass(frozen=True)
class Manifest:
    """The keys of all that a request needs.

    `cells` are labels with chunks, each of four keys: the crafting, the purification, the purified images,
    the records. `other` are weights, checks and probes, as stage/key. `seconds` are estimates of work.
    """

    request: Request
    n: int
    cells: Mapping[str, Sequence[Sequence[str]]]
    other: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def artefacts(self) -> set[tuple[str, str]]:
        """All of them, as (stage, key)."""
        found = {(stage, key) for stage, _, key in (name.partition("/") for name in self.other)}
        for chunks in self.cells.values():
            for crafting, _, purified, records in chunks:
                found |= {("adversarial", crafting), ("purified", purified), ("records", records)}
        return found | {("manifests", key_of(self.request.recipe))}


def chunk_keys(task: Purifying) -> list[str]:
    """The four keys of one chunk of one cell; `task` has its purifier alone."""
    (purifier,) = task.purifiers
    return [task.crafting.key, task.key, key_of(task.purified(purifier)), key_of(task.records(purifier))]


def labels(cells: Sequence[Cell]) -> list[str]:
    """The cells' names, with a count where parameters alone tell them apart."""
    told = []
    for cell in cells:
        told.append(cell.label + (f", {cell.eps}" if cell.eps else ""))
    return [f"{name} ({i})" if told.count(name) > 1 else name for i, name in enumerate(told, 1)]


def write(store: Store, manifest: Manifest) -> None:
    """Put it into the store, unless it is there as it is."""
    told = {
        "version": VERSION,
        "request": vars(manifest.request),
        "n": manifest.n,
        "cells": manifest.cells,
        "other": list(manifest.other),
        "seconds": {key: round(value, 3) for key, value in manifest.seconds.items()},
    }
    content = json.dumps(told).encode()
    if not store.has(manifest.request.recipe) or store.get(manifest.request.recipe) != content:
        store.put(manifest.request.recipe, content)


def read(content: bytes, path: Path) -> Manifest | None:
    """The manifest that the store's file at `path` holds; None for one of another version.

    It may come from anyone: raises InputError where it is not plain data of the expected shape, or is not
    what its file is named after.
    """
    told: dict[str, Any] = untrusted.parsed(content, f"manifest {path}")
    if isinstance(told, dict) and told.get("version") != VERSION:
        return None
    untrusted.check_shape(told, SHAPE, f"manifest {path}")
    for label, chunks in told["cells"].items():
        if any(len(chunk) != 4 for chunk in chunks):
            raise InputError(f"manifest {path}: cells.{label}: expected four keys of each chunk")
    asked = told["request"]
    request = Request(asked["module"], asked["name"], tuple(asked["words"]))
    if key_of(request.recipe) != path.name:
        raise InputError(f"manifest {path}: expected the request that it is named after, got another one")
    return Manifest(request, told["n"], told["cells"], told["other"], told["seconds"])


def _found(store: Store, path: Path) -> Manifest | None:
    """The manifest in a file of the store; one that cannot be used is left out, with a warning."""
    content = store.content(path)
    try:
        return None if content is None else read(content, path)
    except InputError as error:
        log.warning("left out: %s", error)
        return None


def of(store: Store, request: Request) -> Manifest | None:
    """The manifest of a request, once a run has planned it."""
    return _found(store, store.path(request.recipe)) if store.has(request.recipe) else None


def all_of(store: Store) -> Iterator[Manifest]:
    """Every manifest in the store, tables first."""
    found = []
    for entry in store.files("manifests"):
        if (manifest := _found(store, Path(entry.path))) is not None:
            found.append(manifest)
    yield from sorted(found, key=lambda m: (m.request.module != "runners.table", m.request.name, m.n))


def beside(store: Store, needed: set[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Path, dict]]:
    """Probes and failures of what is needed, which no manifest names."""
    keys = {key for _, key in needed}
    for stage in ("probe", "failures"):
        for entry in store.files(stage):
            with opened(Path(entry.path)) as file:
                try:
                    header = untrusted.parsed(file.readline(), entry.path, BESIDE)
                    made_from = header["made_from"]
                    of = [made_from["of"]] if isinstance(made_from["of"], str) else made_from["of"]
                    untrusted.check_shape(of, [str], entry.path)
                except InputError:  # damaged: nobody misses it
                    continue
            if keys.issuperset(of):
                yield (stage, entry.name), Path(entry.path), made_from


def names(every: Iterable[Manifest]) -> str:
    """The tables that there are, as an error says it."""
    return f"there are {', '.join(sorted({each.request.name for each in every})) or 'none'}"
