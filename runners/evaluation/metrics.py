"""Figures of records (image quality, norms, intervals, tests) as pure functions."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from scipy.stats import t as student
from torch import Tensor

from data.errors import InputError

Z = 1.959964  # standard normal: 95 % of it lies within Z of its mean


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the (N,) peak signal-to-noise ratio in dB; it is infinite for equal images."""
    return -10 * (images - references).square().flatten(1).mean(1).log10()


def norms(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (N,) l-infinity and l2 norms of the difference."""
    difference = (images - references).flatten(1)
    # The l2 norm may sum 150,000 squares, so it is computed in float64.
    return difference.abs().amax(1), difference.double().norm(dim=1).float()


def wilson(correct: int, n: int, z: float = Z) -> tuple[float, float]:
    """Return the Wilson score interval of a share, by default at 95 %, as shares (Wilson 1927)."""
    if n < 1:
        raise ValueError(f"expected at least 1 image, got {n}")
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def standard_error(share: float, n: int, other: float, m: int) -> float:
    """Return the standard error of the difference of two shares of n and m images."""
    return math.sqrt(share * (1 - share) / n + other * (1 - other) / m)


def share_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values in [0, 1], such as the share of attacks survived.

    The mean is over images. It is the interval of Agresti and Coull (1998, The American Statistician 52,
    119-126), with the variance of the values in place of p(1 - p): z^2 / 2 values of 0 and as many of 1 are
    added to the sample, and the normal interval of the enlarged sample is taken. For values of 0 and 1 the
    two are the same. Because of the added values the width is never zero: before the interval is cut to
    [0, 1] it is at least z^2 / (n + z^2). tests/test_metrics.py simulates the coverage: at least 92 % from 4
    images on.

    Raises ValueError if there are no values or if any of them is outside [0, 1].
    """
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"expected at least one value, all in [0, 1], got {len(values)} values")
    size = len(values) + Z * Z
    centre = (values.sum() + Z * Z / 2) / size
    variance = ((values**2).sum() + Z * Z / 2) / size - centre**2
    half = Z * math.sqrt(variance / size)
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean over images of an unbounded value, by Student's t (1908).

    Both ends are NaN if there is no interval: for a single image, and if all values are equal, because equal
    values tell nothing about their spread.
    """
    if len(values) < 2 or (values == values[0]).all():
        return math.nan, math.nan
    centre = float(values.mean())
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return centre - half, centre + half


def mcnemar(
    first: np.ndarray, second: np.ndarray, *, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """Return the exact p of McNemar's test (1947) that two defenses are equally good on the same images.

    Only images that one defense gets right and the other wrong count: under the hypothesis, each is a fair
    coin toss. With the alternative "greater" the test is one-sided: a small p says that the first defense is
    better.
    """
    if first.shape != second.shape or first.dtype != bool or second.dtype != bool:
        raise ValueError(
            f"expected two boolean arrays of one shape, got {first.dtype} {first.shape} and "
            f"{second.dtype} {second.shape}"
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differ = only_first + only_second
    return float(binomtest(only_first, differ, alternative=alternative).pvalue) if differ else 1.0


def in_batches(model: Callable[[Tensor], Tensor], images: Tensor, size: int = 256) -> Tensor:
    """Return the model's outputs on many images, computed in batches without gradients."""
    with torch.no_grad():
        return torch.cat([model(images[i : i + size]) for i in range(0, len(images), size)])


def survived(paths: pd.Series, *, eps: float, queries: int) -> pd.Series:
    """Return for each image whether a decision attack had found nothing within eps after so many queries.

    The points of a path are (queries, distance); if the defense gets the image itself wrong, one of them has
    distance 0. Raises InputError if an image has no path, since nothing is then known of what the attack
    found.
    """
    if missing := int((paths.map(len) == 0).sum()):
        raise InputError(
            f"queries: expected a path of the attack for each image, got none for {missing} of {len(paths)}; "
            "read accuracy at a number of queries off an attack that records its path, such as hopskipjump"
        )
    return paths.map(lambda path: all(spent > queries or distance > eps for spent, distance in path))
