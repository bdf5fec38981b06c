"""APGD: Croce and Hein 2020, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, https://arxiv.org/abs/2003.01690.

Images are (N, C, H, W) in [0, 1]. Each row has its own state (step size, best iterate, counts).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack, check_eps
from attacks.losses import LOSSES
from attacks.rows import Found, Rows, each, in_turn
from data.errors import InputError

Norm = Literal["linf", "l2"]


class APGD(Attack):
    """Projected gradient ascent on the loss, whose step size is halved when progress stops.

    An image's result is its last misclassified iterate, or the image itself if there is none.

    Args:
        loss: "ce", "cw" (the margin of another class over the label) or "dlr" (for three classes or more).
        restarts: number of runs, each from another random start.
        rho: share of steps that must improve for the step size to stay.
        early_stop: whether a restart attacks only the images that are still classified correctly. Take false
            for a defense that draws, which may have erred by chance, and average several draws
            (knowledge.eot). Every image then gets all restarts, each gives its iterate with the largest loss,
            and the result is the one whose loss is largest when the defense answers once more.
    """

    version = 4
    by_rows = True
    may_return_image = True

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        norm: Norm = "linf",
        steps: int = 100,
        loss: Literal["ce", "cw", "dlr"] = "ce",
        restarts: int = 1,
        rho: float = 0.75,
        early_stop: bool = True,
    ) -> None:
        self.eps, self.norm = check_eps(eps, norm), norm
        if steps < 1 or restarts < 1 or loss not in LOSSES:
            raise InputError(
                f"attack: expected steps >= 1, restarts >= 1 and a loss of {', '.join(LOSSES)}, "
                f"got steps={steps} restarts={restarts} loss={loss}"
            )
        self.steps, self.loss, self.restarts, self.rho = steps, loss, restarts, rho
        self.early_stop, self.stops_early = early_stop, early_stop and restarts > 1
        self.forward = restarts * (steps + 1) + (1 if early_stop else restarts)
        self.backward = restarts * (steps + 1)

    def craft(self, model: Rows, images: Tensor, labels: Tensor) -> Tensor:
        """Run the restarts, each on the images that are still classified correctly, or on all images."""
        if not self.early_stop:
            return self._largest_loss(model, images, labels)
        standing = (model.logits(images).argmax(1) == labels).nonzero().flatten()
        adversarial = images.clone()
        result = in_turn(
            [self._climb] * self.restarts,
            model.take(standing),
            images[standing],
            labels[standing],
            standing,
        )
        adversarial[standing] = result.images
        return adversarial

    def _largest_loss(self, rows: Rows, images: Tensor, labels: Tensor) -> Tensor:
        best, largest = images, torch.full(labels.shape, -torch.inf, device=images.device)
        for _ in range(self.restarts):
            candidates = self._ascend(rows, images, labels).best
            # The loss of the best iterate was the largest of many draws, so it is biased upwards.
            loss = LOSSES[self.loss](rows.logits(candidates), labels)
            best = torch.where(each(loss > largest, images), candidates, best)
            largest = torch.maximum(largest, loss)
        return best

    def _climb(self, rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> Found:
        return self._ascend(rows, images, labels).found

    def _ascend(self, rows: Rows, images: Tensor, labels: Tensor) -> "Ascent":
        loss = LOSSES[self.loss]
        return ascend(
            rows,
            images,
            labels,
            loss=lambda logits: loss(logits, labels),
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            rho=self.rho,
        )


@dataclass
class Ascent:
    """The result of one run of all steps for each row.

    Attributes:
        best: iterates (N, C, H, W) with the largest loss.
        loss: their losses (N,).
        found: rows with a misclassified iterate, and the last such iterate.
    """

    best: Tensor
    loss: Tensor
    found: Found


def ascend(
    rows: Rows,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Callable[[Tensor], Tensor],
    eps: float,
    norm: Norm,
    steps: int,
    rho: float = 0.75,
) -> Ascent:
    """Run APGD from a random start, with `steps` + 1 gradients for every row.

    As in the authors' code, the run goes on after an image is misclassified: later iterates lie deeper in
    the other class, which matters if a purifier must be fooled as well. The step size is checked as in the
    authors' code, where a share of exactly `rho` is too small.

    Args:
        loss: function that maps logits (N, classes) to one loss for each row, which is maximised.
    """
    ball = _Ball(images, eps, norm)
    current = previous = ball.start(rows)
    logits, value, gradient = rows.gradient(current, loss)
    fell, adversarial = logits.argmax(1) != labels, current
    best, best_value, best_gradient = current, value, gradient
    size = torch.full_like(value, 2 * eps)
    value_at_check, halved = best_value, torch.ones_like(fell)
    improved, since, period = torch.zeros_like(value), 0, max(int(0.22 * steps), 1)
    for step in range(steps):
        ahead = ball.projected(current + each(size, images) * ball.direction(gradient))
        if step:
            ahead = ball.projected(current + (ahead - current) * 0.75 + (current - previous) * 0.25)
        previous, current, before = current, ahead, value
        logits, value, gradient = rows.gradient(current, loss)

        wrong = logits.argmax(1) != labels
        fell, adversarial = fell | wrong, torch.where(each(wrong, images), current, adversarial)
        better = value > best_value
        best_value = torch.where(better, value, best_value)
        best = torch.where(each(better, images), current, best)
        best_gradient = torch.where(each(better, images), gradient, best_gradient)
        improved, since = improved + (value > before), since + 1

        if since == period:
            # Too few steps improved, or the largest loss did not grow since a check that kept the size.
            halved = (improved <= rho * period) | (~halved & (best_value <= value_at_check))
            size = torch.where(halved, size / 2, size)
            current = torch.where(each(halved, images), best, current)
            gradient = torch.where(each(halved, images), best_gradient, gradient)
            value_at_check, improved, since = best_value, torch.zeros_like(value), 0
            period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return Ascent(best, best_value, Found(fell, adversarial))


class _Ball:
    """The ball of radius `eps` around each image, restricted to [0, 1]."""

    def __init__(self, images: Tensor, eps: float, norm: Norm) -> None:
        self.images, self.eps, self.norm = images, eps, norm
        self.low, self.high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)

    def start(self, rows: Rows) -> Tensor:
        """Return a start in a random direction at distance eps."""
        shape = self.images.shape[1:]
        if self.norm == "linf":
            drawn = 2 * rows.uniform(*shape) - 1
            return self.projected(self.images + self.eps * drawn / _largest(drawn))
        return self.projected(self.images + self.eps * self.direction(rows.normal(*shape)))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the step of size 1 that raises the loss most: signs, or the gradient scaled to length 1."""
        if self.norm == "linf":
            return gradient.sign()
        scaled = gradient / _largest(gradient)  # the squares of a confident victim's gradient would underflow
        return scaled / _length(scaled).clamp_min(1e-12)

    def projected(self, moved: Tensor) -> Tensor:
        """Return the images projected onto the ball, and then onto [0, 1]."""
        if self.norm == "linf":
            return moved.clamp(self.low, self.high)
        change = moved - self.images
        return (self.images + change * (self.eps / _length(change).clamp_min(self.eps))).clamp(0, 1)


def _largest(values: Tensor) -> Tensor:
    """Return the (N, 1, 1, 1) largest absolute values, or 1e-30 if all are 0."""
    return each(values.flatten(1).abs().amax(1).clamp_min(1e-30), values)


def _length(values: Tensor) -> Tensor:
    """Return the (N, 1, 1, 1) Euclidean norms."""
    return each(values.square().flatten(1).sum(1).sqrt(), values)
