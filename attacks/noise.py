"""Random noise, which is not an attack but the control to which every attack and purifier is compared."""

import torch
from torch import Tensor, nn

from attacks.attack import Attack
from data.errors import InputError


class GaussianNoise(Attack):
    """Normal noise on every value, clipped to [0, 1]. It uses neither the victim nor the label.

    Args:
        std: standard deviation of the noise, for images in [0, 1].
    """

    version = 1
    needs = None

    def __init__(self, *, std: float = 0.05) -> None:
        if not isinstance(std, int | float) or not 0 < std <= 1:
            raise InputError(f"attack.std: expected 0 < std <= 1, got {std}")
        self.std = std

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images with noise."""
        return (images + self.std * torch.randn_like(images)).clamp(0, 1)
