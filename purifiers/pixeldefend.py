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
    """Replaces each value of RGB images, in the order of the model, by the most likely level within `eps` of
    the input's level (the paper's greedy decoding).

    All images are decoded in one batch. For a row, the network is applied only to the rows that the row's
    pixels depend on, which does not change the result.

    Args:
        weights: weights of the network.
        network: distribution of images.
        eps: largest change of a value, in units of 1/255; 16 in the paper's experiments.
    """

    version = 1
    inference_only = frozenset({"eps"})

    def __init__(self, *, weights: WeightFile | Training, network: PixelCNN, eps: int = 16) -> None:
        if not isinstance(eps, int) or not 0 <= eps < LEVELS:
            raise InputError(f"purifier.eps: expected a whole number of levels, 0 to 255, got {eps}")
        super().__init__(weights=weights, network=network)
        self.eps = eps
        self.every = 1  # distance in rows between the rows that are decoded

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean negative log-likelihood of a value in nats (divide by log(2) for bits)."""
        levels = _levels(images)
        features = self.network(levels / (LEVELS - 1))
        losses = [F.cross_entropy(self.network.logits(features, c, levels), levels[:, c]) for c in range(3)]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images decoded within eps of the input."""
        levels = _levels(images)
        decoded = levels.clone()
        for row in range(self.every // 2, images.shape[2], self.every):
            top = max(0, row - self.network.reach)
            for column in range(images.shape[3]):
                visible = decoded[:, :, top : row + 1] / (LEVELS - 1)
                features = self.network(visible)[:, :, -1:, column : column + 1]
                pixel = decoded[:, :, row : row + 1, column : column + 1]  # a view: written below
                for channel in range(3):
                    logits = self.network.logits(features, channel, pixel)[:, :, 0, 0]
                    near = levels[:, channel, row, column].unsqueeze(1)
                    far = (torch.arange(LEVELS, device=near.device) - near).abs() > self.eps
                    pixel[:, channel, 0, 0] = logits.masked_fill(far, -torch.inf).argmax(1)
        return decoded.to(images.dtype) / (LEVELS - 1)

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy that decodes every sixteenth row, and how many times longer this one takes."""
        short = copy.copy(self)
        short.every = 16
        return short, 16.0


def _levels(images: Tensor) -> Tensor:
    return (images * (LEVELS - 1)).round().long()
