"""The base class of all attacks, and the one call through which they are used."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from attacks.lockstep import lockstep
from attacks.randomness import per_image_randomness
from attacks.rows import Rows
from attacks.target import Answer, AttackError, Target
from data.errors import InputError
from data.images import check_images, standard_layout

TOLERANCE = 1e-6  # of [0, 1] and of the ball's radius (relative if it is above 1), for float32 rounding

Path = list[tuple[int, float]]  # numbers of queries, and the distance of the example found by then


@dataclass
class Crafted:
    """Adversarial examples, with the attack's notes on each.

    Attributes:
        images: adversarial examples (N, C, H, W).
        paths: the path towards each example, for attacks that search for the nearest one.
        notes: details of the attack on each image as JSON values, see attacks/adaptive.py and
            Target.diagnoses.
        seconds: the time that each member of an ensemble took, by its name.
    """

    images: Tensor
    paths: list[Path] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)


class Attack(ABC):
    """A map from images and labels to adversarial examples of the same shape, float32 in [0, 1].

    Attributes:
        version: number that is raised on any change of behaviour.
        needs: the answers that the attack needs: "everything" (it chooses its own ways to use the defense),
            "gradient", "score" (logits), "decision" (the class), or None if it asks nothing.
        may_return_image: whether the result is the image itself if the attack finds nothing.
        norm: "linf" or "l2"; None for the clean images.
        eps: radius of the ball; None for attacks that search for the smallest perturbation.
        forward, backward: largest number of passes for an image, counting each evaluation once. The estimate
            of a run, the probes and a flag use them, so an attack that asks anything declares them, and a
            call that takes more is an error.
        queries: number of queries after which the attack on an image is stopped; None without a limit.
        stops_early: whether the attack asks nothing more about an image that is misclassified. The number of
            passes then depends on the defense, and an estimate for it is an upper bound.
        records_path: whether the attack records the nearest distance by number of queries (`Crafted.paths`).
        batch_coupled: whether the library's loop makes an image depend on its batch, for example by a shared
            stopping rule. Such attacks run in lockstep (attacks/lockstep.py), one for each image.
        reduced: text that a table adds to the attack's name if its budget is below the standard one, else "".
        activity: the current activity of an attack of several parts, which a progress bar shows.
        by_rows: whether the loop is our own and decides everything row by row. `craft` then gets the whole
            batch, and Rows (attacks/rows.py) in place of a model.
    """

    version: ClassVar[int] = 3
    needs: ClassVar[Answer | None] = "gradient"
    may_return_image: ClassVar[bool] = False
    stops_early: ClassVar[bool] = False
    records_path: ClassVar[bool] = False
    norm: Literal["linf", "l2"] | None = None
    batch_coupled: ClassVar[bool] = False
    by_rows: ClassVar[bool] = False
    eps: float | None = None
    queries: int | None = None
    forward: int = 0
    backward: int = 0
    reduced: str = ""
    activity: str = ""

    @property
    def budget_told(self) -> str:
        """The text about the budget that is printed before a run; empty if the config says everything."""
        return ""

    def of_images(self, ids: Sequence[str]) -> "Attack":
        """Return the attack on the images of these ids. Only an attack that looks up its examples needs the
        ids."""
        return self

    def verify_files(self) -> None:
        """Check the files that the attack reads, before a run begins. The default checks nothing.

        Raises MissingError if a file is absent, InputError if its sha256 differs.
        """
        return

    @abstractmethod
    def craft(self, model: nn.Module | Rows, images: Tensor, labels: Tensor) -> Tensor | Crafted:
        """Return the adversarial examples. `__call__` calls it, with one image if `batch_coupled`."""

    @final
    def __call__(self, target: Target, images: Tensor, labels: Tensor, *, seeds: Sequence[int]) -> Crafted:
        """Return adversarial examples of `images`; the randomness of each comes from its own seed.

        Raises InputError for bad images, AttackError for a result outside the ball or [0, 1].
        """
        check_images(images, name="images to attack")
        target.budget = self.queries
        before = [(count.forward, count.backward) for count in target.counts]
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            if self.batch_coupled:
                results = lockstep(
                    lambda model, i: self._one(model, images[i : i + 1], labels[i : i + 1]), target, seeds
                )
                crafted = Crafted(
                    torch.cat([result.images for result in results]).to(images.device),
                    [path for result in results for path in result.paths],
                )
            elif self.by_rows:
                rows = Rows.of(target, seeds, images.device)
                crafted = _whole(self.craft(rows, images.contiguous().clone(), labels.clone()))
            else:
                with per_image_randomness(seeds):
                    crafted = _whole(self.craft(target, images.clone(), labels.clone()))
        adversarial = crafted.images.detach()
        self._check(images, adversarial)
        self._check_passes(target, before)
        diagnoses = [target.told(image) for image in range(len(images))]
        notes = crafted.notes or (diagnoses if any(diagnoses) else [])
        return replace(crafted, images=standard_layout(adversarial.clamp(0, 1)), notes=notes)

    def _one(self, model: nn.Module, image: Tensor, label: Tensor) -> Crafted:
        return _whole(self.craft(model, image.to("cpu", copy=True), label.to("cpu", copy=True)))

    def _check(self, images: Tensor, adversarial: Tensor) -> None:
        name = type(self).__name__
        if adversarial.shape != images.shape or not torch.isfinite(adversarial).all():
            raise AttackError(f"{name}: expected finite images, got NaN, infinity or another shape")
        if adversarial.min() < -TOLERANCE or adversarial.max() > 1 + TOLERANCE:
            raise AttackError(f"{name}: left [0, 1]")
        if self.eps is not None:
            size = distances(adversarial.double(), images.double(), self.norm).max().item()
            if size > self.eps + TOLERANCE * max(1, self.eps):
                raise AttackError(f"{name}: expected perturbations <= {self.eps:.6g}, got {size:.6g}")

    def _check_passes(self, target: Target, before: Sequence[tuple[int, int]]) -> None:
        taken = [
            (count.forward - forward, count.backward - backward)
            for count, (forward, backward) in zip(target.counts, before, strict=True)
        ]
        most = tuple(max(counts) // target.eot for counts in zip(*taken, strict=True))
        if any(
            passes > declared for passes, declared in zip(most, (self.forward, self.backward), strict=True)
        ):
            raise AttackError(
                f"{type(self).__name__}: expected at most the {self.forward} forward and {self.backward} "
                f"backward passes an image that it declares, got {most[0]} and {most[1]}: declare as many"
            )


def _whole(made: Tensor | Crafted) -> Crafted:
    return made if isinstance(made, Crafted) else Crafted(made)


def distances(images: Tensor, references: Tensor, norm: str) -> Tensor:
    """Return (N,) norms of the difference, "linf" or "l2"; a single reference serves all images."""
    return (images - references).flatten(1).norm(float("inf") if norm == "linf" else 2, dim=1)


def check_eps(eps: float, norm: str = "linf") -> float:
    """Return `eps` if it is a radius that images in [0, 1] can have; raise InputError otherwise."""
    most = 1 if norm == "linf" else 1000
    if not isinstance(eps, int | float) or not 0 < eps <= most:
        pixels = norm == "linf" and isinstance(eps, int | float) and 1 < eps <= 255 and eps == int(eps)
        meant = f" (did you mean {eps:g}/255?)" if pixels else ""
        raise InputError(f"attack.eps: expected 0 < eps <= {most} (images lie in [0, 1]), got {eps}{meant}")
    return eps


class Clean(Attack):
    """No attack: the clean images."""

    version = 1
    needs = None
    may_return_image = True

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images as they are."""
        return images
