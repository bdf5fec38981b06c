"""The linear noise schedule of Ho et al. 2020, Denoising Diffusion Probabilistic Models,
https://arxiv.org/abs/2006.11239.
"""

import torch
from torch import Tensor

FIRST, LAST = 1e-4, 0.02  # the variances that are added at the first and at the last time; linear between


def variances(times: int) -> tuple[Tensor, Tensor]:
    """The variance that each time adds, and the share of the image's variance that is left after it."""
    added = torch.linspace(FIRST, LAST, times, dtype=torch.float64)
    return added, torch.cumprod(1 - added, 0)
