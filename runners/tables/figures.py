"""A printed result: its value, its interval and its number of images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from runners.evaluation.metrics import mean_interval, share_interval, wilson


@dataclass(frozen=True)
class Figure:
    """A result with its interval and its number of images.

    `low` and `high` bound the 95 % interval, and are NaN if there is none. `value`, `low` and `high` are in
    the unit that is printed.
    """

    value: float
    low: float
    high: float
    n: int

    def text(self, digits: int) -> str:
        """Return value, interval and n as text."""
        if math.isnan(self.low):
            return f"{self.value:.{digits}f}  n={self.n}"
        return f"{self.value:.{digits}f}  [{self.low:.{digits}f}, {self.high:.{digits}f}]  n={self.n}"


def comparison_row(figure: Figure | None, paper: float | None) -> dict[str, float | None]:
    """Return the columns of an entry: our value, its interval and n, the paper's value, the difference."""
    ours = asdict(figure) if figure else dict.fromkeys(("value", "low", "high", "n"))
    return {**ours, "paper": paper, "delta": figure.value - paper if figure and paper is not None else None}


def accuracy(correct: pd.Series) -> Figure:
    """Return an accuracy in percent with Wilson's interval."""
    n, right = len(correct), int(correct.sum())
    low, high = wilson(right, n)
    return Figure(100 * right / n, 100 * low, 100 * high, n)


def mean(values: pd.Series) -> Figure:
    """Return the mean over images of an unbounded value with Student's interval."""
    array = values.to_numpy(float)
    return Figure(float(array.mean()), *mean_interval(array), len(array))


def mean_share(values: pd.Series) -> Figure:
    """Return the mean over images of shares in [0, 1], in percent, with the interval of `share_interval`."""
    array = values.to_numpy(float)
    low, high = share_interval(array)
    return Figure(100 * float(array.mean()), 100 * low, 100 * high, len(array))


def per_image(parts: Sequence[pd.Series]) -> pd.Series:
    """Return the mean of several columns for each image.

    The columns are matched by the images' ids; the means have the order of the first column.
    """
    return pd.Series(np.mean([part.loc[parts[0].index].to_numpy(float) for part in parts], axis=0))


def matched(parts: Sequence[pd.Series]) -> np.ndarray:
    """Return a (parts, images) array of right and wrong answers.

    The series are indexed by the images' ids, in any order. Raises ValueError if their values are not
    booleans, or if they do not contain exactly the same images.
    """
    ids = parts[0].index
    for part in parts:
        if part.dtype != bool:
            raise ValueError(f"expected right or wrong, true or false, for every image; got {part.dtype}")
        if not part.index.is_unique or set(part.index) != set(ids):
            differing = len(set(part.index) ^ set(ids))
            raise ValueError(
                f"expected the same images in every column, each once; got {len(ids)} and {len(part)} ids, "
                f"{differing} of them in one only"
            )
    return np.stack([part.loc[ids].to_numpy() for part in parts])


def under_all(parts: Sequence[pd.Series]) -> pd.Series:
    """Return whether each image is right under every attack: the AND over columns, matched by id."""
    return pd.Series(matched(parts).all(0), index=parts[0].index)
