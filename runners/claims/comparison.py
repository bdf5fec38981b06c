"""The test of one comparison that a claim makes: of two sides, or of one side and a level."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from runners.claims.statement import Claim
from runners.tables.paired import images_needed, needed, p_above

POINT = 0.01  # one point of a claim's margin, for accuracies as shares and for SSIM


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim, on the images for which both sides have values.

    `support` and `against` are one-sided p-values. A small `support` shows that the claim holds, and a small
    `against` shows that its opposite does.

    Args:
        claim: the claim, which says what is compared and how.
        names: what `text` prints before the result of each side.
        first: the values of one side.
        second: the values of the other side for the same images; None if the claim states a level.
        shares: whether the values are accuracies or averages of accuracies.
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
        """The margin by which the observed results are on the claim's side, in the unit of the values.

        It is negative if they are on the other side.
        """
        if self.claim.level is not None:
            above = float(self.first.mean()) - self.claim.level * POINT
            return above if self.claim.at_least is not None else -above
        difference = float(self.first.mean() - self.second.mean())
        if self.claim.within is not None:
            return self.claim.within * POINT - abs(difference)
        return difference - self.claim.by * POINT

    def images(self, alpha: float) -> int | None:
        """Return how many images would decide the comparison at this level, or None if no number would."""
        if self.claim.level is not None:
            share = (self.first.sum() + 1) / (self.n + 2)
            return needed(self.margin, math.sqrt(share * (1 - share)), alpha=alpha)
        by = self.claim.by * POINT
        if self.claim.within is not None:
            difference = self.first.mean() - self.second.mean()
            by = math.copysign(self.claim.within * POINT, difference)
        return images_needed(self.first, self.second, by, shares=self.shares, alpha=alpha)

    def text(self) -> str:
        """Return the observed results as text."""
        places, scale = (1, 100) if self.shares else (3, 1)
        first = f"{self.names[0]} {scale * self.first.mean():.{places}f}"
        if self.second is None:
            return first
        second = f"{self.names[1]} {scale * self.second.mean():.{places}f}"
        return f"{first}, {second} ({scale * (self.first.mean() - self.second.mean()):+.{places}f})"


def compared(
    claim: Claim, names: tuple[str, str], first: pd.Series, second: pd.Series | None, *, shares: bool
) -> Comparison:
    """Test one comparison of a claim on the images that both sides have."""
    if second is None:
        left = first.to_numpy()
        return Comparison(claim, names, left, None, shares, *_of_level(claim, left))
    ids = first.index.intersection(second.index, sort=False)
    left, right = first.loc[ids].to_numpy(), second.loc[ids].to_numpy()
    if claim.within is not None:
        by = claim.within * POINT
        support = max(p_above(left, right, -by, shares=shares), p_above(right, left, -by, shares=shares))
        against = min(p_above(left, right, by, shares=shares), p_above(right, left, by, shares=shares))
        return Comparison(claim, names, left, right, shares, support, min(1.0, 2 * against))
    by = claim.by * POINT
    support, against = p_above(left, right, by, shares=shares), p_above(right, left, -by, shares=shares)
    return Comparison(claim, names, left, right, shares, support, against)


def _of_level(claim: Claim, right: np.ndarray) -> tuple[float, float]:
    """Return the p-values of the exact binomial test of a share against the claim's level.

    The first is for the claim, and the second is for its opposite.
    """
    below, above = (
        float(binomtest(int(right.sum()), len(right), claim.level * POINT, alternative=side).pvalue)
        for side in ("less", "greater")
    )
    return (above, below) if claim.at_least is not None else (below, above)
