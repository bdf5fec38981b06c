"""Total variation minimisation as the Adversarial Robustness Toolbox has it (Nicolae et al. 2018,
https://arxiv.org/abs/1807.01069), after Guo et al. 2018, https://arxiv.org/abs/1711.00117.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from art.defences.preprocessor import TotalVarMin
from torch import Tensor, nn

from data.errors import InputError
from data.repeatable import numpy_seeded
from purifiers.purifier import Purifier


class TVMArt(Purifier):
    """Keeps a random share of the values, and takes a few L-BFGS-B steps from the image to one that is
    near the kept values and has small differences between rows and between columns. The toolbox's own
    code does so for one image at a time on the CPU, channel by channel. NCIS uses it in Table 1.

    Args:
        kept: share of the values that count (the toolbox's `prob`).
        weight: weight of the differences (the toolbox's `lamb`).
        iterations: number of L-BFGS-B's iterations.
    """

    version = 1
    stochastic: ClassVar = True
    gradient: ClassVar = "none"

    def __init__(self, *, kept: float = 0.3, weight: float = 0.5, iterations: int = 10) -> None:
        if not 0 < kept <= 1 or not weight > 0 or iterations < 1:
            raise InputError(
                "purifier: expected 0 < kept <= 1, weight > 0 and iterations >= 1, "
                f"got kept={kept} weight={weight} iterations={iterations}"
            )
        self.stochastic = kept < 1
        self.minimise = TotalVarMin(prob=kept, lamb=weight, max_iter=iterations, clip_values=(0, 1))

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the smoothed images (N, C, H, W)."""
        smoothed = []
        for image, seed in zip(images.permute(0, 2, 3, 1).cpu().numpy(), seeds, strict=True):
            with numpy_seeded(seed):
                smoothed.append(self.minimise(image[None])[0])
        return torch.from_numpy(np.concatenate(smoothed)).permute(0, 3, 1, 2).to(images)
