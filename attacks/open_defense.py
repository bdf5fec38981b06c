"""A defense that is fully known: the attack itself chooses how to evaluate it."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from attacks.knowledge import Knowledge, WholeDefense
from attacks.target import Target
from purifiers.purifier import Purifier

DEEPEST = 20  # largest number of steps that a member unrolls, except for the member that unrolls all


class OpenDefense(Target):
    """The whole defense, with a fresh draw for each answer, and its parts.

    Args:
        victim, purifier: the parts.
        settings: those of any target.
    """

    def __init__(self, victim: nn.Module, purifier: Purifier, **settings: Any) -> None:
        super().__init__(
            lambda images, seeds: victim(purifier(images, seeds=seeds, victim=victim)), **settings
        )
        # In a tuple, so that they are not registered as submodules.
        self._parts = victim, purifier

    @property
    def purifier(self) -> Purifier:
        """The purifier, whose traits say in which ways the defense can be evaluated."""
        return self._parts[1]

    def through(self, knowledge: Knowledge) -> Target:
        """Return the target of an attacker with this knowledge.

        Its answers are counted together with all others, so that each image continues with fresh draws. If
        the draw is known, it is not one of those that are scored.
        """
        target = knowledge.target(
            *self._parts,
            [],
            seeds=self.seeds,
            batch=self.batch,
            recompute=self.recompute,
            device=self.place.device,
        )
        target.counts, target.budget, target.before_answering = (
            self.counts,
            self.budget,
            self.before_answering,
        )
        return target


class Everything(WholeDefense):
    """The victim, the purifier and all their weights; for attacks that choose how to use them."""

    version = 1
    kind = "everything"
    gives = "everything"

    def __init__(self) -> None:
        super().__init__()
        self.trial_steps = 1 + DEEPEST + 1  # so that an estimate includes all members

    def target(
        self,
        victim: nn.Module,
        purifier: Purifier,
        others: Sequence[nn.Module],
        **settings: Any,
    ) -> OpenDefense:
        """Return the open defense; `settings` are those of any target."""
        return OpenDefense(victim, purifier, gives=self.gives, **settings)
