"""DiffPure: Nie et al. 2022, Diffusion Models for Adversarial Purification,
https://arxiv.org/abs/2205.07460.
"""

from collections.abc import Sequence

from torch import Tensor

from purifiers.diffusion import DiffusionPurifier, to_unit
from purifiers.fitting.draws import Draws


class DiffPure(DiffusionPurifier):
    """Adds noise up to a time of the chain, and removes it step by step.

    The steps are the ancestral sampling of the model, which discretises the reverse SDE of the paper at every
    time of the chain. The paper adds noise up to time 100 of 1000 on CIFAR-10 and 150 on ImageNet.
    """

    version = 1

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images after one round, clipped to [0, 1]."""
        return to_unit(self.there_and_back(2 * images - 1, Draws(seeds, images.device)))
