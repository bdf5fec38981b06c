"""The best purifiers of one column, compared on the same images."""

import numpy as np
import pandas as pd
import pytest

from runners.tables.significance import ALPHA, best_of


def right(count: int, n: int = 40) -> list[int]:
    """Return the answers on n images, of which the first `count` are right."""
    return [1] * count + [0] * (n - count)


@pytest.mark.parametrize(
    ("answers", "marked"),
    [
        ({0: right(5), 1: right(5)}, {0: 1.0, 1: 1.0}),  # the very same images
        ({0: right(20), 1: right(20)[::-1]}, {0: 1.0, 1: 1.0}),  # as many, but other images
        ({0: right(0), 1: right(0), 2: right(6)}, {2: 2 / 2**6}),
        ({0: right(9)}, {}),
        ({}, {}),
    ],
)
def test_ties_share_the_mark_and_one_purifier_has_none(answers, marked):
    marks = best_of({name: pd.Series(np.array(row, bool)) for name, row in answers.items()})
    assert {name: p for name, (best, p) in marks.items() if best} == marked


def test_the_highest_must_pass_against_every_other_one_not_only_the_next():
    """y is below z, but x and y are wrong on different images, so they cannot be told apart."""
    x, z = right(30), right(24)
    y = [0] * 17 + [1] * 23  # 13 with x, 10 without
    marks = best_of({name: pd.Series(np.array(row, bool)) for name, row in enumerate([x, y, z])})
    assert marks[2] == (False, 2 / 2**6)
    assert marks[1][0]
    assert marks[0] == (True, marks[1][1])
    assert marks[0][1] > ALPHA


def test_luck_seldom_makes_a_winner_of_one_of_equal_purifiers():
    draws = np.random.default_rng(0)
    for purifiers in (2, 3, 8):
        wins = 0
        for _ in range(200):
            answers = draws.random((purifiers, 150)) < 0.6
            marks = best_of({i: pd.Series(answers[i]) for i in range(purifiers)})
            wins += any(best and p < ALPHA for best, p in marks.values())
        assert wins <= 0.05 * 200
