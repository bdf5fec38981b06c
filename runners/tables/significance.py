"""Decides which purifiers a table may call the best: by the highest result and McNemar's test."""

from collections.abc import Mapping

import pandas as pd

from runners.evaluation.metrics import mcnemar
from runners.tables.figures import matched

ALPHA = 0.05  # two purifiers are distinguished by a smaller p-value


def best_of(right: Mapping[int, pd.Series]) -> dict[int, tuple[bool, float]]:
    """Return whether each purifier is the highest or is not distinguished from it, and the p-value for that.

    The p-value is that of the test against the highest on the same images. The highest itself gets the
    largest of them, so if that is below ALPHA, the highest is distinguished from every other purifier. Since
    it must pass the test against each of them, the chance that one of several equal purifiers is called the
    only best is at most ALPHA per column, even though the highest is picked after the fact.

    Args:
        right: for each purifier, whether the images are classified correctly, indexed by the images' ids.
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
        right: what `best_of` compares, by place in the frame, without the undefended victim.
        asked: the attack that each entry faced, by place; only entries that faced the same are compared.
    """
    marks: dict[int, tuple[bool, float]] = {}
    for attack in dict.fromkeys(asked.values()):
        marks |= best_of({place: part for place, part in right.items() if asked[place] == attack})
    marks_by_place = [marks.get(place, (False, float("nan"))) for place in range(len(frame))]
    return frame.assign(best=[best for best, _ in marks_by_place], p_best=[p for _, p in marks_by_place])


def explained(frame: pd.DataFrame) -> list[str]:
    """Return the sentences that explain the marks of the best purifiers, with their p-values."""
    best = frame[frame.best]
    alone, others = best[best.p_best < ALPHA], best[best.p_best >= ALPHA]
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
