"""Super-resolution as a defense: Mustafa et al. 2019, Image Super-Resolution as a Defense Against
Adversarial Attacks. https://arxiv.org/abs/1901.01677
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.purifier import Purifier
from purifiers.wavelet import check_sigma, denoise

PREFIX = "module."  # torch.nn.DataParallel's, in checkpoints that were saved through it


class SuperResolution(Purifier):
    """Wavelet denoising, x2 super-resolution, and back to the image's size; RGB images of any size.

    The released code stores the denoised image as a JPEG, and hands the large image to a victim that
    takes it. Here nothing is compressed, and since a purifier keeps the image's shape (the victim owns
    its input size) the large image is made small again: bicubic, with antialiasing.

    Args:
        network: RGB in [0, 1] to the same, twice as large.
        weights: its checkpoint; every name and shape must be the network's.
        sigma: of the denoising, see purifiers/wavelet.py; 0 leaves it out. The papers that compare
            with this defense take 0.04, its released code 0.01.
    """

    def __init__(self, *, network: nn.Module, weights: WeightFile, sigma: float = 0.04) -> None:
        check_sigma(sigma)
        self.sigma = sigma
        state = {name.removeprefix(PREFIX): value for name, value in weights.load().items()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise InputError(
                f"purifier.weights {weights.path}: expected the weights of {type(network).__name__}, "
                f"got others ({first} ...)"
            ) from error
        self.network = network.eval().requires_grad_(False)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Denoise, enlarge, shrink."""
        if images.shape[1] != 3:
            raise InputError(f"super-resolution: expected RGB images, got {images.shape[1]} channels")
        large = self.network.to(images.device)(denoise(images, self.sigma)).clamp(0, 1)
        small = F.interpolate(large, size=images.shape[2:], mode="bicubic", antialias=True)
        return small.clamp(0, 1)
