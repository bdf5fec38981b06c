"""Super-resolution as a defense: Mustafa et al. 2019, Image Super-Resolution as a Defense Against
Adversarial Attacks. https://arxiv.org/abs/1901.01677
"""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.images import resized
from data.weights import WeightFile
from purifiers.jpeg import JPEG
from purifiers.learned import Learned
from purifiers.training import Training
from purifiers.wavelet import check_sigma, denoise

PREFIX = "module."  # added by torch.nn.DataParallel in checkpoints that were saved through it


class SuperResolution(Learned):
    """Denoises RGB images of any size by wavelets, enlarges them by x2 super-resolution, and shrinks them.

    The released code stores the denoised image as a JPEG, and gives the large image to a victim that
    takes it. By default nothing is compressed here, and the large image is shrunk again (bicubic, with
    antialiasing) for victims that expect the size they were trained on.

    Args:
        network: module that maps RGB images in [0, 1] to images twice as large.
        weights: checkpoint of the network, or its training.
        sigma: standard deviation for the denoising, see purifiers/wavelet.py; 0 leaves it out. NCIS
            takes 0.04; the released code has had 0.01 and 0.04.
        shrink: whether the result is shrunk to the image's size. If false, the victim classifies at
            double size as in the original.
        quality: quality of the JPEG file that stores the denoised image, as in the released code; None
            compresses nothing. The code leaves it to Matplotlib, whose default was 95 until 2020.
    """

    version = 1
    inference_only = frozenset({"sigma", "shrink", "quality"})

    def __init__(
        self,
        *,
        network: nn.Module,
        weights: WeightFile | Training,
        sigma: float = 0.04,
        shrink: bool = True,
        quality: int | None = None,
    ) -> None:
        check_sigma(sigma)
        self.stored = None if quality is None else JPEG(quality=quality)
        super().__init__(weights=weights, network=network)
        self.sigma = sigma
        self.scale = 1 if shrink else 2

    def load_frozen(self, state: Mapping[str, Tensor]) -> Self:
        """Load and fix the network's weights, also from a checkpoint of torch.nn.DataParallel."""
        return super().load_frozen({name.removeprefix(PREFIX): value for name, value in state.items()})

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean absolute error of images that are halved in size and enlarged again."""
        size = [side // 2 for side in images.shape[2:]]
        small = resized(images, size)
        large = self.network(small)
        return F.l1_loss(large, images[:, :, : large.shape[2], : large.shape[3]])

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Denoise, enlarge and shrink the images; map (N, 3, H, W) to (N, 3, scale H, scale W)."""
        small = denoise(images, self.sigma)
        if self.stored is not None:
            small = self.stored.purify(small, seeds, None)
        large = self.network(small).clamp(0, 1)
        return large if self.scale > 1 else resized(large, images.shape[2:])
