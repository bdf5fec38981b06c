"""The losses that gradient attacks maximise: one number for each row of logits (N, classes) and labels (N,).

The difference of logits ratio is that of Croce and Hein 2020, https://arxiv.org/abs/2003.01690.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import InputError


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) differences between the label's logit and the largest other; negative if another wins."""
    at = labels.unsqueeze(1)
    return logits.gather(1, at).squeeze(1) - logits.scatter(1, at, -torch.inf).amax(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (N,) cross entropies."""
    return F.cross_entropy(logits, labels, reduction="none")


def carlini_wagner(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (N,) margins of the strongest other class over the label."""
    return -margin(logits, labels)


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (N,) margins of `carlini_wagner` over the distance from the largest to the third logit.

    The scale of the logits does not matter. Raises InputError for fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise InputError(f"attack.loss: expected 3 classes and more for dlr, got {logits.shape[1]}; take ce")
    largest = logits.sort(dim=1, descending=True).values
    return -margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the (N,) ratios towards the classes `targets` (N,); they need at least four classes."""
    largest = logits.sort(dim=1, descending=True).values
    ahead = logits.gather(1, targets.unsqueeze(1)) - logits.gather(1, labels.unsqueeze(1))
    return ahead.squeeze(1) / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "cw": carlini_wagner,
    "dlr": difference_of_logits_ratio,
}
