"""An attack that asks the defense for its decisions only: HopSkipJump of ART.

The library hands out a result only at its end, and does not stop at a number of queries. So what it asks is
watched, and at the budget the attack ends with the best image that it has asked about.
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
    """HopSkipJump: Chen et al. 2020, https://arxiv.org/abs/1904.02144. From a misclassified image along the
    boundary towards the image, by decisions alone.

    Within `eps` the nearest misclassified image that was asked about is the result, else the image itself.
    The path that is recorded with it says how near the attack had come after how many queries, for any
    other eps. ART draws its first image without a seed; ours are images of noise, coarse to fine.

    Args:
        eps: radius of the ball; None for the nearest at any distance.
        norm: the distance that is made small.
        queries: an image's budget; ART's own limits of iterations and evaluations are not reached. An
            estimate of a gradient that the rest cannot pay is not begun, so some stay unused.
        first_evaluations: queries of the first estimate of a gradient.
        starts: images that are tried as a start.
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
        seen = _Nearest(model, images, labels, self.norm)
        try:
            with torch.no_grad():
                classes = seen(images).shape[1]
                for start in _starts(images, self.starts) if not seen.path else ():
                    seen(start)
                    if seen.path:
                        self._walk(seen, images, labels, start, classes)
                        break
        except BudgetSpentError:
            pass
        if not seen.path:
            raise AttackError(
                f"HopSkipJump did not begin: none of {self.starts} images of noise is misclassified, so it "
                "says nothing about this image; raise attack.starts and attack.queries"
            )
        near = self.eps is None or seen.path[-1][1] <= self.eps
        return Crafted(seen.best if near else images, [seen.path])

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
    """From our own start, away from the label; ART's is drawn without a seed."""

    first: tuple[np.ndarray, int]

    def _init_sample(self, *args: object, **kwargs: object) -> tuple[np.ndarray, int]:
        return self.first


class _Float32Classifier(PyTorchClassifier):
    """ART's binary search makes float64 images, which networks of float32 refuse."""

    def predict(self, x: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
        """Logits."""
        return super().predict(x.astype(np.float32), *args, **kwargs)


def _starts(images: Tensor, count: int) -> Iterator[Tensor]:
    """Noise from one colour to one value a pixel, uniform in [0, 1]."""
    sides = (images.shape[-1], 8, 4, 2, 1)
    for i in range(count):
        noise = torch.rand(1, images.shape[1], *[min(sides[i % len(sides)], images.shape[-1])] * 2)
        yield F.interpolate(noise, size=images.shape[2:], mode="nearest")


class _Nearest(nn.Module):
    """A model that watches what it is asked about one image, and keeps the nearest misclassified image and
    the path towards it."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, norm: str) -> None:
        super().__init__()
        self.model, self.clean, self.label, self.norm = model, images, int(labels), norm
        self.best, self.asked = images, 0
        self.path: Path = []

    def forward(self, images: Tensor) -> Tensor:
        """The model's own answer."""
        logits = self.model(images)
        self.asked += len(images)
        self._watch(images.detach(), logits.detach())
        return logits

    def _watch(self, images: Tensor, logits: Tensor) -> None:
        wrong = images[logits.argmax(1) != self.label]
        if not len(wrong):
            return
        found = distances(wrong, self.clean, self.norm)
        at = int(found.argmin())
        if not self.path or found[at] < self.path[-1][1]:
            self.path.append((self.asked, found[at].item()))
            self.best = wrong[at : at + 1].clone()
