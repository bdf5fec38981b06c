"""Which purifier a table may call the best: the highest result, and McNemar's test on the same images."""

from collections.abc import Mapping

import pandas as pd

from runners.evaluation.metrics import mcnemar
from runners.tables.figures import matched

ALPHA = 0.05  # a smaller p tells two purifiers apart


def best_of(right: Mapping[int, pd.Series]) -> dict[int, tuple[bool, float]]:
    """Whether each purifier is the highest or is not distinguished from it, and the p-value that says so.

    The p is that of the test against the highest; the highest's own is the largest of them, so below ALPHA
    it stands alone. Since it must pass the test against every other one, a winner among several equal
    purifiers is no likelier than ALPHA a column, though the highest is picked after the fact.

    Args:
        right: by purifier, whether an image is classified correctly, indexed by the images' ids.
    """
    if len(right) < 2:
        return {}
    answers = dict(zip(right, matched(list(right.values())), strict=True))
    top = max(answers, key=lambda name: answers[name].sum())
    p = {name: mcnemar(answers[top], answers[name]) for name in answers if name != top}
    p[top] = max(p.values())
    return {name: (name == top or p[name] >= ALPHA, p[name]) for name in answers}


def marked(frame: pd.DataFrame, right: Mapping[int, pd.Series], asked: Mapping[int, str]) -> pd.DataFrame:
    """Return a table's frame with the columns `best` and `p_best`.

    Args:
        right: what `best_of` compares, by place in the frame; without the undefended victim.
        asked: what each entry faced, by place; those that faced the same are compared.
    """
    found: dict[int, tuple[bool, float]] = {}
    for question in dict.fromkeys(asked.values()):
        found |= best_of({place: part for place, part in right.items() if asked[place] == question})
    of_all = [found.get(place, (False, float("nan"))) for place in range(len(frame))]
    return frame.assign(best=[best for best, _ in of_all], p_best=[p for _, p in of_all])


def explained(frame: pd.DataFrame) -> list[str]:
    """The sentences that explain the marks of the best purifiers, with their p-values."""
    marked = frame[frame.best]
    alone, others = marked[marked.p_best < ALPHA], marked[marked.p_best >= ALPHA]
    lines = []
    if len(alone):
        lines.append(
            "▲ The best purifier: McNemar's exact test on the same images finds it better than every other "
            f"(p < {ALPHA:g}; here p is at most {alone.p_best.max():.2g})."
        )
    if len(others):
        lines.append(
            "~ The purifier with the highest result, and those that McNemar's exact test does not "
            f"distinguish from it (p is at least {others.p_best.min():.2g})."
        )
    return lines
