"""The verdict on each claim: holds, contradicted, undetermined or not run. Pure functions of finished tables.

A claim holds if each of its comparisons is shown (the largest p-value counts). It is contradicted if the
opposite of one of them is shown (the smallest p-value counts, times the number of comparisons). The smaller
of the two p-values, doubled since either may win, is corrected by Holm's method for the claims of the paper
that were evaluated.
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
        reason: why the claim was not run, or which part of it lacks records; empty otherwise.
        evidence: the finished table that the claim was evaluated on; None if it was not run.
        observed: the comparison that is hardest for the claim, in words.
        n: the smallest number of images of a comparison.
        p: the p-value, corrected for the other claims of the paper; NaN if the claim was not run.
        needs: about how many images would decide the claim; None if it is decided or no number would.
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
    """A claim's comparisons on one finished table, and the places of the claim that have no values there."""

    claim: Claim
    evidence: Finished
    comparisons: Sequence[Comparison]
    lacking: Sequence[str]

    @property
    def support(self) -> float:
        """The p-value for all comparisons being as claimed; 1 if one of them has no values."""
        return 1.0 if self.lacking else max(comparison.support for comparison in self.comparisons)

    @property
    def against(self) -> float:
        """The p-value for the opposite of one of the comparisons."""
        return min(1.0, len(self.comparisons) * min(comparison.against for comparison in self.comparisons))

    @property
    def p(self) -> float:
        """The p-value for either verdict."""
        return min(1.0, 2 * min(self.support, self.against))


def verdicts_of(claims: Sequence[Claim], tables: Path) -> list[Outcome]:
    """Return the outcome of each claim on the finished tables of a folder. Raises as `evidence_of` does."""
    return verdicts(claims, evidence_of(claims, tables))


def evidence_of(claims: Sequence[Claim], tables: Path) -> list[Finished]:
    """Return the finished tables of a folder that these claims name, except those on the embedded data.

    Raises InputError if the records of one of them have another schema than this version's.
    """
    names = sorted({claim.table for claim in claims if claim.table})
    with_real_data = [table for table in finished(tables, names) if table.dataset != EMBEDDED[0]]
    for table in with_real_data:
        table.check_records()
    return with_real_data


def verdicts(claims: Sequence[Claim], tables: Sequence[Finished]) -> list[Outcome]:
    """Return the outcome of each claim, in the order of the claims.

    The tables must be sorted so that the nearest to the paper's own come first.
    """
    outcomes: dict[int, Outcome] = {}
    tested: dict[str, dict[int, _Tested]] = {}
    for place, claim in enumerate(claims):
        outcome = (
            Outcome(claim, "not run", reason=claim.not_tested) if claim.not_tested else _tested(claim, tables)
        )
        if isinstance(outcome, _Tested):
            tested.setdefault(claim.paper, {})[place] = outcome
        else:
            outcomes[place] = outcome
    for tests in tested.values():
        corrected = holm(np.array([test.p for test in tests.values()]))
        for (place, test), p in zip(tests.items(), corrected, strict=True):
            outcomes[place] = _outcome(test, float(p), ALPHA / (2 * len(tests)))
    return [outcomes[place] for place in range(len(claims))]


def holm(p: np.ndarray) -> np.ndarray:
    """Correct the p-values of several hypotheses so that any false rejection has a chance of at most alpha.

    Holm (1979, Scandinavian Journal of Statistics 6, 65-70) multiplies the k-th smallest of m by m - k + 1.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _tested(claim: Claim, tables: Sequence[Finished]) -> _Tested | Outcome:
    """Return the claim's comparisons on the nearest table that has values for it, or why it was not run.

    Among equally near tables, one that lacks nothing of the claim comes before one with more images.
    """
    candidates = [table for table in tables if table.name == claim.table]
    if candidates:
        panels = panels_for(claim)
        candidates = [table for table in candidates if table.panel in panels]
    if not candidates:
        return Outcome(claim, "not run", reason="no such table is finished")
    tested = [_compare(claim, table) for table in candidates]
    if with_values := [test for test in tested if test.comparisons]:
        near = [test for test in with_values if test.evidence.nearness == with_values[0].evidence.nearness]
        return next((test for test in near if not test.lacking), near[0])
    nearest = tested[0].evidence
    subject = f"{nearest.name} on {nearest.dataset}, {nearest.victim}"
    if nearest.table.records.empty:
        return Outcome(claim, "not run", reason=f"{subject} has no file of records")
    reason = f"{subject} has no records of {_listed(tested[0].lacking)}"
    return Outcome(claim, "not run", reason=reason)


def _listed(lacking: Sequence[str]) -> str:
    """Return the first places without values, and how many more there are."""
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return "; ".join(lacking[:3]) + more


def _compare(claim: Claim, evidence: Finished) -> _Tested:
    comparisons, lacking = [], []
    for first, second in claim.pairs():
        sides = [_values(side, evidence) for side in (first, second) if side]
        missing = [side for side in sides if isinstance(side, str)]
        lacking += [place for place in missing if place not in lacking]
        if missing:
            continue
        names = _names(claim, first, second)
        values = [side[0] for side in sides]
        comparisons.append(
            compared(claim, names, values[0], values[1] if second else None, shares=sides[0][1])
        )
    return _Tested(claim, evidence, comparisons, lacking)


def _values(side: Side, evidence: Finished) -> tuple[pd.Series, bool] | str:
    """Return the values of a side and whether they are shares, or the place that has no values."""
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
    """Return what is printed before the two results.

    The first text also names the column or row in which they are compared.
    """
    (row, column), several = first[0], len(first) > 1
    if second is None:
        return f"{row} under {column}", ""
    if claim.columns:
        under = "on the mean of the columns" if several else f"under {column}"
        return f"{under}: {row}", second[0][0]
    subject = "mean of the rows" if several else row
    return f"{subject}: {column}", second[0][1]


def _outcome(tested: _Tested, p: float, alpha: float) -> Outcome:
    hardest = max(tested.comparisons, key=lambda comparison: comparison.support)
    worst = min(tested.comparisons, key=lambda comparison: comparison.against)
    favoured = tested.support <= tested.against
    outcome = Outcome(
        tested.claim,
        "undetermined",
        reason=f"no records of {_listed(tested.lacking)}" if tested.lacking else "",
        evidence=tested.evidence,
        observed=(hardest if favoured else worst).text(),
        n=min(comparison.n for comparison in tested.comparisons),
        p=p,
        departs=departs(tested.claim, tested.evidence),
    )
    if p <= ALPHA:
        return replace(outcome, verdict="holds" if favoured else "contradicted")
    return replace(outcome, needs=_needed(tested, alpha))


def _needed(tested: _Tested, alpha: float) -> int | None:
    """Return about how many images would decide the claim if the results stayed as they are, to two digits.

    If all results are as claimed, all comparisons must be shown; otherwise one of the others suffices.
    """
    against = [comparison for comparison in tested.comparisons if comparison.margin < 0]
    if against:
        counts = [comparison.images(alpha / len(tested.comparisons)) for comparison in against]
        count = min((number for number in counts if number is not None), default=None)
    elif tested.lacking:
        return None
    else:
        counts = [comparison.images(alpha) for comparison in tested.comparisons]
        count = None if None in counts else max(counts)
    return None if count is None else int(float(f"{count:.1e}"))
