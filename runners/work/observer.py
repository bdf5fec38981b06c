"""Who watches a run is told what is planned, done and finished, and changes nothing of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from runners.cells.cell import Cell


@dataclass(frozen=True)
class Planned:
    """A cell that can be run.

    Args:
        key: its name, that of its record file.
        parts: the store's names of its chunks of records, and how many images each holds.
        done: those that the store had at the start.
    """

    cell: Cell
    key: str
    parts: Mapping[str, int]
    done: frozenset[str]

    @property
    def images(self) -> int:
        """All of them."""
        return sum(self.parts.values())


class Observer:
    """Sees nothing: what a run has where no logger is asked for, and the base of those that see something.

    A run calls these methods and waits for none of them: they return at once and raise nothing.
    """

    def begin(self, table: str) -> None:
        """The run makes this table; not called for a cell by itself."""

    def planned(self, cells: Sequence[Planned]) -> None:
        """What a run is made of, before its first chunk."""

    def advanced(self, cell: Planned, images: int) -> None:
        """So many images of a cell are done."""

    def finished(self, cell: Planned, result: Any) -> None:
        """A cell's result (runners.grids.grid.CellResult) with its flags: records, or why there are none."""

    def made(self, name: str, frame: pd.DataFrame, files: Sequence[Path], cells: Sequence[str]) -> None:
        """A table is written, from cells of these keys."""

    def close(self) -> None:
        """The run is over."""


@dataclass
class Tally:
    """How far the cells of a run are, by its chunks of records."""

    cells: Sequence[Planned]
    lacking: dict[str, set[str]] = field(init=False)  # by the cell's key

    def __post_init__(self) -> None:
        self.lacking = {cell.key: set(cell.parts) - cell.done for cell in self.cells}

    def done(self, part: str) -> list[tuple[Planned, int]]:
        """Mark a chunk of records as done: the cells that it belongs to, and how many images each has now."""
        told = []
        for cell in self.cells:
            if part in self.lacking[cell.key]:
                self.lacking[cell.key].remove(part)
                told.append((cell, cell.images - sum(cell.parts[name] for name in self.lacking[cell.key])))
        return told

    @property
    def finished(self) -> int:
        """Cells."""
        return sum(not parts for parts in self.lacking.values())

    @property
    def images(self) -> tuple[int, int]:
        """Done, and all: an image counts once in each cell."""
        left = sum(cell.parts[part] for cell in self.cells for part in self.lacking[cell.key])
        of_all = sum(cell.images for cell in self.cells)
        return of_all - left, of_all
