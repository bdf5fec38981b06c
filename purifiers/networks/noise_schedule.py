"""The linear noise schedule of Ho et al. 2020, Denoising Diffusion Probabilistic Models,
https://arxiv.org/abs/2006.11239.
"""

import torch
from torch import Tensor

FIRST, LAST = 1e-4, 0.02  # variances added at the first and at the last time, between which they are linear


def variances(times: int) -> tuple[Tensor, Tensor]:
    """Return the variance that each time adds, and the share of the image's variance left after it."""
    added = torch.linspace(FIRST, LAST, times, dtype=torch.float64)
    return added, torch.cumprod(1 - added, 0)
