"""The target of an attack: an object that answers for a defense, counts, and stops at the budget."""

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

ROUNDING = 1e-6  # attacks' own resizing and sums may leave [0, 1] by this much, which purifiers do not accept

Answer = Literal["decision", "score", "gradient", "everything"]
View = Callable[[Tensor, Sequence[int]], Tensor]  # maps images and one seed for each image to logits


class AttackError(RuntimeError):
    """Raised if an attack exceeds its budget or range, meets NaN or infinity, or cannot start."""


class BudgetSpentError(Exception):
    """Raised if an image has no queries left; the attack ends with its best result so far."""


@dataclass
class Counts:
    """The counts of one image: the attacker's queries, passes, and backward passes whose gradient was 0."""

    queries: int = 0
    forward: int = 0
    backward: int = 0
    zero: int = 0


class Target(nn.Module):
    """A map from images (N, C, H, W) in [0, 1] to logits (N, classes), by what the attacker knows.

    Every answer about an image has a fresh draw, from that image's own seed and the number of the draw, so
    that neither the batch nor other images change it. In a direct call row i is image i; `ask` takes any
    rows.

    Args:
        view: the part of the defense that the attacker can evaluate, see attacks/knowledge.py.
        seeds: one seed for each image, for the draws of the view.
        eot: number of draws over which each answer and its gradient are averaged (expectation over
            transformation, Athalye et al. 2018, https://arxiv.org/abs/1707.07397: here of the logits).
        fixed: whether every answer has the same draw, that of `seeds` themselves.
        gives: "gradient" for logits with a gradient, "score" for logits, "decision" for the class alone, as
            one-hot logits. "everything" is for attacks/open_defense.py.
        batch: number of rows that the view gets at once; None for all. It is halved if memory runs out.
        recompute: whether the backward pass computes again what the gradient needs of each batch, so that
            memory holds one batch at a time. An answer with a gradient then takes one pass more.
        device: device on which the view computes.
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
        self.budget: int | None = None  # queries for each image, if the attack sets a limit
        self.before_answering: Callable[[], None] | None = None  # called at each question
        self.counts = [Counts() for _ in self.seeds]
        # For each image, the adjoint norms and the cosines by steps of each gradient through a fit.
        self.diagnoses: list[list[tuple[list[float], list[float]]]] = [[] for _ in self.seeds]
        # The image whose answer was drawn from a seed; None unless the view notes diagnoses, since an attack
        # asks millions of times.
        self.owner_of: dict[int, int] | None = None
        # Attack libraries read a model's device from its parameters.
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
        """Return logits of rows that belong to the images `owners`; they are differentiable if the view is.

        Raises BudgetSpentError before any query if an owner cannot afford its rows. Raises AttackError if
        rows are not images or logits are not finite: a sign or a maximum of NaN would look like robustness.
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
            if self.owner_of is not None:
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
        # The defense does not use the attack's randomness.
        with _disable_current_modes(), torch.set_grad_enabled(differentiable):
            parts, fitting = within_memory(
                lambda part: self._viewed(rows[part], seeds[part]), len(rows), size
            )
            if fitting < size:
                self.batch = fitting
            logits = torch.cat(parts) if len(parts) > 1 else parts[0]
            if not torch.isfinite(logits).all():  # a decision would turn NaN into a class
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
        """Record the diagnosis of the gradients of answers that were drawn from these seeds."""
        rows = zip(diagnosis.adjoint.tolist(), diagnosis.cosine.tolist(), strict=True)
        for seed, row in zip(seeds, rows, strict=True):
            self.diagnoses[self.owner_of[seed]].append(row)

    def told(self, owner: int) -> dict[str, list[float]]:
        """Return the mean diagnosis of the image's gradients through a fit; empty if there were none.

        It has the growth of the adjoint and the cosines to BPDA's gradient, by the number of last steps.
        """
        if not (pairs := self.diagnoses[owner]):
            return {}
        growth, cosine = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float64) for i in (0, 1))
        means = {"growth": growth.mean(0), "cosine": cosine.nanmean(0).nan_to_num(0.0)}
        return {name: [float(f"{value:.4g}") for value in mean.tolist()] for name, mean in means.items()}

    def count_gradient(self, gradient: Tensor, owners: Sequence[int]) -> None:
        """Count a gradient with respect to rows of `owners`; raise AttackError if it is not finite."""
        if not torch.isfinite(gradient).all():
            raise AttackError("expected a finite gradient of the defense, got NaN or infinity")
        for owner, zero in zip(owners, (gradient == 0).flatten(1).all(1).tolist(), strict=True):
            self.counts[owner].backward += self.eot
            self.counts[owner].zero += self.eot * zero


def _decided(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one-hot logits of the best class."""
    return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(dtype)


def _within_range(images: Tensor) -> Tensor:
    """Clip values that left [0, 1] by rounding; the gradient is that of the images themselves."""
    outside = (images - images.clamp(0, 1)).detach()
    return images - outside.where(outside.abs() <= ROUNDING, 0.0)


def draw_seed(seed: int, draw: int) -> int:
    """Return the seed of one draw of an image."""
    digest = hashlib.blake2b(f"{seed}/{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
