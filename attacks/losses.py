"""What gradient attacks make large: one number a row, from logits (N, classes) and labels (N,).

The difference of logits ratio is that of Croce and Hein 2020, https://arxiv.org/abs/2003.01690.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import InputError


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) by how much the label's logit exceeds the largest other; negative where another class wins."""
    at = labels.unsqueeze(1)
    return logits.gather(1, at).squeeze(1) - logits.scatter(1, at, -torch.inf).amax(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (N,) cross entropies."""
    return F.cross_entropy(logits, labels, reduction="none")


def carlini_wagner(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (N,) margins of the strongest other class over the label."""
    return -margin(logits, labels)


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) the same over the distance from the largest logit to the third: logits' scale does not matter."""
    if logits.shape[1] < 3:
        raise InputError(f"attack.loss: expected 3 classes and more for dlr, got {logits.shape[1]}; take ce")
    largest = logits.sort(dim=1, descending=True).values
    return -margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(N,) towards the class of `targets` (N,); needs four classes."""
    largest = logits.sort(dim=1, descending=True).values
    ahead = logits.gather(1, targets.unsqueeze(1)) - logits.gather(1, labels.unsqueeze(1))
    return ahead.squeeze(1) / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "cw": carlini_wagner,
    "dlr": difference_of_logits_ratio,
}
