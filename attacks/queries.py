"""An attack that asks the defense for its decisions only: HopSkipJump of ART.

The library returns a result only at its end, and does not stop at a number of queries. Its queries are
therefore observed, and when the budget is spent, the attack ends with the best image that was queried.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks.evasion import HopSkipJump as HopSkipJumpOfART
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from attacks.attack import Attack, AttackError, Crafted, Path, check_eps, distances
from attacks.target import BudgetSpentError
from data.errors import InputError


class HopSkipJump(Attack):
    """HopSkipJump: Chen et al. 2020, https://arxiv.org/abs/1904.02144. It goes from a misclassified image
    along the boundary towards the image, by decisions alone.

    The result is the nearest misclassified image that was queried if it is within `eps`, or else the image
    itself. The path that is recorded with it gives the nearest distance by number of queries, for any other
    eps. ART draws its first image without a seed; here the first images are noise of several scales.

    Args:
        eps: radius of the ball; None for the nearest example at any distance.
        norm: norm of the distance that is minimised.
        queries: budget of an image; ART's own limits of iterations and evaluations are not reached. An
            estimate of a gradient that exceeds the rest of the budget ends the attack, and its queries are
            not made.
        first_evaluations: queries of the first estimate of a gradient.
        starts: number of images that are tried as a start.
    """

    version = 1
    needs = "decision"
    records_path = True
    batch_coupled = True
    may_return_image = True

    def __init__(
        self,
        *,
        eps: float | None = None,
        norm: Literal["linf", "l2"] = "l2",
        queries: int = 1000,
        first_evaluations: int = 100,
        starts: int = 100,
    ) -> None:
        if min(queries, first_evaluations, starts) < 1:
            raise InputError("attack: expected queries, first_evaluations and starts of at least 1")
        self.eps = check_eps(eps, norm) if eps is not None else None
        self.norm, self.queries, self.starts = norm, queries, starts
        self.first_evaluations, self.forward = first_evaluations, queries

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Crafted:
        """Return the nearest misclassified image that was queried."""
        observer = _Nearest(model, images, labels, self.norm)
        try:
            with torch.no_grad():
                classes = observer(images).shape[1]
                for start in _starts(images, self.starts) if not observer.path else ():
                    observer(start)
                    if observer.path:
                        self._walk(observer, images, labels, start, classes)
                        break
        except BudgetSpentError:
            pass
        if not observer.path:
            raise AttackError(
                f"HopSkipJump did not begin: none of {self.starts} images of noise is misclassified, so it "
                "says nothing about this image; raise attack.starts and attack.queries"
            )
        near = self.eps is None or observer.path[-1][1] <= self.eps
        return Crafted(observer.best if near else images, [observer.path])

    def _walk(self, seen: "_Nearest", images: Tensor, labels: Tensor, start: Tensor, classes: int) -> None:
        """Run ART's iterations until the budget is spent."""
        classifier = _Float32Classifier(
            model=seen,
            loss=None,
            input_shape=tuple(images.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        attack = _Started(
            classifier,
            norm=np.inf if self.norm == "linf" else 2,
            max_iter=self.queries,
            init_eval=self.first_evaluations,
            batch_size=self.queries,
            verbose=False,
        )
        attack.first = start[0].numpy(), int(labels)
        attack.generate(images.numpy(), F.one_hot(labels, classes).numpy())


class _Started(HopSkipJumpOfART):
    """HopSkipJump from a given start, away from the label; ART draws its start without a seed."""

    first: tuple[np.ndarray, int]

    def _init_sample(self, *args: object, **kwargs: object) -> tuple[np.ndarray, int]:
        return self.first


class _Float32Classifier(PyTorchClassifier):
    """A classifier that converts images to float32, since ART's binary search makes float64 images."""

    def predict(self, x: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
        """Return the logits."""
        return super().predict(x.astype(np.float32), *args, **kwargs)


def _starts(images: Tensor, count: int) -> Iterator[Tensor]:
    """Yield images of noise, uniform in [0, 1], which range from one value per pixel to one colour."""
    sides = (images.shape[-1], 8, 4, 2, 1)
    for i in range(count):
        noise = torch.rand(1, images.shape[1], *[min(sides[i % len(sides)], images.shape[-1])] * 2)
        yield F.interpolate(noise, size=images.shape[2:], mode="nearest")


class _Nearest(nn.Module):
    """A model that observes the queries about one image, and keeps the nearest misclassified image and the
    path towards it."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, norm: str) -> None:
        super().__init__()
        self.model, self.clean, self.label, self.norm = model, images, int(labels), norm
        self.best, self.asked = images, 0
        self.path: Path = []

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's own answer."""
        logits = self.model(images)
        self.asked += len(images)
        self._watch(images.detach(), logits.detach())
        return logits

    def _watch(self, images: Tensor, logits: Tensor) -> None:
        wrong = images[logits.argmax(1) != self.label]
        if not len(wrong):
            return
        sizes = distances(wrong, self.clean, self.norm)
        at = int(sizes.argmin())
        if not self.path or sizes[at] < self.path[-1][1]:
            self.path.append((self.asked, sizes[at].item()))
            self.best = wrong[at : at + 1].clone()
