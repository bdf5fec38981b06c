"""APGD and AutoAttack: Croce and Hein 2020, https://arxiv.org/abs/2003.01690, of torchattacks' parts."""

from typing import Literal

import torch
import torchattacks
from torch import Tensor, nn

from attacks.attack import Attack, check_eps
from data.errors import InputError

NAMES = {"linf": "Linf", "l2": "L2"}  # in torchattacks
TARGETS = 9  # of the targeted attacks, at most


class APGD(Attack):
    """Projected gradient descent whose step size halves where it gets no further.

    Args:
        loss: "ce" or "dlr" (which needs three classes and more).
        restarts: each from another random start, for images that still stand.
        rho: share of steps that must improve for the step size to stay.
    """

    version = 1
    batch_coupled = True
    may_return_image = True

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        norm: Literal["linf", "l2"] = "linf",
        steps: int = 100,
        loss: Literal["ce", "dlr"] = "ce",
        restarts: int = 1,
        rho: float = 0.75,
    ) -> None:
        self.eps, self.norm = check_eps(eps, norm), norm
        if steps < 1 or restarts < 1 or loss not in ("ce", "dlr"):
            raise InputError(
                "attack: expected steps >= 1, restarts >= 1 and a loss of ce, dlr, "
                f"got steps={steps} restarts={restarts} loss={loss}"
            )
        self.steps, self.loss, self.restarts, self.rho = steps, loss, restarts, rho
        self.forward, self.backward = restarts * (steps + 1) + 1, restarts * (steps + 1)

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Steps along the gradient's sign, or the gradient, with momentum."""
        attack = torchattacks.APGD(
            model,
            norm=NAMES[self.norm],
            eps=self.eps,
            steps=self.steps,
            n_restarts=self.restarts,
            loss=self.loss,
            rho=self.rho,
        )
        return attack(images, labels)


class AutoAttack(Attack):
    """The standard ensemble with its official budgets: APGD-CE, targeted APGD-DLR and targeted FAB of 100
    steps each, Square of 5,000 queries; each attacks what the ones before it left standing.

    torchattacks' own composition has other budgets (10 steps), so this composes its parts. Targeted
    attacks need more than three classes.

    Args:
        steps, queries_of_square: for smaller budgets; a table must then not call it AutoAttack.
    """

    version = 1
    batch_coupled = True
    may_return_image = True

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        norm: Literal["linf", "l2"] = "linf",
        steps: int = 100,
        queries_of_square: int = 5000,
    ) -> None:
        self.eps, self.norm = check_eps(eps, norm), norm
        if steps < 1 or queries_of_square < 1:
            raise InputError(
                f"attack: expected steps >= 1 and queries_of_square >= 1, got {steps}, {queries_of_square}"
            )
        self.steps, self.queries_of_square = steps, queries_of_square
        # Where the image stands to the end: what each part asks, and whether it found something.
        self.forward = (3 * TARGETS + 1) * steps + 5 * TARGETS + 12 + queries_of_square
        self.backward = (2 * TARGETS + 1) * steps + TARGETS + 1

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The first adversarial example that any of the parts finds; else the image."""
        with torch.no_grad():
            logits = model(images)
        classes, within = logits.shape[1], {"norm": NAMES[self.norm], "eps": self.eps}
        if classes <= 3:
            raise InputError(f"attack AutoAttack: expected more than 3 classes, got {classes}")
        if (logits.argmax(1) != labels).all():
            return images
        targets = {"n_classes": min(classes, TARGETS + 1)}
        parts = (
            torchattacks.APGD(model, steps=self.steps, loss="ce", **within),
            torchattacks.APGDT(model, steps=self.steps, **targets, **within),
            torchattacks.FAB(model, steps=self.steps, multi_targeted=True, **targets, **within),
            torchattacks.Square(model, n_queries=self.queries_of_square, resc_schedule=False, **within),
        )
        for part in parts:
            made = part(images, labels).detach()
            with torch.no_grad():
                if (model(made).argmax(1) != labels).all():
                    return made
        return images
