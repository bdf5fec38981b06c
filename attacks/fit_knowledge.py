"""Attackers' knowledge of a defense that is fitted at test time, besides BPDA: gradients through the fit,
gradients at the reconstructions along it, and a cheaper purifier in its place.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.knowledge import BPDA, UnsuitedError, WholeDefense
from attacks.target import Target, View
from data.errors import InputError
from purifiers.fitting.along import reconstructions
from purifiers.fitting.trace import TracePurifier
from purifiers.fitting.unrolled import Diagnosis, Unrolling, unrolled
from purifiers.purifier import TRIAL_STEPS, Purifier


class Unrolled(WholeDefense):
    """The gradient through the last steps of a fit, for purifiers that declare it.

    Args:
        steps, second_moment, memory: see purifiers.fitting.unrolled.Unrolling.
        eot: number of draws over which each gradient is averaged.
    """

    version = 2
    kind = "unrolled"

    def __init__(
        self,
        *,
        steps: int | None = 20,
        second_moment: Literal["attached", "detached"] = "attached",
        memory: float | None = None,
        eot: int = 1,
        known_draw: bool = False,
    ) -> None:
        super().__init__(eot=eot, known_draw=known_draw)
        self.unrolling = Unrolling(steps, second_moment, memory)
        self.trial_steps = max(TRIAL_STEPS, 1 + (steps or 0))

    def check(self, attack: Attack, purifier: Purifier) -> None:
        """Raise UnsuitedError unless the purifier is a fit of which this many steps can be unrolled."""
        super().check(attack, purifier)
        if not isinstance(purifier, TracePurifier) or purifier.gradient != "unrolled":
            raise UnsuitedError(
                "knowledge unrolled: expected a purifier whose fit can be unrolled, "
                f"{type(purifier).__name__} declares {purifier.gradient!r}; take knowledge=bpda"
            )
        try:
            self.unrolling.check(purifier)
        except InputError as error:
            raise UnsuitedError(str(error)) from error

    def view(self, victim: nn.Module, purifier: Purifier, others: Sequence[nn.Module]) -> View:
        """Return the defense with the gradient through its steps."""
        return self._view(victim, purifier, lambda seeds, diagnosis: None)

    def target(
        self,
        victim: nn.Module,
        purifier: Purifier | None,
        others: Sequence[nn.Module],
        **settings: Any,
    ) -> Target:
        """Return the attack's target, which records a diagnosis of each image's gradients."""
        target = super().target(victim, purifier, others, **settings)
        target.view, target.owner_of = self._view(victim, purifier, target.note), {}
        return target

    def _view(
        self, victim: nn.Module, purifier: Purifier, note: Callable[[Sequence[int], Diagnosis], None]
    ) -> View:
        def answer(images: Tensor, seeds: Sequence[int]) -> Tensor:
            if not images.requires_grad:
                return victim(purifier(images, seeds=seeds, victim=victim))
            purified = unrolled(
                purifier,
                images,
                seeds=seeds,
                victim=victim,
                unrolling=self.unrolling,
                tell=lambda diagnosis: note(seeds, diagnosis),
            )
            return victim(purified)

        return answer


class AlongFit(BPDA):
    """BPDA averaged over reconstructions along the fit, as Croce et al. 2022 attack the iterates of defenses
    that adapt at test time (https://arxiv.org/abs/2202.13711).

    The answer is the defense's own. Its gradient is the mean of the victim's gradients at the
    reconstructions, each treated as the image itself. An attack thus also aims at reconstructions that a
    defense compares or averages.

    Args:
        of: "iterates" for reconstructions at equal intervals up to the last; "crossings" for the last images
            that a purifier finds on the victim's decision boundary (DDIP), if there are any.
        points: largest number of reconstructions.
    """

    version = 1

    def __init__(
        self,
        *,
        of: Literal["iterates", "crossings"] = "iterates",
        points: int = 10,
        eot: int = 1,
        known_draw: bool = False,
    ) -> None:
        super().__init__(eot=eot, known_draw=known_draw)
        if of not in ("iterates", "crossings") or points < 1:
            raise InputError(
                f"knowledge: expected of=iterates or of=crossings, and points >= 1, got {of!r} and {points}"
            )
        self.of, self.points = of, points

    def check(self, attack: Attack, purifier: Purifier) -> None:
        """Raise UnsuitedError unless the purifier has a trace, and crossings if they are needed."""
        super().check(attack, purifier)
        if not isinstance(purifier, TracePurifier) or (self.of == "crossings" and not purifier.crosses):
            raise UnsuitedError(
                f"knowledge.of={self.of}: expected a purifier that reads "
                f"{'images on decision boundaries off its trace' if self.of == 'crossings' else 'a trace'}, "
                f"got {type(purifier).__name__}; take knowledge=bpda"
            )

    def view(self, victim: nn.Module, purifier: TracePurifier, others: Sequence[nn.Module]) -> View:
        """Return the defense with the mean gradient at its reconstructions."""

        def answer(images: Tensor, seeds: Sequence[int]) -> Tensor:
            if not images.requires_grad:
                return victim(purifier(images, seeds=seeds, victim=victim))
            result, along = reconstructions(
                purifier, images.detach(), seeds=seeds, victim=victim, of=self.of, points=self.points
            )
            through = images - images.detach()  # this is 0, with the gradient of the images
            mean = torch.stack([victim(reconstruction + through) for reconstruction in along]).mean(0)
            with torch.no_grad():
                logits = victim(result)
            return logits + (mean - mean.detach())

        return answer


class Surrogate(BPDA):
    """BPDA on a cheaper purifier in the place of the defense's own, whose adversarial examples are
    transferred to the defense (for diffusion purifiers Lee and Kim 2023, https://arxiv.org/abs/2303.09051).

    Args:
        steps: largest number of steps of the defense's own purifier; excludes `purifier`.
        purifier: another purifier, without weights of its own; excludes `steps`.
        eot: number of draws over which each gradient is averaged.
    """

    version = 1
    kind = "surrogate"

    def __init__(self, *, steps: int | None = None, purifier: Purifier | None = None, eot: int = 1) -> None:
        super().__init__(eot=eot)
        if (steps is None) == (purifier is None) or (steps is not None and steps < 1):
            raise InputError(
                f"knowledge: expected either steps >= 1 or a purifier, got steps={steps} and "
                f"{'no purifier' if purifier is None else 'a purifier'}"
            )
        if getattr(purifier, "weights", None) is not None:
            raise InputError(
                f"knowledge.purifier: expected one without weights, got {type(purifier).__name__}"
            )
        self.steps, self.surrogate = steps, purifier

    def check(self, attack: Attack, purifier: Purifier) -> None:
        """Raise UnsuitedError unless fewer steps give a different purifier."""
        super().check(attack, self.surrogate or purifier)
        if self.steps is not None and purifier.shortened(steps=self.steps)[1] <= 1:
            raise UnsuitedError(
                f"knowledge.steps: expected a purifier of more than {self.steps} steps, got "
                f"{type(purifier).__name__}; name another purifier (+purifier@knowledge.purifier=median)"
            )

    def view(self, victim: nn.Module, purifier: Purifier, others: Sequence[nn.Module]) -> View:
        """Return BPDA on the surrogate."""
        cheaper = self.surrogate or purifier.shortened(steps=self.steps)[0]
        return super().view(victim, cheaper, others)
