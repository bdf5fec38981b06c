"""The results of the leaderboard, computed from the records of its entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attacks.attack import Clean
from attacks.knowledge import MEANING
from data.errors import InputError
from runners.evaluation.cell import Cell
from runners.evaluation.component import build
from runners.leaderboard.entry import Entry
from runners.tables.figures import Figure, accuracy, under_all
from runners.untrusted import relocated
from runners.validity import flags
from runners.validity.evidence import Evidence
from runners.validity.record_file import RecordFile

CLEAN, WORST, WORST_OF_DRAWS = "clean", "worst", "worst of draws"
COLUMNS = (CLEAN, *MEANING, WORST, WORST_OF_DRAWS)
INCOMPLETE = "incomplete"
OF_ROW = tuple(flags.ROW)  # flags that are decided again, from all records of an entry


@dataclass(frozen=True)
class Cited:
    """A result with the record files from which it is computed."""

    figure: Figure
    files: tuple[RecordFile, ...]


@dataclass(frozen=True)
class Row:
    """An entry of the board with its results.

    `flags` holds the reasons to doubt the results, by name. `draws` is the number of draws that "worst of
    draws" covers.
    """

    entry: Entry
    figures: dict[str, Cited]
    flags: dict[str, str]
    draws: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether the entry was attacked in all ways that the protocol asks for."""
        return INCOMPLETE not in self.flags

    @property
    def worst(self) -> float:
        """The result by which the entry is ranked."""
        return self.figures[WORST].figure.value


def row_of(entry: Entry) -> Row:
    """Return the entry's results. Raises InputError if it lacks clean images or attacks."""
    evidence = [_evidence(file, frame) for file, frame in zip(entry.files, entry.frames, strict=True)]
    places_of: dict[str, list[int]] = {}
    for place, item in enumerate(evidence):
        kind = CLEAN if isinstance(item.attack, Clean) else item.knowledge.kind
        places_of.setdefault(kind, []).append(place)
    if CLEAN not in places_of or len(places_of) == 1:
        lacking = "attacks" if CLEAN in places_of else "clean images (attack=clean)"
        raise InputError(f"{entry.name}: expected records of clean images and of attacks; it lacks {lacking}")
    all_places = list(range(len(evidence)))

    def cited(places: Sequence[int], column: str = "correct") -> Cited:
        parts = [entry.frames[i][column].astype(bool).set_axis(entry.frames[i].id) for i in places]
        return Cited(accuracy(under_all(parts)), tuple(entry.files[i] for i in places))

    figures = {kind: cited(places_of[kind]) for kind in (CLEAN, *MEANING) if kind in places_of}
    figures |= {WORST: cited(all_places), WORST_OF_DRAWS: cited(all_places, "correct_all")}
    return Row(
        entry,
        figures,
        _flags(entry, evidence),
        draws=int(max(frame.draws.max() for frame in entry.frames)),
        seconds=float(pd.concat([frame.purify_seconds for frame in entry.frames]).mean()),
    )


def _evidence(file: RecordFile, frame: pd.DataFrame) -> Evidence:
    configs = {part: relocated(config, part) for part, config in file["configs"].items()}
    cell = Cell(file["names"], configs, file["command"])
    knowledge, purifier = build(cell.knowledge), build(configs["purifier"])
    return Evidence(cell, frame, build(configs["attack"]), knowledge, purifier, None)


def _flags(entry: Entry, evidence: Sequence[Evidence]) -> dict[str, str]:
    """Return the flags of an entry.

    Flags of probes are taken from the record files. Flags that follow from records are decided again.
    """
    reasons: dict[str, str] = {}
    for file in entry.files:
        recorded = file.provenance.get("flags", {})
        reasons |= (
            {name: seen for name, seen in recorded.items() if name not in OF_ROW}
            if isinstance(recorded, dict)
            else {}
        )
    for raised in (*map(flags.of_cell, evidence), *flags.of_row(evidence)):
        reasons |= {flag.name: flag.seen for flag in raised}
    return reasons


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return complete entries before incomplete ones, and within each group the most robust first.

    Equally robust entries are ordered by their accuracy on clean images.
    """
    return sorted(rows, key=lambda row: (*_standing(row), -row.figures[CLEAN].figure.value, row.entry.name))


def ranks(rows: Sequence[Row]) -> list[int]:
    """Return the rank of each row; equally robust entries share one, as in a sports competition."""
    return [1 + sum(_standing(other) < _standing(row) for other in rows) for row in rows]


def _standing(row: Row) -> tuple[bool, float]:
    return not row.complete, -row.worst


def boards(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Row]]:
    """Return the ranked rows of each data set and victim.

    Raises InputError for an entry that differs from the others of its data set and victim in a term.
    """
    by_setting: dict[tuple[str, str], list[Row]] = {}
    for entry in entries:
        rows = by_setting.setdefault(entry.setting, [])
        if rows:
            first, terms = rows[0].entry, _terms(rows[0].entry)
            differing = [name for name, term in _terms(entry).items() if term != terms[name]]
            if differing:
                raise InputError(
                    f"{entry.name}: expected the {differing[0]} of {first.name}, beside which it is ranked, "
                    "got another"
                )
        rows.append(row_of(entry))
    return {setting: ranked(rows) for setting, rows in sorted(by_setting.items())}


def _terms(entry: Entry) -> dict[str, Any]:
    """Return by name what entries must have in common to be ranked together.

    The number of images is not among the terms: with one subset and seed, the images of the smaller number
    are among those of the larger one.
    """
    attacks = [build(relocated(file["configs"]["attack"], "attack")) for file in entry.files]
    balls = {(attack.norm, attack.eps) for attack in attacks if attack.eps is not None}
    return {**entry.chosen, "norm and eps of the attacks": balls}


def entries_in(folder: Path) -> list[Entry]:
    """Return all entries of a folder in the order of their names."""
    return [Entry.read(path.parent) for path in sorted(folder.glob("*/card.yaml"))]
