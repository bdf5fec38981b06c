"""An attack that adapts itself to the defense: an ensemble whose members follow from the purifier's traits.

It plays the role of AutoAttack for defenses that draw at random or are fitted at test time; for deterministic
defenses with an exact gradient, AutoAttack's four members are among its own. The protocol follows Tramer et
al. 2020 (https://arxiv.org/abs/2002.08347) and Croce et al. 2022 (https://arxiv.org/abs/2202.13711): several
estimates of the gradient, several losses, searches that need no gradient, and the worst case of each image.
"""

import time
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.attack import Attack, Crafted, check_eps
from attacks.members import Ensemble, Member, cost, judging_draws
from attacks.open_defense import OpenDefense
from attacks.rows import Rows, each
from data.errors import InputError
from purifiers.purifier import Purifier

ITSELF = "the image itself"
MOST_FORWARD, MOST_BACKWARD = 20_000, 10_000  # bounds of the standard budgets, which depend on the purifier
SMALLER = 0.95  # factor by which the number of steps shrinks until a budget is kept


class Adaptive(Attack):
    """An ensemble in which each member attacks the images that resisted the members before it; the worst
    example of an image counts.

    An example is judged by the number of fresh draws of the whole defense that it misleads. An image whose
    example misleads all of them is not attacked further. Otherwise the image goes on to the next member, and
    an example that misleads more draws replaces the one before it. None of these draws is scored.

    The notes of each image say which member found its example ("by"), the share of the draws that it misled
    ("misled"), and for each member that attacked the image its passes, the share that it misled, and the
    diagnosis of its gradients through the fit.

    Args:
        budget: forward passes of the defense that an image may take, which sets the number of steps of each
            member; None for the standard budget. A table adds the budget to the name of the attack.
    """

    version = 2
    needs = "everything"
    by_rows = True
    stops_early = True
    may_return_image = True

    def __init__(
        self, *, eps: float = 8 / 255, norm: Literal["linf", "l2"] = "linf", budget: int | None = None
    ) -> None:
        self.eps, self.norm, self.budget = check_eps(eps, norm), norm, budget
        if budget is not None and (not isinstance(budget, int) or budget < 1):
            raise InputError(f"attack.budget: expected null or at least 1 forward pass, got {budget!r}")
        # `craft` replaces these by the passes of the members that suit the purifier.
        self.forward, self.backward = budget or MOST_FORWARD, MOST_BACKWARD
        self.reduced = f"budget {budget}" if budget else ""

    @property
    def budget_told(self) -> str:
        """The passes of an image that resists all members, as text; exact once the defense is known."""
        return (
            f"a budget of {self.forward:,} forward and {self.backward:,} backward passes of the defense for "
            f"an image{f', of which attack.budget={self.budget} was asked' if self.budget else ''}"
        )

    def plan(self, purifier: Purifier, logits: Tensor, labels: Tensor) -> list[Member]:
        """Return the members, with as many steps as the budget allows.

        Raises InputError if the budget does not suffice for one step of each member.
        """
        judging, share = judging_draws(purifier), 1.0
        while True:
            ensemble = Ensemble(self.eps, self.norm, share, draws=purifier.stochastic)
            members = ensemble.members(purifier, logits, labels)
            forward, _ = cost(members, judging)
            if self.budget is None or forward <= self.budget:
                return members
            smaller = Ensemble(self.eps, self.norm, 0.0, draws=purifier.stochastic)
            least, _ = cost(smaller.members(purifier, logits, labels), judging)
            if least > self.budget:
                raise InputError(
                    f"attack.budget: expected at least the {least} forward passes of one step of each of the "
                    f"{len(members)} members for {type(purifier).__name__}, got {self.budget}"
                )
            share *= SMALLER

    def craft(self, model: Rows, images: Tensor, labels: Tensor) -> Crafted:
        """Return for each image the example that misled most draws, or the image if none misled any."""
        defense = model.target
        if not isinstance(defense, OpenDefense):
            raise InputError("attack adaptive: expected the whole defense, take knowledge=everything")
        judging = judging_draws(defense.purifier)
        misled, logits = _judged(model, images, labels, judging)
        members = self.plan(defense.purifier, logits, labels)
        self.forward, self.backward = cost(members, judging)
        adversarial, by = images.clone(), [ITSELF if share == 1 else "" for share in misled.tolist()]
        member_notes: list[list[dict[str, Any]]] = [[] for _ in by]
        seconds: list[dict[str, float]] = [{} for _ in by]
        for number, member in enumerate(members, start=1):
            standing = (misled < 1).nonzero().flatten()
            if not len(standing):
                break
            self.activity = f"member {number} of {len(members)}: {member.name} on {len(standing)} images"
            places, begun = standing.tolist(), time.perf_counter()
            before = [_passes(model, place) for place in places]
            target = defense.through(member.knowledge)
            rows = Rows(target, model.generators, [model.owners[place] for place in places], model.device)
            reached = torch.zeros_like(misled[standing])
            for candidates in member.search(rows, images[standing], labels[standing], standing):
                share, _ = _judged(model.take(standing), candidates, labels[standing], judging)
                better = share > misled[standing]
                adversarial[standing] = torch.where(each(better, images), candidates, adversarial[standing])
                misled[standing] = torch.maximum(share, misled[standing])
                reached = torch.maximum(reached, share)
                for place in standing[better].tolist():
                    by[place] = member.name
            spent = (time.perf_counter() - begun) / len(places)
            for place, passes, share in zip(places, before, reached.tolist(), strict=True):
                forward, backward = (
                    now - then for now, then in zip(_passes(model, place), passes, strict=True)
                )
                note = {"member": member.name, "misled": share, "forward": forward, "backward": backward}
                member_notes[place].append(note | target.told(model.owners[place]))
                seconds[place][member.name] = spent
        notes = [
            {
                "by": name,
                "misled": share,
                "judged": judging,
                "budget": [self.forward, self.backward],
                "planned": [member.name for member in members],
                "members": image_notes,
            }
            for name, share, image_notes in zip(by, misled.tolist(), member_notes, strict=True)
        ]
        return Crafted(adversarial, notes=notes, seconds=seconds)


def _judged(rows: Rows, images: Tensor, labels: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Return the (N,) shares of fresh draws of the defense that are misled, and the first draw's logits."""
    owners = [owner for owner in rows.owners for _ in range(draws)]
    with torch.no_grad():
        logits = rows.target.ask(images.repeat_interleave(draws, 0), owners).unflatten(0, (-1, draws))
    wrong = logits.argmax(2) != labels.unsqueeze(1)
    return wrong.double().mean(1), logits[:, 0]


def _passes(rows: Rows, place: int) -> tuple[int, int]:
    count = rows.target.counts[rows.owners[place]]
    return count.forward, count.backward
