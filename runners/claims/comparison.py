"""What the records say of one comparison that a claim makes: two sides, or one side and a level."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from runners.claims.statement import Claim
from runners.tables.paired import images_needed, needed, p_above

POINT = 0.01  # a point of a claim's margins, of accuracies in shares as of SSIM


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim, on images of which both sides have values.

    `support` and `against` are one-sided p values: a small one says that the claim holds, or its opposite.

    Args:
        claim: what is compared, and how.
        first: the values of one side.
        second: those of the other side for the same images; None where the claim states a level.
        shares: whether the values are accuracies or averages of them.
    """

    claim: Claim
    names: tuple[str, str]
    first: np.ndarray
    second: np.ndarray | None
    shares: bool
    support: float
    against: float

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.first)

    @property
    def margin(self) -> float:
        """By how much the observed figures are on the claim's side, in the unit of the values."""
        if self.claim.level is not None:
            above = float(self.first.mean()) - self.claim.level * POINT
            return above if self.claim.at_least is not None else -above
        difference = float(self.first.mean() - self.second.mean())
        if self.claim.within is not None:
            return self.claim.within * POINT - abs(difference)
        return difference - self.claim.by * POINT

    def images(self, alpha: float) -> int | None:
        """How many images would decide it at this level; None where no number would."""
        if self.claim.level is not None:
            share = (self.first.sum() + 1) / (self.n + 2)
            return needed(self.margin, math.sqrt(share * (1 - share)), alpha=alpha)
        by = self.claim.by * POINT
        if self.claim.within is not None:
            difference = self.first.mean() - self.second.mean()
            by = math.copysign(self.claim.within * POINT, difference)
        return images_needed(self.first, self.second, by, shares=self.shares, alpha=alpha)

    def text(self) -> str:
        """The observed results as text."""
        places, scale = (1, 100) if self.shares else (3, 1)
        one = f"{self.names[0]} {scale * self.first.mean():.{places}f}"
        if self.second is None:
            return one
        other = f"{self.names[1]} {scale * self.second.mean():.{places}f}"
        return f"{one}, {other} ({scale * (self.first.mean() - self.second.mean()):+.{places}f})"


def compared(
    claim: Claim, names: tuple[str, str], first: pd.Series, second: pd.Series | None, *, shares: bool
) -> Comparison:
    """Test one comparison of a claim on the images that both sides have."""
    if second is None:
        one = first.to_numpy()
        return Comparison(claim, names, one, None, shares, *_of_level(claim, one))
    ids = first.index.intersection(second.index, sort=False)
    one, other = first.loc[ids].to_numpy(), second.loc[ids].to_numpy()
    if claim.within is not None:
        by = claim.within * POINT
        support = max(p_above(one, other, -by, shares=shares), p_above(other, one, -by, shares=shares))
        against = min(p_above(one, other, by, shares=shares), p_above(other, one, by, shares=shares))
        return Comparison(claim, names, one, other, shares, support, min(1.0, 2 * against))
    by = claim.by * POINT
    support, against = p_above(one, other, by, shares=shares), p_above(other, one, -by, shares=shares)
    return Comparison(claim, names, one, other, shares, support, against)


def _of_level(claim: Claim, right: np.ndarray) -> tuple[float, float]:
    """Return the exact binomial test of a share against the claim's level."""
    below, above = (
        float(binomtest(int(right.sum()), len(right), claim.level * POINT, alternative=side).pvalue)
        for side in ("less", "greater")
    )
    return (above, below) if claim.at_least is not None else (below, above)
