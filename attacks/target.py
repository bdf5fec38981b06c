"""What an attack sees of a defense: one object that answers, counts, and stops at the budget."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import checkpoint

from data.memory import within_memory
from purifiers.fitting.unrolled import Diagnosis

ROUNDING = 1e-6  # so far attacks' own resizing and sums leave [0, 1], where purifiers take nothing else

Answer = Literal["decision", "score", "gradient", "everything"]
View = Callable[[Tensor, Sequence[int]], Tensor]  # images and one seed an image to logits


class AttackError(RuntimeError):
    """An attack broke its budget or its range, met what is no number, or never began; its cell fails."""


class BudgetSpentError(Exception):
    """An image has no queries left; the attack goes with what it has."""


@dataclass
class Counts:
    """Of one image: calls as the attacker counts them, passes, and backward passes that gave zero."""

    queries: int = 0
    forward: int = 0
    backward: int = 0
    zero: int = 0


class Target(nn.Module):
    """Images (N, C, H, W) in [0, 1] to logits (N, classes), as far as the attacker knows the defense.

    Every answer about an image draws afresh, from that image's own seed and the number of the draw, so that
    neither the batch nor other images change it. Row i of a direct call is image i; `ask` takes any rows.

    Args:
        view: what the attacker can evaluate, see attacks/knowledge.py.
        seeds: one an image, for what the view draws.
        eot: draws that each answer is the mean of, and each gradient with it (expectation over
            transformation, Athalye et al. 2018, https://arxiv.org/abs/1707.07397: here of the logits).
        fixed: every answer has the same draw, that of `seeds` themselves.
        gives: "gradient" for logits that have one, "score" for logits, "decision" for the class alone, as
            one-hot logits. "everything" is for attacks/open_defense.py.
        batch: rows that the view is given at once; all of them where None. Halved where memory runs out.
        recompute: forget what the gradient needs of each batch, and compute it anew in the backward pass, so
            that memory holds one batch at a time. An answer with a gradient then takes one pass more.
        device: where the view computes.
    """

    def __init__(
        self,
        view: View,
        *,
        seeds: Sequence[int],
        eot: int = 1,
        fixed: bool = False,
        gives: Answer = "gradient",
        batch: int | None = None,
        recompute: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.view, self.seeds, self.eot, self.gives, self.batch = view, list(seeds), eot, gives, batch
        self.fixed, self.recompute = fixed, recompute
        self.budget: int | None = None  # queries an image has, where the attack sets a limit
        self.before_answering: Callable[[], None] | None = None  # called at each question
        self.counts = [Counts() for _ in self.seeds]
        # For each image, of each gradient through a fit: the adjoint norms and the cosines by steps.
        self.diagnoses: list[list[tuple[list[float], list[float]]]] = [[] for _ in self.seeds]
        self.owner_of: dict[int, int] = {}  # the image whose answer was drawn from a seed
        # Attack libraries ask a model's parameters where it lives.
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of all images in their order."""
        if len(images) != len(self.seeds):
            raise ValueError(
                f"expected all {len(self.seeds)} images in their order, got {len(images)} rows: "
                "an attack that picks among its images must say `batch_coupled = True`"
            )
        owners = range(len(images))
        rows = images.view_as(images)
        logits = self.ask(rows, owners)
        if logits.requires_grad:
            rows.register_hook(lambda gradient: self.count_gradient(gradient, owners))
        return logits

    def affords(self, owner: int, rows: int) -> bool:
        """Return whether the image has this many queries left."""
        return self.budget is None or self.counts[owner].queries + rows <= self.budget

    def ask(self, images: Tensor, owners: Sequence[int]) -> Tensor:
        """Logits of rows that belong to the images `owners`; differentiable where the view is.

        Raises BudgetSpentError, having asked nothing, where an owner cannot afford its rows; AttackError
        where rows are no images or answers no numbers: a sign or a maximum of NaN would pass for robustness.
        """
        if not all(self.affords(owner, rows) for owner, rows in Counter(owners).items()):
            raise BudgetSpentError
        if self.before_answering is not None:
            self.before_answering()
        seeds = []
        for owner in owners:
            counts = self.counts[owner]
            own, first = self.seeds[owner], counts.forward
            drawn = [own if self.fixed else draw_seed(own, first + draw) for draw in range(self.eot)]
            self.owner_of |= dict.fromkeys(drawn, owner)
            seeds += drawn
            counts.queries += 1
            counts.forward += self.eot
        rows = _within_range(images.to(self.place.device))
        low, high = rows.detach().aminmax() if len(rows) else (0.0, 1.0)
        if not (low >= 0 and high <= 1):
            raise AttackError(f"expected questions about images in [0, 1], got values in [{low:g}, {high:g}]")
        rows = rows.repeat_interleave(self.eot, 0) if self.eot > 1 else rows
        size = self.batch or len(rows)
        differentiable = self.gives in ("gradient", "everything") and torch.is_grad_enabled()
        # An attack's randomness is not the defense's.
        with _disable_current_modes(), torch.set_grad_enabled(differentiable):
            parts, fitting = within_memory(
                lambda part: self._viewed(rows[part], seeds[part]), len(rows), size
            )
            if fitting < size:
                self.batch = fitting
            logits = torch.cat(parts) if len(parts) > 1 else parts[0]
            if not torch.isfinite(logits).all():  # a decision would make a class of NaN
                raise AttackError("expected finite logits of the defense under attack, got NaN or infinity")
            if self.gives == "decision":
                logits = _decided(logits, images.dtype)
            if self.eot > 1:
                logits = logits.unflatten(0, (-1, self.eot)).mean(1)
        if self.gives == "decision":
            logits = _decided(logits, images.dtype)
        return logits.to(images.device)

    def _viewed(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the view's answer about some rows."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self.view(rows, seeds)

        def answer(rows: Tensor) -> Tensor:  # in the backward pass the attack's modes are active again
            with _disable_current_modes():
                return self.view(rows, seeds)

        return checkpoint(answer, rows, use_reentrant=False, preserve_rng_state=False)

    def note(self, seeds: Sequence[int], diagnosis: Diagnosis) -> None:
        """Keep how the gradients of answers drawn from these seeds came about."""
        rows = zip(diagnosis.adjoint.tolist(), diagnosis.cosine.tolist(), strict=True)
        for seed, row in zip(seeds, rows, strict=True):
            self.diagnoses[self.owner_of[seed]].append(row)

    def told(self, owner: int) -> dict[str, list[float]]:
        """How the image's gradients through a fit came about: the means over all of them of the adjoint norms
        and of the cosines to BPDA's gradient, by the number of last steps; empty if there were none."""
        if not (pairs := self.diagnoses[owner]):
            return {}
        adjoint, cosine = (torch.tensor([one[i] for one in pairs], dtype=torch.float64) for i in (0, 1))
        means = {"adjoint": adjoint.mean(0), "cosine": cosine.nanmean(0).nan_to_num(0.0)}
        return {name: [float(f"{value:.4g}") for value in mean.tolist()] for name, mean in means.items()}

    def count_gradient(self, gradient: Tensor, owners: Sequence[int]) -> None:
        """A gradient was taken with respect to rows of `owners`. Raises AttackError where it is no number."""
        if not torch.isfinite(gradient).all():
            raise AttackError("expected a finite gradient of the defense, got NaN or infinity")
        for owner, zero in zip(owners, (gradient == 0).flatten(1).all(1).tolist(), strict=True):
            self.counts[owner].backward += self.eot
            self.counts[owner].zero += self.eot * zero


def _decided(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the best class alone."""
    return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(dtype)


def _within_range(images: Tensor) -> Tensor:
    """The images, those values clipped that left [0, 1] by rounding; the gradient is the images' own."""
    outside = (images - images.clamp(0, 1)).detach()
    return images - outside.where(outside.abs() <= ROUNDING, 0.0)


def draw_seed(seed: int, draw: int) -> int:
    """Return the seed of one draw of an image."""
    digest = hashlib.blake2b(f"{seed}/{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
