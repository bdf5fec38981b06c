"""The members of the adaptive attack, with their estimates of the gradient and their searches.

The members that suit a defense follow from the purifier's traits alone. Their numbers of steps define the
standard budgets for three kinds of defenses: those that draw nothing, those that draw and answer fast, and
those that fit a network to each image, so that one answer takes seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks import apgd, square
from attacks.auto_attack import AutoAttack
from attacks.fit_knowledge import AlongFit, Surrogate, Unrolled
from attacks.knowledge import BPDA, Blind, Full, Knowledge, Score
from attacks.losses import LOSSES
from attacks.open_defense import DEEPEST
from attacks.rows import Attempt, Rows, each
from purifiers.fitting.trace import TracePurifier
from purifiers.purifier import Purifier

Norm = Literal["linf", "l2"]
Search = Callable[[Rows, Tensor, Tensor, Tensor], list[Tensor]]  # rows, images, labels, places in the batch
DRAWS, DRAWS_OF_A_FIT = 10, 5  # number of the defense's draws that judge an adversarial example
CLASSES_OF_DLR = 3


@dataclass(frozen=True)
class Member:
    """One search of the ensemble.

    Args:
        name: name in records and tables.
        knowledge: its knowledge of the defense.
        forward, backward: largest number of passes for an image, for each of the knowledge's draws.
        search: function that maps rows of images to candidates (N, C, H, W), among which the defense's own
            answers choose.
        candidates: number of candidates that it finds.
    """

    name: str
    knowledge: Knowledge
    forward: int
    backward: int
    search: Search
    candidates: int = 1

    @property
    def passes(self) -> tuple[int, int]:
        """The largest numbers of forward and backward passes of the defense for an image."""
        return self.forward * self.knowledge.eot, self.backward * self.knowledge.eot


def judging_draws(purifier: Purifier) -> int:
    """Return the number of draws of the defense that judge a candidate."""
    if not purifier.stochastic:
        return 1
    return DRAWS_OF_A_FIT if purifier.per_image_optimization else DRAWS


@dataclass(frozen=True)
class Ensemble:
    """The ensemble of members for one ball.

    Args:
        eps, norm: radius and norm of the ball.
        share: share of the standard numbers of steps; each member keeps at least one step.
        draws: whether the defense draws, so that a single misclassified iterate may be due to chance.
    """

    eps: float
    norm: Norm
    share: float = 1.0
    draws: bool = True

    def _steps(self, standard: int) -> int:
        return max(1, int(standard * self.share))

    def climb(self, name: str, knowledge: Knowledge, loss: str, steps: int, restarts: int = 1) -> Member:
        """Return a member that runs APGD with all steps, each restart from another random start.

        Its candidates are the iterates with the largest losses or, if the defense draws nothing, the last
        misclassified iterates.
        """
        steps = self._steps(steps)

        def search(rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> list[Tensor]:
            candidates = []
            for _ in range(restarts):
                climb = apgd.ascend(
                    rows,
                    images,
                    labels,
                    loss=lambda logits: LOSSES[loss](logits, labels),
                    eps=self.eps,
                    norm=self.norm,
                    steps=steps,
                )
                fell = each(climb.found.fell & (not self.draws), images)
                candidates.append(torch.where(fell, climb.found.images, climb.best))
            return candidates

        passes = restarts * (steps + 1)
        return Member(name, knowledge, passes, passes, search, restarts)

    def ask(self, name: str, knowledge: Knowledge, queries: int) -> Member:
        """Return a member that runs Square's random search.

        If the defense draws, the search goes on after an image is misclassified.
        """
        queries = self._steps(queries)

        def search(rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> list[Tensor]:
            result = square.random_search(
                rows,
                images,
                labels,
                eps=self.eps,
                norm=self.norm,
                queries=queries,
                speed=square.OF / queries,
                early_stop=not self.draws,
            )
            return [result.found.images]

        return Member(name, knowledge, queries, 0, search)

    def members(self, purifier: Purifier, logits: Tensor, labels: Tensor) -> list[Member]:
        """Return the members that suit the purifier, in their order.

        Args:
            logits: logits (N, classes) of the whole batch, by which attacks choose their targets.
            labels: labels (N,).
        """
        losses = [loss for loss in LOSSES if loss != "dlr" or logits.shape[1] >= CLASSES_OF_DLR]
        if purifier.per_image_optimization:
            return self._of_fit(purifier)
        if purifier.stochastic:
            return self._of_random(purifier, losses)
        if purifier.gradient == "exact" and logits.shape[1] > CLASSES_OF_DLR:
            return self._of_exact(purifier, logits, labels)
        return self._of_masked(purifier, losses)

    def _of_exact(self, purifier: Purifier, logits: Tensor, labels: Tensor) -> list[Member]:
        """Return the members for a deterministic defense with an exact gradient.

        They are AutoAttack's four and, unless there is no purifier, two that do not follow its gradient. It
        may lead nowhere although it is exact: that of purifiers/anti_adversary.py does.
        """
        attack = AutoAttack(
            eps=self.eps, norm=self.norm, steps=self._steps(100), queries_of_square=self._steps(5000)
        )
        first, *others = [
            Member(name, Full(), *attack.passes[name], _candidates(attempt))
            for name, attempt in attack.parts(logits, labels).items()
        ]
        if purifier.changes_nothing:
            return [first, *others]
        apart = [self.climb(f"{kind.kind} ce", kind(), "ce", 100) for kind in (BPDA, Blind)]
        return [first, *apart, *others]

    def _of_masked(self, purifier: Purifier, losses: list[str]) -> list[Member]:
        """Return the members for a deterministic defense without an exact gradient, or with at most three
        classes."""
        white = Full if purifier.gradient == "exact" else BPDA
        climbs = [self.climb(f"{white.kind} {loss}", white(), loss, 100) for loss in losses]
        return [*climbs, self.climb("blind ce", Blind(), "ce", 100), self.ask("square", Score(), 5000)]

    def _of_random(self, purifier: Purifier, losses: list[str]) -> list[Member]:
        """Return the members for a defense that draws."""
        white = Full if purifier.gradient == "exact" else BPDA
        name = white.kind
        return [
            self.climb(f"{name} fixed draw", white(known_draw=True), "ce", 50),
            self.climb(f"{name} fresh draws", white(), "ce", 200),
            *(self.climb(f"{name} eot {loss}", white(eot=20), loss, 50, restarts=3) for loss in losses),
            self.climb("blind ce", Blind(), "ce", 100),
            self.ask("square eot", Score(eot=5), 2000),
        ]

    def _of_fit(self, purifier: Purifier) -> list[Member]:
        """Return the members for a defense that fits a network to each image."""
        members = [
            self.climb("bpda fixed draw", BPDA(known_draw=True), "ce", 20),
            self.climb("bpda fresh draws", BPDA(), "ce", 40),
            self.climb("bpda eot", BPDA(eot=10), "ce", 15),
        ]
        if isinstance(purifier, TracePurifier):
            members.append(self.climb("bpda iterates", AlongFit(points=10), "ce", 20))
            if purifier.crosses:
                members.append(self.climb("bpda crossings", AlongFit(of="crossings", points=10), "ce", 20))
        if purifier.gradient == "unrolled":
            depths = [m for m in (1, 5, DEEPEST) if m < purifier.steps - 1]
            members += [
                self.climb(f"unrolled {m}", Unrolled(steps=m, second_moment="detached"), "ce", 15)
                for m in depths
            ]
            members.append(self.climb("unrolled all", Unrolled(steps=None), "ce", 5))
        fewer = max(1, round(purifier.shortened(steps=1)[1] / 4))
        if purifier.shortened(steps=fewer)[1] > 1:
            members.append(self.climb(f"surrogate {fewer} steps", Surrogate(steps=fewer), "ce", 40))
        return [*members, self.climb("blind ce", Blind(), "ce", 50), self.ask("square", Score(), 100)]


def _candidates(attempt: Attempt) -> Search:
    """Return the search of an attempt of AutoAttack, which returns its images whether it succeeded or not."""
    return lambda *batch: [attempt(*batch).images]


def cost(members: list[Member], judging: int) -> tuple[int, int]:
    """Return the forward and backward passes of an image that resists all members, if `judging` passes judge
    the image itself and each candidate."""
    forward = judging + sum(member.passes[0] + judging * member.candidates for member in members)
    return forward, sum(member.passes[1] for member in members)
