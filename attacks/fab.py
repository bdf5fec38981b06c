"""Targeted FAB: Croce and Hein 2020, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary
Attack, https://arxiv.org/abs/1907.02044.

Images are (N, C, H, W) in [0, 1]. Each step approximates the boundary between the label and one other class
by a plane, from the gradient at the current point, and goes to the nearest point of that plane within [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.rows import Found, Rows, each

PULL = 0.1  # largest weight of the projection of the image itself; the paper's alpha_max
OVERSHOOT = 1.05  # the paper's eta
RETREAT = 0.9  # factor on a perturbation that crossed the boundary, before the next step; the paper's beta


def approach(
    rows: Rows, images: Tensor, labels: Tensor, targets: Tensor, *, eps: float, norm: str, steps: int
) -> Found:
    """Move each image towards its target class, until it is misclassified within `eps`.

    Each step takes a gradient and one more answer for each row that goes on.

    Args:
        targets: classes (N,) other than the labels.
        norm: norm of the distance that is minimised, "linf" or "l2".
    """
    fell, adversarial = torch.zeros_like(labels, dtype=torch.bool), images.clone()
    places = torch.arange(len(labels), device=labels.device)
    current = images
    for _ in range(steps):
        _, ahead, slope = rows.gradient(current, _lead(labels, targets))
        offset = (slope * current).flatten(1).sum(1) - ahead  # the plane: slope . point = offset
        step = nearest_on_plane(current, slope, offset, norm=norm)
        back = nearest_on_plane(images, slope, offset, norm=norm)
        length, far = (_norm(change, norm).clamp_min(1e-8) for change in (step, back))
        pull = each((length / (length + far)).clamp_max(PULL), images)
        current = ((current + OVERSHOOT * step) * (1 - pull) + (images + OVERSHOOT * back) * pull).clamp(0, 1)

        wrong = rows.logits(current).argmax(1) != labels
        near = wrong & (_norm(current - images, norm) <= eps)
        fell[places[near]] = True
        adversarial[places[near]] = current[near]
        current = torch.where(each(wrong, images), images + (current - images) * RETREAT, current)
        if near.any():
            rows, images, labels, targets = rows.take(~near), images[~near], labels[~near], targets[~near]
            places, current = places[~near], current[~near]
            if not len(places):
                break
    return Found(fell, adversarial)


def _lead(labels: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the loss, which is the target's logit minus the label's."""
    return lambda logits: (
        logits.gather(1, targets.unsqueeze(1)) - logits.gather(1, labels.unsqueeze(1))
    ).squeeze(1)


def nearest_on_plane(points: Tensor, slope: Tensor, offset: Tensor, *, norm: str) -> Tensor:
    """Return the smallest changes (N, C, H, W) from points to their planes slope . x = offset within [0, 1].

    If no point of [0, 1] lies on the plane, the change goes as far towards it as [0, 1] allows.

    In the smallest change, coordinate i moves by min(s * pace_i, room_i): room is the distance to the border
    of [0, 1], pace is 1 for l-infinity and |slope_i| for l2, and s is the same for all. The progress towards
    the plane grows piecewise linearly with s, with a bend where a coordinate reaches its border, so s is
    found by sorting the bends.

    Args:
        points, slope: (N, C, H, W).
        offset: (N,).
        norm: norm of the change, "linf" or "l2".
    """
    point, weight = points.flatten(1), slope.flatten(1)
    missing = offset - (weight * point).sum(1)
    scale = weight.abs().amax(1).clamp_min(1e-30)  # the squares of a confident victim's slope would underflow
    weight = weight * (missing.sign() / scale).unsqueeze(1)  # the plane is ahead along `weight`
    missing = (missing.abs() / scale).unsqueeze(1)
    room = torch.where(weight > 0, 1 - point, point)
    gain = weight.abs()
    pace = torch.ones_like(gain) if norm == "linf" else gain
    bends = torch.where(gain > 0, room / pace, 0.0)
    ordered, order = bends.sort(dim=1, stable=True)
    # The progress at each bend, by coordinates that have reached their border and by the others at that s.
    rate = (gain * pace).gather(1, order)
    full = (gain * room).gather(1, order).cumsum(1)
    left = rate.flip(1).cumsum(1).flip(1) - rate  # rates of the coordinates after this one
    gained = full + ordered * left
    bend = (gained < missing).sum(1, keepdim=True)  # the first bend at which the plane is reached
    reaches = bend < gained.shape[1]
    bend = bend.clamp_max(gained.shape[1] - 1)
    before = torch.where(bend > 0, full.gather(1, (bend - 1).clamp_min(0)), 0.0)
    rates = (left + rate).gather(1, bend)
    s = torch.where(reaches, (missing - before) / rates.clamp_min(1e-30), torch.inf)
    change = torch.where(gain > 0, torch.minimum(s * pace, room), 0.0)
    return (change * weight.sign()).view_as(points)


def _norm(change: Tensor, norm: str) -> Tensor:
    """Return the (N,) norms."""
    flat = change.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()
