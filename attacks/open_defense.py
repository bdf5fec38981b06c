"""A defense that lies open: the attack itself chooses in which ways to look at it."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from attacks.knowledge import Knowledge, WholeDefense
from attacks.target import Target
from purifiers.purifier import Purifier

DEEPEST = 20  # steps of a fit that the deepest member unrolls, besides that which unrolls all


class OpenDefense(Target):
    """The whole defense, with a fresh draw for each answer, and its parts.

    Attributes:
        victim, purifier: the parts.
    """

    def __init__(self, victim: nn.Module, purifier: Purifier, **settings: Any) -> None:
        super().__init__(
            lambda images, seeds: victim(purifier(images, seeds=seeds, victim=victim)), **settings
        )
        # In a tuple, so that they are no modules of this one.
        self._parts = victim, purifier

    @property
    def purifier(self) -> Purifier:
        """The purifier, whose traits say in which ways the defense can be looked at."""
        return self._parts[1]

    def through(self, knowledge: Knowledge) -> Target:
        """What an attacker with this knowledge sees. Its answers are counted with all others, so that each
        image goes on with fresh draws; if the draw is known, it is none of those that are scored."""
        seen = knowledge.target(
            *self._parts,
            [],
            seeds=self.seeds,
            batch=self.batch,
            recompute=self.recompute,
            device=self.place.device,
        )
        seen.counts, seen.budget, seen.before_answering = self.counts, self.budget, self.before_answering
        return seen


class Everything(WholeDefense):
    """The victim, the purifier and all their weights; for attacks that choose how to use them."""

    version = 1
    kind = "everything"
    gives = "everything"

    def __init__(self) -> None:
        super().__init__()
        self.trial_steps = 1 + DEEPEST + 1  # so that an estimate has all members

    def target(
        self,
        victim: nn.Module,
        purifier: Purifier,
        others: Sequence[nn.Module],
        **settings: Any,
    ) -> OpenDefense:
        """Return the open defense; `settings` are those of any target."""
        return OpenDefense(victim, purifier, gives=self.gives, **settings)
