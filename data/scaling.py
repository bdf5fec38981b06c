"""Powers of 2 by which tensors are scaled, since they change no bit of a tensor but its exponents."""

import torch
from torch import Tensor

MOST = 126  # the largest exponent, so that the power itself is a normal float32


def exponents(images: Tensor) -> Tensor:
    """Return (N, 1, 1, 1) exponents e: the largest absolute value of each of (N, C, H, W) is in
    [2**(e - 1), 2**e). They are at most `MOST` from 0, which is the exponent of an image of zeros."""
    largest = images.flatten(1).abs().amax(1).view(-1, *[1] * (images.ndim - 1))
    return torch.frexp(largest).exponent.clamp(-MOST, MOST)
