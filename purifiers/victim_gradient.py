"""The gradient of what a victim returns, for purifiers that move images along it."""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_of(loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the gradient of a scalar loss at these images, even if gradients are switched off."""
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]
