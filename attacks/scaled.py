"""Scales gradients, so that squares in float32 neither underflow nor overflow."""

import torch
from torch import Tensor, nn

from data.scaling import exponents


class Scaled(nn.Module):
    """A model whose gradients have a largest absolute value of about 1 for each image, and their direction.

    Libraries divide a gradient by its l2 norm. The gradient of a victim that is very sure may be so small
    that its squares are 0 in float32, or that it is below the constant which prevents a division by 0. The
    factors are powers of 2, so that they change no bit of a gradient's direction. A gradient of 0 stays 0.

    Args:
        model: the model that answers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's own logits."""
        rows = images.view_as(images)
        if rows.requires_grad:
            rows.register_hook(scaled)
        return self.model(rows)


def scaled(gradient: Tensor) -> Tensor:
    """Return (N, C, H, W) gradients, each times a power of 2 that brings its largest value into [1/2, 1)."""
    return torch.ldexp(gradient, -exponents(gradient))
