"""A claim as it is stated in results/papers/claims.yaml, and what it compares.

The file maps each paper to its claims. A claim says in our own words what the paper says (`says`), where the
paper says it (`where`), and which of our tables has the results (`table`). If the claim is about one of
several settings of that table, `setting` says which. A claim takes one of the forms below. Rows are named by
their label or by the paper's word for the defense, and columns by their label with eps and the kind of
knowledge:

* `columns`, `more`, `than`: in each of the columns every row of `more` lies above every row of `than`; with
  `by`, by more than so many points. With `rows` in place of `columns`, `more` and `than` are columns.
* `columns`, `alike`, `than`, `within`: the same, but they differ by less than so many points.
* `rows`, `columns`, `at_least` or `at_most`: each of these accuracies is above or below so many percent.
* `not_tested`: the reason why no table can test the claim.

With `over: mean` the means over all `columns` (or `rows`) are compared, instead of each of them. `prints` is
the difference that the paper states, and `reading` says how we read words that name no number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from data.errors import InputError
from runners.tables.paper_results import PAPERS

FILE = PAPERS / "claims.yaml"
LISTS = ("rows", "columns", "more", "than", "alike")
Place = tuple[str, str]  # row and column, as the claim names them
Side = tuple[Place, ...]  # places whose values are averaged; usually one


@dataclass(frozen=True)
class Claim:
    """One comparative claim of a paper; the docstring of the module explains the fields."""

    paper: str
    id: str
    where: str
    says: str
    table: str = ""
    setting: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    more: Sequence[str] = ()
    than: Sequence[str] = ()
    alike: Sequence[str] = ()
    by: float = 0.0
    within: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    over: Literal["each", "mean"] = "each"
    prints: float | None = None
    reading: str = ""
    not_tested: str = ""

    @property
    def level(self) -> float | None:
        """The percentage that each accuracy is compared with; None if it is compared with other ones."""
        return self.at_most if self.at_least is None else self.at_least

    def pairs(self) -> list[tuple[Side, Side | None]]:
        """Return what is compared: pairs of two sides, or of one side and None for a level."""
        if self.level is not None:
            return [(((row, column),), None) for row, column in product(self.rows, self.columns)]
        shared = self.columns or self.rows
        groups = [tuple(shared)] if self.over == "mean" else [(name,) for name in shared]
        return [
            (self._side(first, group), self._side(second, group))
            for group, first, second in product(groups, self.more or self.alike, self.than)
            if first != second
        ]

    def _side(self, name: str, group: tuple[str, ...]) -> Side:
        return tuple((name, shared) if self.columns else (shared, name) for shared in group)


def claims_of(path: Path = FILE) -> list[Claim]:
    """Return all claims of all papers. Raises InputError if one of them is not stated correctly."""
    try:
        stated = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(stated, dict) or not all(isinstance(part, list) for part in stated.values()):
        raise InputError(f"{path}: expected papers, each with a list of claims")
    claims = [_claim(path, str(paper), entry) for paper, part in stated.items() for entry in part]
    seen: set[tuple[str, str]] = set()
    for claim in claims:
        if (claim.paper, claim.id) in seen:
            raise InputError(f"{path}: {claim.paper}: expected each id once, got {claim.id} twice")
        seen.add((claim.paper, claim.id))
    return claims


def _claim(path: Path, paper: str, entry: Any) -> Claim:
    known = [part.name for part in fields(Claim) if part.name != "paper"]
    name = entry.get("id", "a claim without id") if isinstance(entry, dict) else repr(entry)
    subject = f"{path}: {paper}, {name}"
    if not isinstance(entry, dict) or not {"id", "where", "says"} <= entry.keys() <= set(known):
        raise InputError(
            f"{subject}: expected id, where and says, and of {', '.join(known[3:])}; got {entry}"
        )
    lists = {
        key: [entry[key]] if isinstance(entry[key], str) else entry[key] for key in LISTS if key in entry
    }
    claim = Claim(paper, **{**entry, **lists})
    if expected := _fault(claim):
        raise InputError(f"{subject}: expected {expected}")
    return claim


def _fault(claim: Claim) -> str:
    """Return what a claim that has none of the forms should have; empty text if it has one of them."""
    if claim.not_tested:
        tested = [key for key in (*LISTS, "table") if getattr(claim, key)]
        return f"nothing to compare beside not_tested, got {', '.join(tested)}" if tested else ""
    if not claim.table:
        return "a table, or not_tested with the reason"
    if claim.over not in ("each", "mean"):
        return f"over: each or mean, got {claim.over}"
    if claim.level is not None:
        whole = claim.rows and claim.columns and not (claim.more or claim.than or claim.alike)
        both = claim.at_least is not None and claim.at_most is not None
        return "" if whole and not both else "rows and columns, with either at_least or at_most"
    if bool(claim.rows) == bool(claim.columns) or bool(claim.more) == bool(claim.alike) or not claim.than:
        return "either rows or columns, either more or alike, and than"
    if bool(claim.alike) != (claim.within is not None):
        return "within where there is alike, and only there"
    return ""
