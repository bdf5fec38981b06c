"""NCIS: Cha, Ko, Yoo, Moon 2021, NCIS: Neural Contextual Iterative Smoothing for Purifying
Adversarial Perturbations, section 4. https://arxiv.org/abs/2106.11644
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import InputError
from data.images import clipped
from data.weights import WeightFile
from purifiers.gaussian_smoothing import gaussian, smooth
from purifiers.learned import Learned
from purifiers.networks.blind_spot import BlindSpotNet
from purifiers.training import Training


class NCIS(Learned):
    """A blind-spot network that sees m x m patches as channels (Eq. 9), plus Gaussian smoothing
    (Eq. 10), applied several times. Images may have any size that the smoothing can reflect.

    The class gives four methods of the paper's Table 3: NCIS with the defaults, FBI-E without smoothing,
    FBI + GS with patch 1, and FBI with patch 1 and without smoothing.

    If m does not divide a side, the image is continued by its last pixel, and cut again afterwards. The
    copies are in the patch of the pixel they copy, so no patch sees itself in another; with a reflected
    border it would. The paper does not say whether iterates are clipped: here only the last one is.

    Args:
        weights: weights of the blind-spot network.
        patch: m, the side of a patch in pixels.
        smoothing_kernel: K, the side of the Gaussian kernel in pixels; None leaves the smoothing out.
        iterations: i, the number of iterations; the paper takes 7, and 5 for RegNet-32G.
        channels: number of image channels.
        filters, layers: sizes of the network.
    """

    version = 1
    gradient = "exact"
    inference_only = frozenset({"iterations"})

    def __init__(
        self,
        *,
        weights: WeightFile | Training,
        patch: int = 2,
        smoothing_kernel: int | None = 11,
        iterations: int = 7,
        channels: int = 3,
        filters: int = 64,
        layers: int = 8,
    ) -> None:
        for name, value in (("patch", patch), ("iterations", iterations), ("channels", channels)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"purifier.{name}: expected at least 1, got {value}")
        seen = channels * patch**2
        network = BlindSpotNet(in_channels=seen, out_channels=seen, filters=filters, layers=layers)
        super().__init__(weights=weights, network=network)
        self.channels = channels
        self.patch = patch
        self.iterations = iterations
        self.kernel = None
        if smoothing_kernel is not None:
            self.kernel = gaussian(smoothing_kernel, name="purifier.smoothing_kernel")

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of one step's reconstruction of the clean images (Eq. 7).

        Nothing is drawn from the generator.
        """
        return F.mse_loss(self.step(images), images)

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images after all iterations, clipped to [0, 1]."""
        for _ in range(self.iterations):
            images = self.step(images)
        return clipped(images)

    def step(self, images: Tensor) -> Tensor:
        """Return the images after one iteration, F(x) + G(x) of Eq. 10, without clipping."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % self.patch, 0, -height % self.patch), mode="replicate")
        patches = self.network(F.pixel_unshuffle(padded, self.patch))
        context = F.pixel_shuffle(patches, self.patch)[:, :, :height, :width]
        return context if self.kernel is None else context + smooth(images, self.kernel)
