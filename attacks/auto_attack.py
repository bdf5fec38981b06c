"""AutoAttack: Croce and Hein 2020, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, https://arxiv.org/abs/2003.01690.

Images are (N, C, H, W) in [0, 1].
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from attacks import apgd, fab, square
from attacks.attack import Attack, check_eps
from attacks.losses import LOSSES, targeted_difference_of_logits_ratio
from attacks.rows import Attempt, Found, Rows, in_turn
from data.errors import InputError

TARGETS = 9  # largest number of target classes, which are the likeliest ones other than the label


class AutoAttack(Attack):
    """The standard ensemble with its official budgets: APGD-CE, targeted APGD-DLR and targeted FAB with 100
    steps each, and Square with 5,000 queries. Each part attacks the images that resisted the parts before it.

    A part's adversarial example counts only if one more answer confirms it, since a defense that draws may
    have answered wrongly by chance. The targets follow from the first answer about the image. Targeted
    attacks need more than three classes.

    Args:
        steps, queries_of_square: smaller budgets; a table must then not call the attack AutoAttack.
    """

    version = 4
    by_rows = True
    stops_early = True
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
        confirmations = 4  # one for each part that seems to succeed
        self.forward = 1 + sum(forward for forward, _ in self.passes.values()) + confirmations
        self.backward = sum(backward for _, backward in self.passes.values())

    @property
    def passes(self) -> dict[str, tuple[int, int]]:
        """The largest numbers of forward and backward passes for an image, by the names of the parts."""
        climb = self.steps + 1
        return {
            "APGD-CE": (climb, climb),
            "APGD-T": (TARGETS * climb, TARGETS * climb),
            "FAB-T": (TARGETS * 2 * self.steps, TARGETS * self.steps),
            "Square": (self.queries_of_square, 0),
        }

    def craft(self, model: Rows, images: Tensor, labels: Tensor) -> Tensor:
        """Return the first adversarial example that any of the parts finds, or else the image."""
        logits = model.logits(images)
        standing = (logits.argmax(1) == labels).nonzero().flatten()
        result = in_turn(
            [self._confirmed(name, part) for name, part in self.parts(logits, labels).items()],
            model.take(standing),
            images[standing],
            labels[standing],
            standing,
        )
        adversarial = images.clone()
        adversarial[standing] = result.images
        return adversarial

    def parts(self, logits: Tensor, labels: Tensor) -> dict[str, Attempt]:
        """Return the four parts in order, by name, for a whole batch with these logits (N, classes).

        Raises InputError for three classes or fewer.
        """
        if logits.shape[1] <= 3:
            raise InputError(f"attack AutoAttack: expected more than 3 classes, got {logits.shape[1]}")
        others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
        order = others.sort(dim=1, descending=True, stable=True).indices
        targets = order[:, : min(TARGETS, logits.shape[1] - 1)].unbind(1)
        return {
            "APGD-CE": self._climb_cross_entropy,
            "APGD-T": _one_after_another([self._climb_towards(classes) for classes in targets]),
            "FAB-T": _one_after_another([self._approach(classes) for classes in targets]),
            "Square": self._search,
        }

    def _confirmed(self, name: str, attempt: Attempt) -> Attempt:
        """Return this attempt with only those results that another answer of the defense confirms."""

        def confirmed(rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> Found:
            self.activity = f"{name} on {len(images)} images"
            result = attempt(rows, images, labels, places)
            fell = result.fell.nonzero().flatten()
            if len(fell):
                again = rows.take(fell).logits(result.images[fell]).argmax(1) != labels[fell]
                result.fell[fell] = again
            return result

        return confirmed

    def _climb_cross_entropy(self, rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> Found:
        return self._climb(rows, images, labels, lambda logits: LOSSES["ce"](logits, labels))

    def _climb_towards(self, classes: Tensor) -> Attempt:
        """Return an attempt by targeted APGD; `classes` are the targets of the whole batch."""

        def attempt(rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> Found:
            targets = classes[places]
            return self._climb(
                rows,
                images,
                labels,
                lambda logits: targeted_difference_of_logits_ratio(logits, labels, targets),
            )

        return attempt

    def _climb(self, rows: Rows, images: Tensor, labels: Tensor, loss: Callable[[Tensor], Tensor]) -> Found:
        run = {"eps": self.eps, "norm": self.norm, "steps": self.steps}
        return apgd.ascend(rows, images, labels, loss=loss, **run).found

    def _approach(self, classes: Tensor) -> Attempt:
        """Return an attempt by targeted FAB; `classes` are the targets of the whole batch."""
        run = {"eps": self.eps, "norm": self.norm, "steps": self.steps}
        return lambda rows, images, labels, places: fab.approach(rows, images, labels, classes[places], **run)

    def _search(self, rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> Found:
        run = {"eps": self.eps, "norm": self.norm, "queries": self.queries_of_square}
        return square.random_search(rows, images, labels, **run).found


def _one_after_another(attempts: list[Attempt]) -> Attempt:
    """Return several attempts as a single one."""
    return lambda *batch: in_turn(attempts, *batch)
