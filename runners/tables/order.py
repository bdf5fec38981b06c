"""The agreement of a table with its paper, on whatever data and victim. Pure functions of records."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, rankdata, spearmanr, zscore

from runners.evaluation.metrics import mcnemar
from runners.tables.agreement import Agreement
from runners.tables.frame import RESULTS
from runners.tables.render import column_name
from runners.tables.values import Values

APART = {"accuracy": 5.0, "ssim": 0.05}  # a printed difference above this is to be repeated
RATE = 0.05  # of falsely decided pairs among those that are decided
RESAMPLES = 1999


def agreement(frame: pd.DataFrame, records: pd.DataFrame) -> Agreement | None:
    """The agreement of a table with its paper, or None where no entry has a figure of the paper and records.

    Right and wrong answers are compared by McNemar's exact test, other values by a paired bootstrap over the
    images. Of the pairs that are called decided, at most one in twenty is expected to be so by chance
    (Benjamini and Hochberg).
    """
    values, found = Values(frame, records), {}
    for place in range(len(frame)):
        entry = frame.iloc[place]
        if entry.metric in RESULTS and pd.notna(entry.paper) and (mine := values.of(place)) is not None:
            found[place] = mine
    if not found:
        return None
    common = pd.DataFrame({place: part.astype(float) for place, part in found.items()}).dropna()
    means = _resampled(common.to_numpy())
    decisions = {place: part.loc[common.index].to_numpy() for place, part in found.items()}
    same, opposite, undecided = _ordered(frame, decisions, dict(zip(found, means.T, strict=True)))
    return Agreement(same, opposite, undecided, *_correlation(frame, common, means))


def _resampled(values: np.ndarray) -> np.ndarray:
    """(RESAMPLES, entries): means over images drawn again with replacement, the same images for all."""
    draws, n = np.random.default_rng(0), len(values)
    rows = max(1, min(RESAMPLES, 10**7 // n))
    parts = []
    for start in range(0, RESAMPLES, rows):
        counts = draws.multinomial(n, np.full(n, 1 / n), size=min(rows, RESAMPLES - start))
        parts.append(counts @ values / n)
    return np.concatenate(parts)


def _ordered(
    frame: pd.DataFrame, values: Mapping[int, np.ndarray], means: Mapping[int, np.ndarray]
) -> tuple[int, int, int]:
    """How many of the pairs are ordered as by the paper, the other way, and undecided."""
    columns: dict[tuple, list[int]] = {}
    for place in values:
        entry = frame.iloc[place]
        columns.setdefault((column_name(entry), entry.attack, entry.metric), []).append(place)
    p, agrees = [], []
    for (*_, metric), places in columns.items():
        for one, other in combinations(places, 2):
            printed = frame.paper.iloc[one] - frame.paper.iloc[other]
            if abs(printed) <= APART[metric]:
                continue
            p.append(_p(values[one], values[other], means[one] - means[other]))
            agrees.append((values[one].mean() - values[other].mean()) * printed > 0)
    if not p:
        return 0, 0, 0
    decided = false_discovery_control(p) <= RATE
    right = np.array(agrees)
    return int((decided & right).sum()), int((decided & ~right).sum()), int((~decided).sum())


def _p(one: np.ndarray, other: np.ndarray, differences: np.ndarray) -> float:
    """Two-sided, that the two are equal; `differences` are those of the resampled means."""
    if one.dtype == other.dtype == bool:
        return mcnemar(one, other)
    if (one == other).all():
        return 1.0
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, max(2 * (1 + int(tail)) / (1 + RESAMPLES), 2 * 0.5 ** len(one)))


def _correlation(
    frame: pd.DataFrame, common: pd.DataFrame, means: np.ndarray
) -> tuple[int, float | None, float | None, float | None]:
    """How many figures of the first metric there are, Spearman's correlation, and its bootstrap interval."""
    metric = frame.metric.iloc[common.columns[0]]
    chosen = [i for i, place in enumerate(common.columns) if frame.metric.iloc[place] == metric]
    printed = frame.paper.iloc[common.columns[chosen]].to_numpy(float)
    ours = common.iloc[:, chosen].mean().to_numpy()
    if len(chosen) < 3 or (printed == printed[0]).all() or (ours == ours[0]).all():
        return len(chosen), None, None, None
    drawn = means[:, chosen]
    drawn = drawn[(drawn != drawn[:, :1]).any(axis=1)]  # where all of ours are equal they have no order
    places, ranks = zscore(rankdata(printed)), zscore(rankdata(drawn, axis=1), axis=1)
    low, high = (float(end) for end in np.percentile(ranks @ places / len(chosen), (2.5, 97.5)))
    return len(chosen), float(spearmanr(printed, ours).statistic), low, high
