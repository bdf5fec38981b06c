"""An attack that adapts itself to the defense: an ensemble whose members follow from the purifier's traits.

It is for defenses that draw at random or are fitted at test time what AutoAttack is for the others; for
deterministic defenses with an exact gradient it takes AutoAttack's four members. The protocol follows Tramer
et al. 2020 (https://arxiv.org/abs/2002.08347) and Croce et al. 2022 (https://arxiv.org/abs/2202.13711):
several estimates of the gradient, several losses, searches that need no gradient, and the worst case of each
image.
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
MOST_FORWARD, MOST_BACKWARD = 20_000, 10_000  # of the standard budgets; which one it is, the purifier decides
SMALLER = 0.95  # by which steps shrink until a budget is kept


class Adaptive(Attack):
    """Each member attacks what the members before it left standing; the worst example of an image counts.

    An example is judged by fresh draws of the whole defense: how many of them it misleads. An image whose
    example misleads all of them is attacked no more. Otherwise the image goes on to the next member, and an
    example that misleads more draws takes the place of the one before it. None of these draws is scored.

    The notes of each image say which member found its example ("by"), the share of the draws that it misled
    ("misled"), and for each member that attacked the image its passes, what it came to, and how its gradients
    through the fit came about.

    Args:
        budget: forward passes of the defense that an image may take, with as many steps of each member as
            that pays; None for the standard budget. A table names an attack with a budget by it.
    """

    version = 1
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
        # `craft` replaces these by what the members take that suit the purifier.
        self.forward, self.backward = budget or MOST_FORWARD, MOST_BACKWARD
        self.reduced = f"budget {budget}" if budget else ""

    @property
    def budget_told(self) -> str:
        """The passes of an image that stands to the end; known once the defense is."""
        return (
            f"a budget of {self.forward:,} forward and {self.backward:,} backward passes of the defense for "
            f"an image{f', of which attack.budget={self.budget} was asked' if self.budget else ''}"
        )

    def plan(self, purifier: Purifier, logits: Tensor, labels: Tensor) -> list[Member]:
        """Return the members, with as many steps as the budget allows.

        Raises InputError for a budget that does not pay a step of each.
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
        """For each image the example that misled most draws; the image itself if none misled any."""
        defense = model.target
        if not isinstance(defense, OpenDefense):
            raise InputError("attack adaptive: expected the whole defense, take knowledge=everything")
        judging = judging_draws(defense.purifier)
        misled, logits = _judged(model, images, labels, judging)
        members = self.plan(defense.purifier, logits, labels)
        self.forward, self.backward = cost(members, judging)
        made, by = images.clone(), [ITSELF if share == 1 else "" for share in misled.tolist()]
        of_members: list[list[dict[str, Any]]] = [[] for _ in by]
        seconds: list[dict[str, float]] = [{} for _ in by]
        for number, member in enumerate(members, start=1):
            standing = (misled < 1).nonzero().flatten()
            if not len(standing):
                break
            self.activity = f"member {number} of {len(members)}: {member.name} on {len(standing)} images"
            places, begun = standing.tolist(), time.perf_counter()
            before = [_passes(model, place) for place in places]
            seen = defense.through(member.knowledge)
            rows = Rows(seen, model.generators, [model.owners[place] for place in places], model.device)
            reached = torch.zeros_like(misled[standing])
            for found in member.search(rows, images[standing], labels[standing], standing):
                share, _ = _judged(model.take(standing), found, labels[standing], judging)
                better = share > misled[standing]
                made[standing] = torch.where(each(better, images), found, made[standing])
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
                of_members[place].append(note | seen.told(model.owners[place]))
                seconds[place][member.name] = spent
        notes = [
            {
                "by": name,
                "misled": share,
                "judged": judging,
                "budget": [self.forward, self.backward],
                "planned": [member.name for member in members],
                "members": of_image,
            }
            for name, share, of_image in zip(by, misled.tolist(), of_members, strict=True)
        ]
        return Crafted(made, notes=notes, seconds=seconds)


def _judged(rows: Rows, images: Tensor, labels: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """(N,) the share of fresh draws of the defense that are misled; (N, classes) the logits of the first."""
    owners = [owner for owner in rows.owners for _ in range(draws)]
    with torch.no_grad():
        logits = rows.target.ask(images.repeat_interleave(draws, 0), owners).unflatten(0, (-1, draws))
    wrong = logits.argmax(2) != labels.unsqueeze(1)
    return wrong.double().mean(1), logits[:, 0]


def _passes(rows: Rows, place: int) -> tuple[int, int]:
    count = rows.target.counts[rows.owners[place]]
    return count.forward, count.backward
