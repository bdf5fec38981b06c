"""The base class of all purifiers, and the one call through which they are used."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal, Protocol, final

import torch
from torch import Tensor, nn

from data.images import check_images, clipped, standard_layout

ROUNDING = 1e-6  # a sum of float32 weights may leave [0, 1] by this much; it is clipped


TRIAL_STEPS = 12


class PurifierError(RuntimeError):
    """Raised when a purifier breaks its contract; its cell fails."""

    def __init__(self, purifier: "Purifier", check: str, *, expected: str, came: str) -> None:
        super().__init__(f"{type(purifier).__name__}: expected {expected}, got {came}")
        self.check, self.expected, self.came = check, expected, came


class Purifier(ABC):
    """A map from images (N, C, H, W), float32 in [0, 1], to images of the same shape and range.

    A subclass implements `purify` and states its traits. Random draws come only from `seeds`, one for
    each image, so that an image's result does not depend on the batch it is in. Only purifiers that
    declare `uses_victim` are given the victim. The clean image and the label are never given.

    Attributes:
        changes_nothing: whether the result is the image itself, so that the defense is the undefended victim.
        version: number that is raised on any change of behaviour; cached results of older versions are
            not used.
        stochastic: whether other seeds give other results.
        gradient: "exact" if autograd is right through `purify`; "unrolled" if the purifier is a fit whose
            steps can be differentiated (purifiers/fitting/unrolled.py); otherwise "bpda", or "none".
        uses_victim: whether the purifier reads the victim's outputs.
        batch_coupled: whether an image's result depends on its batch (this should hold for no purifier).
        per_image_optimization: whether a network is fitted to each image, so that each further draw costs
            as much as the first.
        scale: factor by which the result is higher and wider than the image; it is 1 except for
            super-resolution that returns its enlarged image.
    """

    version: ClassVar[int] = 1
    changes_nothing: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    gradient: Literal["exact", "unrolled", "bpda", "none"] = "bpda"
    uses_victim: ClassVar[bool] = False
    batch_coupled: ClassVar[bool] = False
    per_image_optimization: bool = False
    scale: int = 1

    @abstractmethod
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the purified images. Callers use `__call__`, which checks the input and the output."""

    def shared_run(self) -> "SharedRun | None":
        """Return the costly computation from which this purifier reads its result, or None. It is equal for
        all purifiers that can share it."""
        return None

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple["Purifier", float]:
        """Return a cheap copy with at most this many steps, and how many times longer this purifier takes."""
        return self, 1.0

    @final
    def __call__(self, images: Tensor, *, seeds: Sequence[int], victim: nn.Module | None = None) -> Tensor:
        """Return the purified images; raise InputError for bad images, PurifierError for a bad result."""
        result = purify_together([self], images, seeds=seeds, victim=victim)[0]
        if isinstance(result, PurifierError):
            raise result
        return result


class SharedRun(Hashable, Protocol):
    """One computation from which several purifiers read their results."""

    def run(
        self,
        purifiers: Sequence[Purifier],
        images: Tensor,
        seeds: Sequence[int],
        victim: nn.Module | None,
    ) -> list[Tensor]:
        """Return the results in the order of the purifiers, as if each purifier had run alone."""
        ...


def purify_together(
    purifiers: Sequence[Purifier],
    images: Tensor,
    *,
    seeds: Sequence[int],
    victim: nn.Module | None = None,
) -> list[Tensor | PurifierError]:
    """Return the results of purifiers that have one shared run, or of a single purifier.

    If a result breaks the contract, the error takes its place in the list; the other results are valid.
    """
    check_images(images, name="images to purify")
    if len(seeds) != len(images):
        raise ValueError(f"seeds: expected one an image ({len(images)}), got {len(seeds)}")
    for purifier in purifiers:
        if purifier.uses_victim and victim is None:
            raise ValueError(f"{type(purifier).__name__} needs the victim, got none")
    given = victim if any(p.uses_victim for p in purifiers) else None
    run = purifiers[0].shared_run()
    if run is not None:
        if any(p.shared_run() != run for p in purifiers):
            raise ValueError("expected purifiers with one shared run, got several")
        results = run.run(purifiers, images.clone(), seeds, given)
    else:
        if len(purifiers) != 1:
            raise ValueError("purifiers without a shared run are called one at a time")
        results = [purifiers[0].purify(images.clone(), seeds, given)]
    return [checked(p, images, r) for p, r in zip(purifiers, results, strict=True)]


def checked(purifier: Purifier, images: Tensor, result: Tensor) -> Tensor | PurifierError:
    """Return the result clipped to [0, 1], or the error if it is not a valid result for these images."""
    shape = (*images.shape[:2], *(purifier.scale * side for side in images.shape[2:]))
    if result.shape != shape or result.dtype != images.dtype:
        expected = f"{images.dtype} of shape {shape}"
        came = f"{result.dtype} of shape {tuple(result.shape)}"
        return PurifierError(purifier, "shape", expected=expected, came=came)
    invalid = (~torch.isfinite(result)).flatten(1).any(1)
    if invalid.any():
        came = (
            f"NaN or infinity in {int(invalid.sum())} of {len(images)} "
            f"(positions {invalid.nonzero().flatten().tolist()[:8]})"
        )
        return PurifierError(purifier, "finite", expected="finite images", came=came)
    if result.min() < -ROUNDING or result.max() > 1 + ROUNDING:
        came = f"[{result.min().item():.7g}, {result.max().item():.7g}]"
        return PurifierError(purifier, "range", expected="values in [0, 1]", came=came)
    return standard_layout(clipped(result))
