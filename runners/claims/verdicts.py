"""The verdict on each claim: holds, contradicted, undetermined or not run. Pure functions of finished tables.

A claim holds where each of its comparisons is shown (the largest p counts), and is contradicted where the
opposite of one of them is (the smallest p counts, times the number of comparisons). The smaller of the two
p values, doubled since either may win, is corrected by Holm's method for the claims of the paper that were
evaluated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from runners.claims.comparison import Comparison, compared
from runners.claims.departures import departs
from runners.claims.finished import Finished, finished
from runners.claims.shape import panels_for, shape_of
from runners.claims.statement import Claim, Side
from runners.tables.saved import EMBEDDED

ALPHA = 0.05
Verdict = Literal["holds", "contradicted", "undetermined", "not run"]


@dataclass(frozen=True)
class Outcome:
    """The verdict on a claim with its evidence.

    Args:
        claim: the claim.
        verdict: the verdict.
        reason: why it was not run or lacks a part; empty otherwise.
        evidence: the finished table that it was evaluated on; None where it was not run.
        observed: the comparison that is hardest for the claim, in words.
        n: the images of every comparison, the fewest.
        p: corrected for the other claims of the paper; NaN where not run.
        needs: about how many images would decide it; None where it is decided or no number would.
        departs: what differs from the paper.
    """

    claim: Claim
    verdict: Verdict
    reason: str = ""
    evidence: Finished | None = None
    observed: str = ""
    n: int = 0
    p: float = float("nan")
    needs: int | None = None
    departs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tested:
    """A claim's comparisons on one finished table, and what of it has no values there."""

    claim: Claim
    evidence: Finished
    comparisons: Sequence[Comparison]
    lacking: Sequence[str]

    @property
    def support(self) -> float:
        """That all comparisons are as claimed; one without values shows nothing."""
        return 1.0 if self.lacking else max(one.support for one in self.comparisons)

    @property
    def against(self) -> float:
        """The p-value for the opposite of one of the comparisons."""
        return min(1.0, len(self.comparisons) * min(one.against for one in self.comparisons))

    @property
    def p(self) -> float:
        """The p-value for either verdict."""
        return min(1.0, 2 * min(self.support, self.against))


def verdicts_of(claims: Sequence[Claim], tables: Path) -> list[Outcome]:
    """The outcome of each claim on the finished tables of a folder; see `evidence_of` for its errors."""
    return verdicts(claims, evidence_of(claims, tables))


def evidence_of(claims: Sequence[Claim], tables: Path) -> list[Finished]:
    """The finished tables of a folder that these claims name, those on the embedded data left out.

    Raises InputError where the records of one of them are of another schema than this version's.
    """
    names = sorted({claim.table for claim in claims if claim.table})
    found = [one for one in finished(tables, names) if one.dataset != EMBEDDED[0]]
    for one in found:
        one.check_records()
    return found


def verdicts(claims: Sequence[Claim], tables: Sequence[Finished]) -> list[Outcome]:
    """The outcome of each claim, in their order; of `tables` the first is the nearest to the paper's own."""
    found: dict[int, Outcome] = {}
    tested: dict[str, dict[int, _Tested]] = {}
    for place, claim in enumerate(claims):
        outcome = (
            Outcome(claim, "not run", reason=claim.not_tested) if claim.not_tested else _tested(claim, tables)
        )
        if isinstance(outcome, _Tested):
            tested.setdefault(claim.paper, {})[place] = outcome
        else:
            found[place] = outcome
    for of_paper in tested.values():
        corrected = holm(np.array([one.p for one in of_paper.values()]))
        for (place, one), p in zip(of_paper.items(), corrected, strict=True):
            found[place] = _outcome(one, float(p), ALPHA / (2 * len(of_paper)))
    return [found[place] for place in range(len(claims))]


def holm(p: np.ndarray) -> np.ndarray:
    """P values of several hypotheses, corrected so that any false rejection has a chance of at most alpha.

    Holm (1979, Scandinavian Journal of Statistics 6, 65-70) multiplies the k-th smallest of m by m - k + 1.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _tested(claim: Claim, tables: Sequence[Finished]) -> _Tested | Outcome:
    """The claim on the nearest table that has values for it, or why it was not run. Of equally near tables,
    one that lacks nothing of the claim comes before one with more images."""
    mine = [one for one in tables if one.name == claim.table]
    if mine:
        panels = panels_for(claim)
        mine = [one for one in mine if one.panel in panels]
    if not mine:
        return Outcome(claim, "not run", reason="no such table is finished")
    tested = [_compare(claim, one) for one in mine]
    if with_values := [one for one in tested if one.comparisons]:
        near = [one for one in with_values if one.evidence.nearness == with_values[0].evidence.nearness]
        return next((one for one in near if not one.lacking), near[0])
    nearest = tested[0].evidence.table
    if nearest.records.empty:
        return Outcome(claim, "not run", reason=f"{nearest.stem} has no file of records")
    reason = f"{nearest.stem} has no records of {_listed(tested[0].lacking)}"
    return Outcome(claim, "not run", reason=reason)


def _listed(lacking: Sequence[str]) -> str:
    """The first places without values, and how many more there are."""
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return "; ".join(lacking[:3]) + more


def _compare(claim: Claim, evidence: Finished) -> _Tested:
    found, lacking = [], []
    for first, second in claim.pairs():
        sides = [_values(side, evidence) for side in (first, second) if side]
        missing = [side for side in sides if isinstance(side, str)]
        lacking += [one for one in missing if one not in lacking]
        if missing:
            continue
        names = _names(claim, first, second)
        values = [side[0] for side in sides]
        found.append(compared(claim, names, values[0], values[1] if second else None, shares=sides[0][1]))
    return _Tested(claim, evidence, found, lacking)


def _values(side: Side, evidence: Finished) -> tuple[pd.Series, bool] | str:
    """The values of a side and whether they are shares; or the place that has none."""
    shape = shape_of(evidence.name, evidence.dataset, evidence.victim)
    parts = []
    for row, name in side:
        try:
            label, column = shape.row(row), shape.column(name)
        except LookupError:
            return f"{row}, {name}"
        place = evidence.places.get((label, column.name))
        values = None if place is None else evidence.values.of(place)
        if values is None:
            return f"{label}, {column.name}"
        parts.append(values)
    if len(parts) == 1:
        return parts[0], column.metric == "accuracy"
    together = pd.concat([part.astype(float) for part in parts], axis=1, join="inner")
    return together.mean(axis=1), column.metric == "accuracy"


def _names(claim: Claim, first: Side, second: Side | None) -> tuple[str, str]:
    """What stands before the two figures: in which column or row, and whose they are."""
    (row, column), several = first[0], len(first) > 1
    if second is None:
        return f"{row} under {column}", ""
    if claim.columns:
        under = "on the mean of the columns" if several else f"under {column}"
        return f"{under}: {row}", second[0][0]
    of = "mean of the rows" if several else row
    return f"{of}: {column}", second[0][1]


def _outcome(tested: _Tested, p: float, alpha: float) -> Outcome:
    hardest = max(tested.comparisons, key=lambda one: one.support)
    worst = min(tested.comparisons, key=lambda one: one.against)
    favoured = tested.support <= tested.against
    made = Outcome(
        tested.claim,
        "undetermined",
        reason=f"no records of {_listed(tested.lacking)}" if tested.lacking else "",
        evidence=tested.evidence,
        observed=(hardest if favoured else worst).text(),
        n=min(one.n for one in tested.comparisons),
        p=p,
        departs=departs(tested.claim, tested.evidence),
    )
    if p <= ALPHA:
        return replace(made, verdict="holds" if favoured else "contradicted")
    return replace(made, needs=_needed(tested, alpha))


def _needed(tested: _Tested, alpha: float) -> int | None:
    """About how many images would decide the claim, if the figures stayed as they are, to two digits.

    Where all figures are as claimed, all comparisons must be shown; otherwise one of the others suffices.
    """
    against = [one for one in tested.comparisons if one.margin < 0]
    if against:
        counts = [one.images(alpha / len(tested.comparisons)) for one in against]
        count = min((one for one in counts if one is not None), default=None)
    elif tested.lacking:
        return None
    else:
        counts = [one.images(alpha) for one in tested.comparisons]
        count = None if None in counts else max(counts)
    return None if count is None else int(float(f"{count:.1e}"))
