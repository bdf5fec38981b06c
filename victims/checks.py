"""Checks on a few images that a victim keeps the contract of all victims, before its first cell.

Each promise is checked by one function, in the order of `CHECKS`. The error names the first broken promise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from data.frozen import differences, touchable
from data.process_state import restored

VERSION = 2  # raised when a check changes, so that victims which had passed are checked again


class VictimError(RuntimeError):
    """Raised if a victim breaks a promise that every victim must keep; the cells that use it fail."""

    def __init__(self, check: str, *, expected: str, came: str) -> None:
        super().__init__(f"{check}: expected {expected}, got {came}")
        self.check = check


@dataclass
class Hearing:
    """A victim and the images that the checks give it.

    Args:
        victim: the victim as it was loaded, on the images' device.
        images: images (N, C, H, W) in [0, 1].
        classes: least number of classes that the victim must have.
    """

    victim: nn.Module
    images: Tensor
    classes: int
    before: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.victim, nn.Module):
            self.before = touchable(self.victim)

    @cached_property
    def logits(self) -> Any:
        """The victim's first answer."""
        return self()

    def __call__(self) -> Any:
        """Return another answer about the same images."""
        with torch.no_grad():
            return self.victim(self.images.clone())


def module(hearing: Hearing) -> None:
    """Check that the victim is a PyTorch module."""
    if not isinstance(hearing.victim, nn.Module):
        raise VictimError("module", expected="a torch.nn.Module", came=f"a {type(hearing.victim).__name__}")


def mode(hearing: Hearing) -> None:
    """Check that all parts of the victim are in evaluation mode, and that no weight requires a gradient."""
    training = [name or "the victim" for name, part in hearing.victim.named_modules() if part.training]
    if training:
        raise VictimError("mode", expected="evaluation mode", came=f"training mode of {training[0]}")
    asking = [name for name, weight in hearing.victim.named_parameters() if weight.requires_grad]
    if asking:
        raise VictimError("mode", expected="weights without gradients", came=f"requires_grad of {asking[0]}")


def device(hearing: Hearing) -> None:
    """Check that the victim's tensors are on the device of the images."""
    wanted = hearing.images.device.type
    for name, tensor in [*hearing.victim.named_parameters(), *hearing.victim.named_buffers()]:
        if tensor.device.type != wanted:
            raise VictimError(
                "device", expected=f"all tensors on {wanted}", came=f"{name} on {tensor.device}"
            )


def shape(hearing: Hearing) -> None:
    """Check that the victim returns one row of logits for each image, with one logit for each class."""
    logits, n = hearing.logits, len(hearing.images)
    expected = f"floating-point logits of shape ({n}, classes), at least {hearing.classes} classes"
    if not isinstance(logits, Tensor):
        raise VictimError("shape", expected=expected, came=f"a {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != n or not logits.is_floating_point():
        raise VictimError("shape", expected=expected, came=f"{logits.dtype} of shape {tuple(logits.shape)}")
    if logits.shape[1] < hearing.classes:
        raise VictimError("shape", expected=expected, came=f"{logits.shape[1]} classes")


def finite(hearing: Hearing) -> None:
    """Check that the logits are finite."""
    if not torch.isfinite(hearing.logits).all():
        raise VictimError("finite", expected="finite logits", came="NaN or infinity")


def logits(hearing: Hearing) -> None:
    """Check that the answers are not probabilities, whose gradients vanish if the victim is confident."""
    if probabilities(hearing.logits):
        raise VictimError("logits", expected="logits, before a softmax", came="probabilities")


def repeatable(hearing: Hearing) -> None:
    """Check that equal images give equal bits, since a victim that draws would look like a defense."""
    again = hearing()
    if not torch.equal(hearing.logits, again):
        off = (hearing.logits - again).abs().max().item()
        came = f"others (by up to {off:.2g})"
        raise VictimError("repeatable", expected="the same logits for the same images again", came=came)


def gradient(hearing: Hearing) -> None:
    """Check that the logits have a finite gradient with respect to the images."""
    leaf = hearing.images.clone().requires_grad_()
    answer, slope = hearing.victim(leaf), None
    if answer.requires_grad:
        (slope,) = torch.autograd.grad(answer.logsumexp(1).sum(), leaf, allow_unused=True)
    if slope is None:
        raise VictimError("gradient", expected="logits with a gradient to the images", came="none")
    if not torch.isfinite(slope).all():
        raise VictimError("gradient", expected="a finite gradient", came="NaN or infinity")


def unchanged(hearing: Hearing) -> None:
    """Check that the victim's answers do not change the victim."""
    if changed := differences(hearing.before, touchable(hearing.victim, copied=False)):
        came = f"a change of {', '.join(changed[:3])}"
        raise VictimError("unchanged", expected="a victim that answers leave as it was", came=came)


CHECKS: tuple[Callable[[Hearing], None], ...] = (
    module, mode, device, shape, finite, logits, repeatable, gradient, unchanged,
)  # fmt: skip


def check(victim: nn.Module, images: Tensor, *, classes: int) -> int:
    """Return the number of the victim's classes.

    Raises VictimError for the first promise that the victim breaks on these images.
    """
    with restored(images.device) as changed:
        hearing = Hearing(victim, images, classes)
        for promise in CHECKS:
            promise(hearing)
    if changed:
        came = f"a change of {', '.join(changed)}"
        raise VictimError("process", expected="torch's settings and generators as they were", came=came)
    return hearing.logits.shape[1]


def probabilities(outputs: Tensor) -> bool:
    """Return whether (N, classes) outputs can only be those of a softmax."""
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-3).all())
