"""PixelDefend: Song et al. 2018, PixelDefend: Leveraging Generative Models to Understand and Defend against
Adversarial Examples. https://arxiv.org/abs/1710.10766
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import InputError
from data.weights import WeightFile
from purifiers.learned import Learned
from purifiers.networks.pixelcnn import LEVELS, PixelCNN
from purifiers.purifier import TRIAL_STEPS, Purifier
from purifiers.training import Training


class PixelDefend(Learned):
    """Value by value, in the order of the model, the most likely of the levels within `eps` of the input's
    (the paper's greedy decoding); RGB images of any size.

    All images are decoded side by side. For a row only the rows that its pixels can see are looked at,
    which changes nothing.

    Args:
        weights: of the network.
        network: the distribution of images.
        eps: largest change of a value, in levels of 255; 16 in the paper's experiments.
    """

    version = 1
    inference_only = frozenset({"eps"})

    def __init__(self, *, weights: WeightFile | Training, network: PixelCNN, eps: int = 16) -> None:
        if not isinstance(eps, int) or not 0 <= eps < LEVELS:
            raise InputError(f"purifier.eps: expected a whole number of levels, 0 to 255, got {eps}")
        super().__init__(weights=weights, network=network)
        self.eps = eps
        self.every = 1  # row that is decoded

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mean negative log-likelihood of a value, in nats; / log(2) is bits a dimension."""
        levels = _levels(images)
        known = self.network(levels / (LEVELS - 1))
        losses = [F.cross_entropy(self.network.logits(known, c, levels), levels[:, c]) for c in range(3)]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images decoded within eps of the input."""
        if images.shape[1] != 3:
            raise InputError(f"PixelDefend: expected RGB images, got {images.shape[1]} channels")
        given = _levels(images)
        made = given.clone()
        for row in range(self.every // 2, images.shape[2], self.every):
            top = max(0, row - self.network.reach)
            for column in range(images.shape[3]):
                seen = made[:, :, top : row + 1] / (LEVELS - 1)
                known = self.network(seen)[:, :, -1:, column : column + 1]
                pixel = made[:, :, row : row + 1, column : column + 1]  # a view: written below
                for channel in range(3):
                    logits = self.network.logits(known, channel, pixel)[:, :, 0, 0]
                    near = given[:, channel, row, column].unsqueeze(1)
                    far = (torch.arange(LEVELS, device=near.device) - near).abs() > self.eps
                    pixel[:, channel, 0, 0] = logits.masked_fill(far, -torch.inf).argmax(1)
        return made.to(images.dtype) / (LEVELS - 1)

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy that decodes every sixteenth row, and how many times longer this one takes."""
        short = copy.copy(self)
        short.every = 16
        return short, 16.0


def _levels(images: Tensor) -> Tensor:
    return (images * (LEVELS - 1)).round().long()
