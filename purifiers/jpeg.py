"""JPEG compression: Guo et al. 2018, Countering Adversarial Images Using Input Transformations.

https://arxiv.org/abs/1711.00117
"""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from data.errors import InputError
from purifiers.purifier import Purifier


class JPEG(Purifier):
    """Compresses and decompresses RGB or grey images with Pillow (4:2:0 chroma, its default).

    Args:
        quality: JPEG quality, 1 to 95; 75 in the paper.
    """

    version = 1

    def __init__(self, *, quality: int = 75) -> None:
        if not 1 <= quality <= 95:
            raise InputError(f"purifier.quality: expected 1 to 95, got {quality}")
        self.quality = quality

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images rounded to 8 bits, compressed and decompressed."""
        levels = (images.cpu() * 255).round().to(torch.uint8)
        return torch.stack([self._one(image) for image in levels]).to(images.device)

    def _one(self, levels: Tensor) -> Tensor:
        file = io.BytesIO()
        to_pil_image(levels).save(file, format="JPEG", quality=self.quality)
        with Image.open(file) as image:
            return pil_to_tensor(image).float() / 255
