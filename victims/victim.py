"""The victim: a frozen classifier that owns its normalisation."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.frozen import frozen, misfit
from data.weights import WeightFile
from victims.recipe import Recipe


class Victim(nn.Module):
    """Maps images (N, C, H, W), float32 in [0, 1], to logits (N, classes).

    Attributes:
        resumable: whether a training of the victim can continue from a checkpoint.

    Args:
        network: module that takes normalised images.
        label_space: name of the meaning of the labels; a data set must have the same.
        mean: values subtracted from images, one per channel.
        std: values by which images are then divided, one per channel.
        weights: a verified file, or the recipe by which we train the network ourselves. None for a network
            that loads its weights by itself; its state then identifies it.
        published: clean accuracy in % by data set, if the publisher of the weights states it.
        size: side to which other images are resized first, bilinearly and with antialiasing; gradients go
            through that. Images of exactly twice this side are not resized, since super-resolution returns
            images of double size. None resizes no image.
        robust: ball in which the victim was adversarially trained, {norm: linf, eps: 0.3}. The flag
            attack_weak does not count it against an attack that such a victim resists it within this ball.
    """

    version = 1
    descriptive = frozenset({"published"})
    resumable = True

    def __init__(
        self,
        *,
        network: nn.Module,
        label_space: str,
        mean: Sequence[float],
        std: Sequence[float],
        weights: WeightFile | Recipe | None = None,
        published: Mapping[str, float] | None = None,
        size: int | None = None,
        robust: Mapping[str, str | float] | None = None,
    ) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise InputError(f"victim.size: expected at least 1 pixel, got {size}")
        if robust is not None and not _is_ball(robust):
            raise InputError(f"victim.robust: expected a ball like {{norm: linf, eps: 0.03}}, got {robust}")
        self.size = size
        self.network = network
        self.label_space = label_space
        self.weights = weights
        self.published = published
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images in [0, 1]."""
        sizes = [(side, side) for side in (self.size, 2 * self.size)] if self.size is not None else []
        if sizes and images.shape[2:] not in sizes:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network((images - self.mean) / self.std)

    def load_frozen(self, state: Mapping[str, Tensor]) -> "Victim":
        """Load the network's weights and freeze it: evaluation mode, and no gradient to its weights."""
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(f"victim weights do not fit the network: tensors: {misfit(error)}") from error
        return frozen(self)


def _is_ball(robust: Mapping[str, str | float]) -> bool:
    eps = robust.get("eps") if isinstance(robust, Mapping) else None
    valid = isinstance(eps, int | float) and eps > 0 and robust.get("norm") in ("linf", "l2")
    return valid and len(robust) == 2
