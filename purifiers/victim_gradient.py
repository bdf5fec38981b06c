"""The gradient of what a victim returns, for purifiers that move images along it."""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_of(loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The gradient of a scalar loss at these images, also where gradients are switched off."""
    with torch.enable_grad():
        asked = images.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(asked), asked)[0]
