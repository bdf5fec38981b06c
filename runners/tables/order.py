"""The agreement of a table with its paper, for any data set and victim. Pure functions of records."""

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

APART = {"accuracy": 5.0, "ssim": 0.05}  # pairs count if the paper's results differ by more than this
RATE = 0.05  # the expected share of false decisions among the decided pairs
RESAMPLES = 1999


def agreement(frame: pd.DataFrame, records: pd.DataFrame) -> Agreement | None:
    """Return the agreement of a table with its paper, or None if there is nothing to compare.

    An entry is compared if it has records and a result of the paper. Right and wrong answers are compared by
    McNemar's exact test, and other values by a paired bootstrap over the images. Of the pairs that are called
    decided, at most one in twenty is expected to be so by chance (Benjamini and Hochberg).
    """
    values, answers = Values(frame, records), {}
    for place in range(len(frame)):
        entry = frame.iloc[place]
        if entry.metric in RESULTS and pd.notna(entry.paper) and (series := values.of(place)) is not None:
            answers[place] = series
    if not answers:
        return None
    common = pd.DataFrame({place: part.astype(float) for place, part in answers.items()}).dropna()
    means = _resampled(common.to_numpy())
    decisions = {place: part.loc[common.index].to_numpy() for place, part in answers.items()}
    same, opposite, undecided = _ordered(frame, decisions, dict(zip(answers, means.T, strict=True)))
    return Agreement(same, opposite, undecided, *_correlation(frame, common, means))


def _resampled(values: np.ndarray) -> np.ndarray:
    """Return an array (RESAMPLES, entries) of means over images that are drawn with replacement.

    The same images are drawn for all entries.
    """
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
    """Return how many pairs have the paper's order, the opposite order, and no clear order."""
    columns: dict[tuple, list[int]] = {}
    for place in values:
        entry = frame.iloc[place]
        columns.setdefault((column_name(entry), entry.attack, entry.metric), []).append(place)
    p, agrees = [], []
    for (*_, metric), places in columns.items():
        for first, second in combinations(places, 2):
            printed = frame.paper.iloc[first] - frame.paper.iloc[second]
            if abs(printed) <= APART[metric]:
                continue
            p.append(_p(values[first], values[second], means[first] - means[second]))
            agrees.append((values[first].mean() - values[second].mean()) * printed > 0)
    if not p:
        return 0, 0, 0
    decided = false_discovery_control(p) <= RATE
    right = np.array(agrees)
    return int((decided & right).sum()), int((decided & ~right).sum()), int((~decided).sum())


def _p(one: np.ndarray, other: np.ndarray, differences: np.ndarray) -> float:
    """Return the two-sided p-value of the hypothesis that the two entries are equal.

    `differences` are those of the resampled means.
    """
    if one.dtype == other.dtype == bool:
        return mcnemar(one, other)
    if (one == other).all():
        return 1.0
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, max(2 * (1 + int(tail)) / (1 + RESAMPLES), 2 * 0.5 ** len(one)))


def _correlation(
    frame: pd.DataFrame, common: pd.DataFrame, means: np.ndarray
) -> tuple[int, float | None, float | None, float | None]:
    """Return the number of results of the first metric, Spearman's correlation, and its bootstrap interval.

    The last three are None if there are fewer than three results, or if all of ours or of the paper's are
    equal.
    """
    metric = frame.metric.iloc[common.columns[0]]
    chosen = [i for i, place in enumerate(common.columns) if frame.metric.iloc[place] == metric]
    printed = frame.paper.iloc[common.columns[chosen]].to_numpy(float)
    ours = common.iloc[:, chosen].mean().to_numpy()
    if len(chosen) < 3 or (printed == printed[0]).all() or (ours == ours[0]).all():
        return len(chosen), None, None, None
    drawn = means[:, chosen]
    drawn = drawn[(drawn != drawn[:, :1]).any(axis=1)]  # equal results have no order
    places, ranks = zscore(rankdata(printed)), zscore(rankdata(drawn, axis=1), axis=1)
    low, high = (float(end) for end in np.percentile(ranks @ places / len(chosen), (2.5, 97.5)))
    return len(chosen), float(spearmanr(printed, ours).statistic), low, high
