"""The differences between a cell's recorded records and those of its replay."""

from dataclasses import dataclass

import pyarrow as pa

from runners.evaluation.schema import COSTS, DECISIONS
from runners.validity.provenance import Facts, differing

TOLD = ("commit", "dirty", "versions", "device", "precision", "platform", "threads", "images_sha256")
LONG = 60  # characters that are shown before and after the first difference of a value
DECISIVE = ("versions", "device", "precision")  # facts that decide how numbers are rounded


@dataclass(frozen=True)
class Difference:
    """A column that is not equal, and the first image on which it is not."""

    column: str
    count: int
    total: int
    image: str
    recorded: str
    now: str

    def __str__(self) -> str:
        pairs = enumerate(zip(self.recorded, self.now, strict=False))
        start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - LONG)  # skips an equal start
        was, is_ = (
            f"{'...' if start else ''}{text[start : start + 2 * LONG]}" for text in (self.recorded, self.now)
        )
        return f"{self.column} of {self.image}: {was} -> {is_} ({self.count} of {self.total} images)"


def of_records(recorded: pa.Table, now: pa.Table) -> list[Difference]:
    """Return the columns, except the costs, that are not equal to the bit, in the order of the records."""
    ids = recorded["id"].to_pylist()
    names = dict.fromkeys([*recorded.column_names, *now.column_names])
    columns = []
    for column in [name for name in names if name not in COSTS]:
        was, is_ = _values(recorded, column), _values(now, column)
        differs = [i for i, (a, b) in enumerate(zip(was, is_, strict=True)) if a != b]
        if differs:
            first = differs[0]
            columns.append(Difference(column, len(differs), len(ids), ids[first], was[first], is_[first]))
    return columns


def _values(table: pa.Table, column: str) -> list[str]:
    """Return each value as the shortest text that denotes only this number.

    So -0.0 differs from 0.0, NaN equals NaN, and lists (an attack's path) are compared by content.
    """
    if column not in table.column_names:
        return ["no such column"] * len(table)
    return [repr(value) for value in table[column].to_pylist()]


def equal_decisions(recorded: pa.Table, now: pa.Table) -> int:
    """Return on how many images all decisions are equal."""
    columns = [column for column in DECISIONS if column in recorded.column_names]
    pairs = [zip(_values(recorded, c), _values(now, c), strict=True) for c in columns]
    return sum(all(a == b for a, b in values) for values in zip(*pairs, strict=True))


def of_provenance(recorded: Facts, now: Facts) -> list[tuple[str, str]]:
    """Return the differences between two runs that are worth printing."""
    changes = [(name, f"{was} -> {is_}") for name, (was, is_) in differing(recorded, now, TOLD).items()]
    return changes + [
        (part["stage"], f"{part['chunks']} chunks of the recorded run were in a store, made by {part['by']}")
        for part in recorded["made_elsewhere"]
    ]


def same_kind(recorded: Facts, now: Facts) -> bool:
    """Return whether numbers were rounded in the same way, so that every bit must be the same.

    Chunks that the recorded run took from a store are considered too.
    """
    elsewhere = [
        entry["by"] == "unknown" or any(name.split(".")[0] in DECISIVE for name in entry["by"])
        for entry in recorded["made_elsewhere"]
    ]
    return not differing(recorded, now, DECISIVE) and not any(elsewhere)
