"""One-sided tests of paired values: two entries of a table on the very same images."""

import math

import numpy as np
from scipy.stats import bootstrap, norm

from runners.evaluation.metrics import mcnemar

RESAMPLES = 9999
POWER = 0.8  # probability that the stated number of images decides


def p_above(first: np.ndarray, second: np.ndarray, by: float = 0.0, *, shares: bool) -> float:
    """Return the one-sided p-value for a mean of `first` that is above that of `second` by more than `by`.

    For right and wrong answers and `by` = 0 this is McNemar's exact test. Otherwise the images are resampled
    9,999 times, with both values of an image together (a paired bootstrap). Differences of shares get two
    further values, 1 and -1, as in the interval of Bonett and Price (2012, Journal of Educational and
    Behavioral Statistics 37, 479-488), so that a few images that all agree prove nothing. The p-value is
    never below 0.5 to the power of n, which is that of the sign test if all n images agree.

    Args:
        first: values of the images; true or false, or numbers.
        second: values of the same images in the same order.
        by: the margin, in the unit of the values.
        shares: whether the values lie in [0, 1], as accuracies and their averages do.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"expected values of the same images, got {first.shape} and {second.shape}")
    if first.dtype == second.dtype == bool and by == 0:
        return mcnemar(first, second, alternative="greater")
    differences = _differences(first, second, shares=shares)
    if (differences == differences[0]).all():
        return 1.0  # the spread of the values is unknown
    drawn = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10**7 // len(differences)),
        method="percentile",
        rng=np.random.default_rng(0),
    )
    p = (1 + int((drawn.bootstrap_distribution <= by).sum())) / (1 + RESAMPLES)
    return min(1.0, max(p, 0.5 ** len(first)))


def images_needed(
    first: np.ndarray, second: np.ndarray, by: float, *, shares: bool, alpha: float
) -> int | None:
    """Estimate how many images would show, with a power of 0.8, on which side of `by` the difference lies.

    The estimate uses the mean and the spread of the observed differences (Connor 1987, Biometrics 43,
    207-211, for right and wrong answers). It is None if the observed difference equals `by`, because then no
    number of images decides.
    """
    margin = float(first.mean() - second.mean()) - by
    spread = float(np.std(_differences(first, second, shares=shares)))
    return needed(margin, spread, alpha=alpha)


def needed(margin: float, spread: float, *, alpha: float) -> int | None:
    """Return how many values of this spread show by a one-sided normal test that a margin is not zero.

    The result is None if the margin is zero.
    """
    if abs(margin) < 1e-12:
        return None
    return math.ceil((float(norm.isf(alpha) + norm.ppf(POWER)) * spread / margin) ** 2)


def _differences(first: np.ndarray, second: np.ndarray, *, shares: bool) -> np.ndarray:
    differences = first.astype(float) - second.astype(float)
    return np.append(differences, (1.0, -1.0)) if shares else differences
