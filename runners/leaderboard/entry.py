"""Entries: a card and the record files of one purifier in front of one victim, read as untrusted data."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd
import yaml

from attacks.attack import TOLERANCE
from data.errors import InputError
from runners import untrusted
from runners.evaluation.identity import identity
from runners.evaluation.records import from_parquet
from runners.evaluation.schema import COLUMNS
from runners.validity.record_file import RecordFile

CARD = "card.yaml"
TEXT = re.compile(r"[^\n]{1,200}")
FILE = re.compile(r"[\w+.-]+\.parquet")
SHA256 = re.compile(r"[0-9a-f]{64}")
WRITTEN = {  # the fields of a card that people write
    "purifier": TEXT,
    "paper": TEXT,
    "link": re.compile(r"https?://[^\s\"'<>]+"),
    "weights_sha256": (str, NoneType),
    "run_by": TEXT,
}
CHECKED = {  # the fields that are added when an entry is accepted
    "records": {...: SHA256},
    "replayed": [TEXT],
    "bytes_an_image": (int, NoneType),
}
SAME = ("n", "seed", "split", "subset")  # settings that all record files of an entry share
LARGEST = 2**16  # most bytes of a card


@dataclass(frozen=True)
class Entry:
    """One purifier with its settings in front of one victim; `files` are the record files of its cells."""

    name: str
    card: dict[str, Any]
    files: tuple[RecordFile, ...]

    @classmethod
    def read(cls, folder: Path) -> "Entry":
        """Read an entry from its folder in the leaderboard. Raises InputError if it was edited by hand."""
        card = read_card(folder / CARD, taken=True)
        for name, expected in card["records"].items():
            if not FILE.fullmatch(name):
                raise InputError(f"{folder / CARD}: records: expected Parquet files, got {name!r:.80}")
            actual = digest_of(folder / name)
            if actual != expected:
                raise InputError(
                    f"{folder / name}: expected sha256 {expected}, got {actual}: it was edited after its "
                    "replay; add the entry again"
                )
        return cls.of(folder.name, card, [folder / name for name in card["records"]])

    @classmethod
    def of(cls, name: str, card: dict[str, Any], paths: Sequence[Path]) -> "Entry":
        """Return an entry of these record files. Raises InputError if they contradict one another."""
        if not paths:
            raise InputError(f"{name}: expected record files, got none")
        files = tuple(RecordFile.read(path) for path in paths)
        for file in files:
            with untrusted.readable(str(file.path)):
                check_records(file)
        first = files[0]
        for file in files[1:]:
            differing = [
                part for part in ("dataset", "victim", "purifier") if _part(file, part) != _part(first, part)
            ]
            differing += [s for s in SAME if file["settings"].get(s) != first["settings"].get(s)]
            if file["image_ids_sha256"] != first["image_ids_sha256"]:
                differing.append("images")
            if differing:
                raise InputError(
                    f"{file.path}: expected the {differing[0]} of {first.path.name}, got another"
                )
        return cls(name, card, files)

    @cached_property
    def frames(self) -> list[pd.DataFrame]:
        """The records of each file."""
        return [from_parquet(file.path.read_bytes()) for file in self.files]

    @property
    def setting(self) -> tuple[str, str]:
        """The names of the data set and of the victim."""
        names = self.files[0]["names"]
        return names["dataset"], names["victim"]

    @property
    def chosen(self) -> dict[str, Any]:
        """The data set, the victim, and the settings that choose the images, by name."""
        first = self.files[0]
        parts = {"dataset": _part(first, "dataset"), "victim": _part(first, "victim")}
        return parts | {name: first["settings"].get(name) for name in ("split", "subset", "seed")}


def read_card(path: Path, *, taken: bool) -> dict[str, Any]:
    """Read a card as plain data. Raises InputError for anything else.

    If `taken` is true, the card must also have the fields that are added when an entry is accepted.
    """
    try:
        content = path.read_bytes()
        if len(content) > LARGEST:
            raise InputError(f"{path}: expected a card of at most {LARGEST} bytes, got {len(content)}")
        card = yaml.safe_load(content)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a card as YAML, got {str(error).splitlines()[0]}") from error
    untrusted.check_plain(card, str(path))
    shape = WRITTEN | CHECKED if taken else WRITTEN
    untrusted.check_shape(card, shape, str(path))
    if unknown := sorted(set(card) - set(shape)):
        raise InputError(f"{path}: expected {', '.join(shape)}, got {unknown[0]!r:.80} too")
    sha256 = card["weights_sha256"]
    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise InputError(
            f"{path}: weights_sha256: expected 64 hexadecimal digits or null, got {sha256!r:.80}"
        )
    return card


def digest_of(path: Path) -> str:
    """Return the sha256 of a file. Raises InputError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _part(file: RecordFile, part: str) -> Any:
    return identity(untrusted.relocated(file["configs"][part], part))


def check_records(file: RecordFile) -> None:
    """Raise InputError if the columns of a record file contradict each other or its provenance."""
    if lacking := {column.name for column in COLUMNS} - set(file.records.column_names):
        raise InputError(f"{file.path}: expected the columns of docs/records.md; it lacks {min(lacking)}")
    frame = from_parquet(file.path.read_bytes())
    attack = file["configs"]["attack"]
    norm = "l2" if attack.get("norm") == "l2" else "linf"
    eps = attack.get("eps")
    bound = eps + TOLERANCE * max(1, eps) + TOLERANCE if isinstance(eps, int | float) else float("inf")
    rules = {
        "as many rows as its settings say": len(frame) == file["settings"].get("n"),
        "each image once": frame.id.is_unique,
        "correct where purified_label is label": (
            frame.correct == (frame.purified_label == frame.label)
        ).all(),
        "correct_all only where correct": (~frame.correct_all | frame.correct).all(),
        "correct_any wherever correct": (frame.correct_any | ~frame.correct).all(),
        "correct_mean of 1 exactly where correct_all": ((frame.correct_mean == 1) == frame.correct_all).all(),
        f"{norm} of at most the attack's eps": (frame[norm] <= bound).all(),
        "the names of its provenance": all(
            (frame[part] == name).all() for part, name in file["names"].items()
        ),
        "the sha256 of the victim's weights": (
            frame.weights_sha256.astype(object).where(frame.weights_sha256.notna(), None)
            == file["weights"].get("victim", {}).get("sha256")
        ).all(),
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise InputError(f"{file.path}: expected {broken[0]}, got other values; it may have been edited")
