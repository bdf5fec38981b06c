"""The flags by name: the function that raises each, and its mark in tables. flags.py fills these tables."""

from collections.abc import Callable, Iterable, Sequence

from runners.validity.evidence import Evidence

CellCheck = Callable[[Evidence], str | None]
RowCheck = Callable[[Sequence[Evidence]], Iterable[tuple[int, str]]]
CELL: dict[str, CellCheck] = {}
ROW: dict[str, RowCheck] = {}
MARKS: dict[str, str] = {}  # the mark behind a result; that of small_n is derived from n


def cell_flag(*, mark: str) -> Callable[[CellCheck], CellCheck]:
    """Register a flag of a single cell. The function returns what was observed, or None."""

    def register(check: CellCheck) -> CellCheck:
        CELL[check.__name__], MARKS[check.__name__] = check, mark
        return check

    return register


def row_flag(*, mark: str) -> Callable[[RowCheck], RowCheck]:
    """Register a flag of a row of cells. The function yields the index of a cell and what was observed."""

    def register(check: RowCheck) -> RowCheck:
        ROW[check.__name__], MARKS[check.__name__] = check, mark
        return check

    return register
