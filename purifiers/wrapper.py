"""The base class of purifiers that change how another purifier is called."""

import copy
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from purifiers.purifier import TRIAL_STEPS, Purifier

TRAITS = ("stochastic", "gradient", "uses_victim", "batch_coupled", "per_image_optimization", "scale")


class Wrapper(Purifier):
    """A purifier around another one, whose traits and weights it takes over.

    A subclass calls this constructor first, and then sets the traits in which it differs.

    Args:
        purifier: the purifier inside.
    """

    def __init__(self, *, purifier: Purifier) -> None:
        self.purifier = purifier
        for trait in TRAITS:
            setattr(self, trait, getattr(purifier, trait))
        if self.gradient == "unrolled":  # only a purifier with a trace of its own can be unrolled
            self.gradient = "bpda"

    @property
    def weights(self) -> Any:
        """The weights of the purifier inside, or None if it has none."""
        return getattr(self.purifier, "weights", None)

    def load_frozen(self, state: Mapping[str, Tensor]) -> Self:
        """Fix the weights of the purifier inside."""
        self.purifier.load_frozen(state)
        return self

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy around a cheap copy of the purifier inside, and the ratio of their times."""
        short, factor = self.purifier.shortened(steps=steps)
        copied = copy.copy(self)
        copied.purifier = short
        return copied, factor
