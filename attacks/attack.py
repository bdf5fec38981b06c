"""What every attack is, and the one call through which all of them are used."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from attacks.randomness import per_image_randomness
from data.errors import InputError
from data.images import check_images

TOLERANCE = 1e-6  # of the ball's radius and of [0, 1], for float32 rounding


class AttackError(RuntimeError):
    """An attack broke its budget or its range; the cell it belongs to fails."""


class Attack(ABC):
    """Images and labels to adversarial examples of the same shape, float32 in [0, 1].

    Attributes:
        version: raised on any change of behaviour.
        norm: "linf" or "l2"; None for the clean images.
        eps: radius of the ball; None for attacks that look for the smallest perturbation.
        passes: forward and backward passes an image takes, at most.
        batch_coupled: the library's loop makes an image depend on its batch (a shared stopping
            rule, say); such an attack is run one image at a time.
    """

    version: ClassVar[int] = 1
    norm: ClassVar[Literal["linf", "l2"] | None] = None
    batch_coupled: ClassVar[bool] = False
    eps: float | None = None
    passes: int = 0

    @abstractmethod
    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The method itself; called through `__call__`."""

    @final
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, seeds: Sequence[int]) -> Tensor:
        """Adversarial examples of `images`, each drawn from its own seed.

        Raises InputError for bad images, AttackError for a result outside the ball or [0, 1].
        """
        check_images(images, name="images to attack")
        size = 1 if self.batch_coupled else len(images)
        parts = []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            with per_image_randomness(seeds[part]):
                made = self.craft(model, images[part].clone(), labels[part].clone())
            parts.append(made.detach())
        adversarial = torch.cat(parts)
        self._check(images, adversarial)
        return adversarial.clamp(0, 1)

    def _check(self, images: Tensor, adversarial: Tensor) -> None:
        name = type(self).__name__
        if adversarial.shape != images.shape or not torch.isfinite(adversarial).all():
            raise AttackError(f"{name}: expected finite images, got NaN, infinity or another shape")
        if adversarial.min() < -TOLERANCE or adversarial.max() > 1 + TOLERANCE:
            raise AttackError(f"{name}: left [0, 1]")
        if self.eps is not None:
            order = float("inf") if self.norm == "linf" else 2
            size = (adversarial - images).flatten(1).norm(order, dim=1).max().item()
            if size > self.eps + TOLERANCE:
                raise AttackError(f"{name}: expected perturbations <= {self.eps:.6g}, got {size:.6g}")


def check_eps(eps: float) -> float:
    """`eps` if it is a radius in (0, 1]; raises InputError otherwise."""
    if not isinstance(eps, int | float) or not 0 < eps <= 1:
        raise InputError(f"attack.eps: expected 0 < eps <= 1 (images lie in [0, 1]), got {eps}")
    return eps


class Clean(Attack):
    """No attack: the clean images."""

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The images as they are."""
        return images
