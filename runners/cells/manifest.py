"""Manifests: what a table, or a cell evaluated alone, needs of the store, kept in the store itself.

From it alone can be said what is done, running, failed or missing (runners/status.py), what no table needs
any more, and what goes into an archive (archive.py).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InputError
from runners.cells.cell import Cell, Purifying
from runners.store.store import Recipe, Store, key_of

VERSION = 1
PLACES = ("store", "records", "tables", "workers", "device", "jobs", "budget_hours", "data_dir", "hydra")
SAFE = re.compile(r"[\w/@.]+=")  # name=value; no switch, and nothing of Hydra's own


@dataclass(frozen=True)
class Request:
    """What was asked for: a module of ours, a name for people, the words of the command line."""

    module: str  # runners.table or runners.evaluate
    name: str
    words: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The manifest's name in the store: another device or number of processes asks for the same."""
        words = sorted(word for word in self.words if not word.startswith(PLACES))
        return {"stage": "manifests", "module": self.module, "name": self.name, "words": words}

    @property
    def command(self) -> list[str]:
        """What python -m runs to ask again. Raises InputError where a word could do anything but set a
        parameter: a manifest may come from an archive."""
        if self.module not in ("runners.table", "runners.evaluate"):
            raise InputError(f"manifest: expected runners.table or runners.evaluate, got {self.module}")
        for word in self.words:
            if not SAFE.match(word) or word.startswith("hydra") or "_target_" in word or "${" in word:
                raise InputError(f"{self.name}: {word!r} is not repeated; type the command yourself")
        return [self.module, *self.words]


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


def read(content: bytes) -> Manifest | None:
    """None for one of another version."""
    told: dict[str, Any] = json.loads(content)
    if told.get("version") != VERSION:
        return None
    asked = told["request"]
    request = Request(asked["module"], asked["name"], tuple(asked["words"]))
    return Manifest(request, told["n"], told["cells"], told["other"], told["seconds"])


def of(store: Store, request: Request) -> Manifest | None:
    """The manifest of a request, once a run has planned it."""
    content = store.get(request.recipe) if store.has(request.recipe) else None
    return None if content is None else read(content)


def all_of(store: Store) -> Iterator[Manifest]:
    """Every manifest in the store, tables first."""
    found = []
    for entry in store.files("manifests"):
        content = store.content(Path(entry.path))
        if content is not None and (manifest := read(content)) is not None:
            found.append(manifest)
    yield from sorted(found, key=lambda m: (m.request.module != "runners.table", m.request.name, m.n))


def beside(store: Store, needed: set[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Path, dict]]:
    """Probes and failures of what is needed, which no manifest names."""
    keys = {key for _, key in needed}
    for stage in ("probe", "failures"):
        for entry in store.files(stage):
            with Path(entry.path).open("rb") as file:
                try:
                    made_from = json.loads(file.readline())["made_from"]
                    of = made_from["of"]
                except (ValueError, KeyError, TypeError):  # damaged: nobody misses it
                    continue
            if keys.issuperset([of] if isinstance(of, str) else of):
                yield (stage, entry.name), Path(entry.path), made_from


def names(every: Iterable[Manifest]) -> str:
    """The tables that there are, as an error says it."""
    return f"there are {', '.join(sorted({each.request.name for each in every})) or 'none'}"
