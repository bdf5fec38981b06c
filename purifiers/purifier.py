"""What every purifier is, and the one call through which all of them are used."""

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
    """Maps images (N, C, H, W), float32 in [0, 1], to images of the same shape and range.

    A subclass implements `purify` and states its traits. Random draws come only from `seeds`, one
    an image, so that an image's result does not depend on the batch it is in. `victim` is given to
    purifiers that declare `uses_victim`; the clean image and the label are never given.

    Attributes:
        changes_nothing: the result is the image itself, so that the defense is the undefended victim.
        version: raised on any change of behaviour; cached results of older versions are not used.
        stochastic: other seeds give other results.
        gradient: "exact" if autograd is right through `purify`; "unrolled" if the purifier is a fit whose
            steps can be differentiated (purifiers/fitting/unrolled.py); otherwise "bpda", or "none".
        uses_victim: reads the victim's outputs.
        batch_coupled: an image's result depends on its batch (none of ours should).
        per_image_optimization: a network is fitted to each image, so that another draw costs as much again.
        scale: the result is this many times as high and wide; 1 for all but super-resolution that hands
            its large image on.
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
        """Return the purified images. Called through `__call__`, which checks the input and the output."""

    def shared_run(self) -> "SharedRun | None":
        """Return the costly computation from which this purifier reads its result, or None. It is equal for
        all purifiers that can share it."""
        return None

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple["Purifier", float]:
        """Return a cheap copy with at most this many steps, and how many times longer this purifier takes."""
        return self, 1.0

    @final
    def __call__(self, images: Tensor, *, seeds: Sequence[int], victim: nn.Module | None = None) -> Tensor:
        """Purify `images`; raises InputError for bad images, PurifierError for a bad result."""
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
        """Each purifier's result, in their order; the same as if each had run alone."""
        ...


def purify_together(
    purifiers: Sequence[Purifier],
    images: Tensor,
    *,
    seeds: Sequence[int],
    victim: nn.Module | None = None,
) -> list[Tensor | PurifierError]:
    """Results of purifiers that have one shared run, or of a single purifier.

    Where a result breaks the contract, the error stands in its place; the others are good.
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
    """The result, or the error if it is not what a purifier of these images must return."""
    shape = (*images.shape[:2], *(purifier.scale * side for side in images.shape[2:]))
    if result.shape != shape or result.dtype != images.dtype:
        expected = f"{images.dtype} of shape {shape}"
        came = f"{result.dtype} of shape {tuple(result.shape)}"
        return PurifierError(purifier, "shape", expected=expected, came=came)
    broken = (~torch.isfinite(result)).flatten(1).any(1)
    if broken.any():
        came = (
            f"NaN or infinity in {int(broken.sum())} of {len(images)} "
            f"(positions {broken.nonzero().flatten().tolist()[:8]})"
        )
        return PurifierError(purifier, "finite", expected="finite images", came=came)
    if result.min() < -ROUNDING or result.max() > 1 + ROUNDING:
        came = f"[{result.min().item():.7g}, {result.max().item():.7g}]"
        return PurifierError(purifier, "range", expected="values in [0, 1]", came=came)
    return standard_layout(clipped(result))
