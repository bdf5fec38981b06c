"""Adversarial examples that somebody else crafted, read from a file."""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.attack import TOLERANCE, Attack, check_eps, distances
from attacks.target import AttackError
from data.errors import InputError
from data.weights import WeightFile

SHOWN = 3  # ids in an error
SUFFIXES = (".safetensors", ".npz")


class FromFile(Attack):
    """The examples of a file, by the images' ids. `knowledge=` states what the attacker knew.

    The file, .safetensors or .npz, is a dictionary of tensors. It maps the id of each image to its
    adversarial example (C, H, W) of floating-point values in [0, 1]. It may hold more images than are
    evaluated. The examples are checked like those of any attack: a cell fails if one of them is missing, has
    another shape, leaves [0, 1] or lies outside the ball.

    Args:
        path: path of the file.
        sha256: digest of the whole file, so that the records identify the examples.
        norm: norm of the ball, "linf" or "l2".
        eps: radius of the ball; None for examples without a bound.
    """

    version = 1
    descriptive = frozenset({"path"})
    needs: ClassVar = None
    may_return_image: ClassVar = True

    def __init__(
        self,
        *,
        path: str,
        sha256: str | None,
        norm: Literal["linf", "l2"] = "linf",
        eps: float | None = 8 / 255,
    ) -> None:
        if not isinstance(path, str) or not path.endswith(SUFFIXES):
            raise InputError(f"attack.path: expected a file {' or '.join(SUFFIXES)}, got {path!r}")
        if norm not in ("linf", "l2"):
            raise InputError(f"attack.norm: expected linf or l2, got {norm!r}")
        self.norm, self.eps = norm, None if eps is None else check_eps(eps, norm)
        self.file = WeightFile(path, sha256, what="attack")
        self.ids: Sequence[str] = ()

    def of_images(self, ids: Sequence[str]) -> "FromFile":
        """Return the attack on the images of these ids."""
        attack = copy.copy(self)
        attack.ids = tuple(ids)
        return attack

    def verify_files(self) -> None:
        """Check the file against its sha256."""
        self.file.digest()

    @cached_property
    def examples(self) -> dict[str, Tensor]:
        """All examples of the file by the ids of their images."""
        return self.file.load()

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the examples of the given ids; raise AttackError if one is missing or invalid."""
        if len(self.ids) != len(images):
            raise AttackError(f"FromFile: expected the ids of {len(images)} images, got {len(self.ids)}")
        if lacking := [name for name in self.ids if name not in self.examples]:
            raise AttackError(
                f"{self.file.path}: expected an example of each image, got none of {len(lacking)} of "
                f"{len(self.ids)}, such as {', '.join(lacking[:SHOWN])}; the file has {len(self.examples)} "
                f"ids, such as {', '.join([*self.examples][:SHOWN])}"
            )
        examples = [self.examples[name] for name in self.ids]
        for name, example in zip(self.ids, examples, strict=True):
            self._check_example(name, example, images.shape[1:])
        adversarial = torch.stack([example.to(images) for example in examples])
        if self.eps is not None:
            sizes = distances(adversarial.double(), images.double(), self.norm)
            far = int(sizes.argmax())
            if sizes[far] > self.eps + TOLERANCE * max(1, self.eps):
                raise AttackError(
                    f"{self.file.path}: {self.ids[far]}: expected an example within {self.norm} "
                    f"{self.eps:.6g} of its image, got a distance of {sizes[far].item():.6g}"
                )
        return adversarial

    def _check_example(self, name: str, example: Tensor, shape: torch.Size) -> None:
        where = f"{self.file.path}: {name}"
        if example.shape != shape or not example.is_floating_point():
            raise AttackError(
                f"{where}: expected floating-point values of shape {tuple(shape)}, got {example.dtype} of "
                f"shape {tuple(example.shape)}"
            )
        if not torch.isfinite(example).all():
            raise AttackError(f"{where}: expected finite values, got NaN or infinity")
        if example.min() < -TOLERANCE or example.max() > 1 + TOLERANCE:
            low, high = example.min().item(), example.max().item()
            raise AttackError(f"{where}: expected values in [0, 1], got [{low:.4g}, {high:.4g}]")
