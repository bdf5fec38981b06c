"""The papers' rules for which images of a split are evaluated: each takes the first n of a shuffled order."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from data.errors import InputError
from data.images import Index, shuffled

log = logging.getLogger(__name__)

OF_VICTIM = "two-correct-per-class"
RULES = ("random", "two-per-class", OF_VICTIM)
PER_CLASS = 2
BATCH = 64  # images that a victim classifies at once, the same for all chunks: rounding may depend on it
NAMED = 5  # classes that a message names

Right = Callable[[Sequence[int]], Sequence[bool]]  # whether the victim is right, by position


def sample_subset(
    rule: str, index: Index, n: int, *, seed: int, classes: Sequence[str], right: Right | None = None
) -> list[int]:
    """Return the positions of n images that the rule selects.

    Args:
        rule: "random" selects any image. "two-per-class" selects the first two of each class in the random
            order of the seed (RIDE's rule). "two-correct-per-class" selects the first two that the victim
            classifies correctly (the rule of Online Alternate Generator); it stops classifying as soon as it
            has n images.
        classes: the names of the labels.
        right: needed for the last rule only.

    Raises InputError if the rule does not select n images.
    """
    order, labels = shuffled(len(index.ids), seed), index.labels.tolist()
    if rule == "random":
        if not 1 <= n <= len(order):
            raise InputError(f"n: expected 1 to {len(order)} images (the whole set), got {n}")
        return order[:n]
    if n < 1:
        raise InputError(f"n: expected at least 1 image, got {n}")
    counted = Counter(labels)
    if few := [name for label, name in enumerate(classes) if counted[label] < PER_CLASS]:
        log.warning("subset %s: %s have fewer than two images here%s", rule, *_spoken(few, classes))
    taken: Counter[int] = Counter()
    picked: list[int] = []
    for batch in _batches(order, labels, taken):
        answers = right(batch) if rule == OF_VICTIM else [True] * len(batch)
        for position, good in zip(batch, answers, strict=True):
            if good and taken[labels[position]] < PER_CLASS:
                taken[labels[position]] += 1
                picked.append(position)
        if len(picked) >= n:
            return picked[:n]
    what = "images that the victim classifies correctly" if rule == OF_VICTIM else "images"
    if not picked:
        raise InputError(f"subset {rule}: expected {what}, got none of {len(order)}")
    every = f"two of each of the {len(taken)} classes"
    if lacking := [name for label, name in enumerate(classes) if taken[label] < PER_CLASS]:
        number, names = _spoken(lacking, classes)
        every = f"{number} have fewer than two {what}{names}"
    raise InputError(
        f"n: expected 1 to {len(picked)}, all that subset={rule} gives of {len(order)} images ({every}), "
        f"got {n}"
    )


def _batches(order: Sequence[int], labels: Sequence[int], taken: Counter[int]) -> Iterator[list[int]]:
    """Yield batches of candidates in this order, from classes that have fewer than two images so far."""
    waiting = iter(order)
    while batch := list(islice((i for i in waiting if taken[labels[i]] < PER_CLASS), BATCH)):
        yield batch


def _spoken(few: Sequence[str], classes: Sequence[str]) -> tuple[str, str]:
    more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
    return f"{len(few)} of {len(classes)} classes", f": {', '.join(few[:NAMED])}{more}"
