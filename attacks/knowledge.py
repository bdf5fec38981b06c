"""The attacker's knowledge: the part of a defense that an attack can evaluate, and the answers it gets."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.bpda import BPDAWrapper
from attacks.target import Answer, Target, View
from data.errors import InputError
from purifiers.purifier import TRIAL_STEPS, Purifier

ANSWERS: tuple[Answer, ...] = (
    "decision",
    "score",
    "gradient",
    "everything",
)  # each includes the answers before it
Kind = Literal[
    "blind", "transfer", "surrogate", "bpda", "unrolled", "full", "score", "decision", "everything"
]
MEANING: dict[Kind, str] = {
    "blind": "knows the victim with its weights, but no purifier",
    "transfer": "knows other classifiers, but neither the victim nor a purifier",
    "surrogate": "knows the victim behind a cheaper purifier",
    "bpda": "knows the whole defense, with a substitute for the purifier's gradient",
    "unrolled": "knows the whole defense, with the gradient through the steps of its fit",
    "full": "knows the whole defense with its exact gradient",
    "score": "sees the logits of the whole defense",
    "decision": "sees only the class that the whole defense returns",
    "everything": "knows the whole defense in each of these ways",
}


class UnsuitedError(InputError):
    """Raised if an attack cannot be run with this knowledge on this purifier."""


class Knowledge(ABC):
    """An attacker's knowledge, which makes the target of an attack from a cell's victim and purifier.

    Attributes:
        version: number that is raised on any change of behaviour.
        kind: the attacker among those in MEANING. Flags, tables and curves read the kind, so that the name
            of a config file has no meaning. Every class that can be used declares one.
        gives: the most informative answer: "everything", "gradient", "score" or "decision".
        uses_purifier: whether crafting uses the purifier; if not, one set of adversarial examples serves all
            purifiers.
        uses_victim: whether crafting uses the victim itself.
        eot: number of draws of the defense over which each answer is averaged.
        known_draw: whether the defense draws only once, and the attacker knows that draw, which is scored.
        trial_steps: number of steps that a shortened purifier needs for an estimate of the cost of answers.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[Kind]
    gives: ClassVar[Answer] = "gradient"
    uses_purifier: ClassVar[bool] = True
    uses_victim: ClassVar[bool] = True
    eot: int = 1
    known_draw: bool = False
    trial_steps: int = TRIAL_STEPS

    @abstractmethod
    def view(self, victim: nn.Module, purifier: Purifier, others: Sequence[nn.Module]) -> View:
        """Return the map from images and seeds to logits; `others` are a transfer attack's classifiers."""

    @classmethod
    def declared_kind(cls) -> Kind:
        """Return the kind that the class declares; raise InputError unless it is one of those in MEANING."""
        kind = getattr(cls, "kind", None)
        if kind not in MEANING:
            raise InputError(
                f"knowledge {cls.__name__}: expected a class whose kind is one of {', '.join(MEANING)}; got "
                f"{kind!r}"
            )
        return kind

    def check(self, attack: Attack, purifier: Purifier) -> None:
        """Check that this attacker can run the attack.

        Raises UnsuitedError if the attack needs more than this knowledge gives, and InputError if the
        knowledge does not declare a kind, or the attack does not declare its number of passes.
        """
        self.declared_kind()
        if attack.needs is not None and attack.forward < 1:
            raise InputError(
                f"attack {type(attack).__name__}: expected a class that declares how many forward passes an "
                f"image takes, got forward={attack.forward}; set forward (and backward) in its constructor"
            )
        if attack.needs is not None and ANSWERS.index(attack.needs) > ANSWERS.index(self.gives):
            most = self.gives if self.gives == "everything" else f"a {self.gives}"
            needed = attack.needs if attack.needs == "everything" else f"a {attack.needs}"
            raise UnsuitedError(
                f"attack {type(attack).__name__} needs {needed}, knowledge {type(self).__name__} "
                f"gives {most} at most: take an attack that needs no more, or other knowledge"
                + (" (knowledge=everything)" if needed == "everything" else "")
            )

    def target(
        self,
        victim: nn.Module,
        purifier: Purifier | None,
        others: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        batch: int | None = None,
        recompute: bool = False,
        device: torch.device | str = "cpu",
    ) -> Target:
        """Return the attack's target; `seeds` has one seed for each image, for the defense's draws."""
        return Target(
            self.view(victim, purifier, others),
            seeds=seeds,
            eot=self.eot,
            fixed=self.known_draw,
            gives=self.gives,
            batch=batch,
            recompute=recompute,
            device=device,
        )


class Blind(Knowledge):
    """Knowledge of the victim with its weights, but of no purifier (the papers' white-box or gray-box)."""

    version = 1
    kind = "blind"
    uses_purifier = False

    def view(self, victim: nn.Module, purifier: Purifier | None, others: Sequence[nn.Module]) -> View:
        """Return the undefended victim."""
        return lambda images, seeds: victim(images)


class Transfer(Knowledge):
    """Knowledge of other classifiers, but of neither the victim nor the purifier (Liu et al. 2017,
    https://arxiv.org/abs/1611.02770).

    The config's `victims` names them.

    Args:
        average: what is averaged over the classifiers: "logits" or, as in the paper, "probabilities". For the
            latter the answer is the logarithm of the mean probability, which a softmax turns back into it.
    """

    version = 1
    kind = "transfer"
    uses_purifier = False
    uses_victim = False

    def __init__(self, *, average: Literal["logits", "probabilities"] = "logits") -> None:
        if average not in ("logits", "probabilities"):
            raise InputError(f"knowledge.average: expected logits or probabilities, got {average!r}")
        self.average = average

    def view(self, victim: nn.Module, purifier: Purifier | None, others: Sequence[nn.Module]) -> View:
        """Return the mean of the other classifiers."""
        if not others:
            raise InputError("knowledge.victims: expected at least one classifier to attack, got none")
        if self.average == "logits":
            return lambda images, seeds: torch.stack([other(images) for other in others]).mean(0)
        log_count = math.log(len(others))
        return lambda images, seeds: (
            torch.stack([other(images).log_softmax(1) for other in others]).logsumexp(0) - log_count
        )


class WholeDefense(Knowledge):
    """Knowledge of purifier and victim, with fresh draws for every answer unless the draw is known."""

    def __init__(self, *, eot: int = 1, known_draw: bool = False) -> None:
        if eot < 1 or (known_draw and eot > 1):
            raise InputError(f"knowledge.eot: expected at least 1 draw, 1 if it is known, got {eot}")
        self.eot, self.known_draw = eot, known_draw

    def view(self, victim: nn.Module, purifier: Purifier | None, others: Sequence[nn.Module]) -> View:
        """Return the defense as it is."""
        return lambda images, seeds: victim(purifier(images, seeds=seeds, victim=victim))

    def check(self, attack: Attack, purifier: Purifier) -> None:
        """Raise UnsuitedError for several draws of a defense that draws nothing: they would be equal."""
        super().check(attack, purifier)
        if self.eot > 1 and not purifier.stochastic:
            raise UnsuitedError(
                f"knowledge.eot: {type(purifier).__name__} draws nothing, so its {self.eot} draws would be "
                "equal: expected eot=1"
            )


class BPDA(WholeDefense):
    """Backward pass differentiable approximation: Athalye et al. 2018, https://arxiv.org/abs/1802.00420.

    advertorch's BPDAWrapper runs the purifier in the forward pass, and a substitute in the backward pass.

    Args:
        substitute: module whose gradient replaces the purifier's. None is the identity or, for a purifier
            that enlarges, enlargement, whose backward pass is down-sampling.
        eot: number of draws over which each gradient is averaged.
    """

    version = 1
    kind = "bpda"

    def __init__(
        self, *, substitute: nn.Module | None = None, eot: int = 1, known_draw: bool = False
    ) -> None:
        super().__init__(eot=eot, known_draw=known_draw)
        self.substitute = substitute

    def view(self, victim: nn.Module, purifier: Purifier | None, others: Sequence[nn.Module]) -> View:
        """Return the defense with the gradient of the substitute."""

        def answer(images: Tensor, seeds: Sequence[int]) -> Tensor:
            module = self.substitute or (nn.Identity() if purifier.scale == 1 else _enlarged(purifier.scale))
            purified = BPDAWrapper(
                lambda rows: purifier(rows.detach(), seeds=seeds, victim=victim),
                forwardsub=module,
            )
            return victim(purified(images))

        return answer


class Full(WholeDefense):
    """The exact gradient through the purifier, for purifiers that declare it."""

    version = 2
    kind = "full"

    def check(self, attack: Attack, purifier: Purifier) -> None:
        """Raise UnsuitedError for purifiers through which autograd is not exact."""
        super().check(attack, purifier)
        if purifier.gradient != "exact":
            raise UnsuitedError(
                f"knowledge full: expected a purifier whose gradient is exact, {type(purifier).__name__} "
                f"declares {purifier.gradient!r}; take knowledge=bpda"
            )


class Score(WholeDefense):
    """Queries to the whole defense, which are answered with logits."""

    version = 1
    kind = "score"
    gives = "score"


class Decision(WholeDefense):
    """Queries to the whole defense, which are answered with the class that most draws decide on."""

    version = 2
    kind = "decision"
    gives = "decision"


def _enlarged(scale: int) -> nn.Module:
    return nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
