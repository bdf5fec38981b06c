"""digits-photos: handwritten digits blended into photographs, made from installed packages alone.

The construction is MNIST-M's (Ganin & Lempitsky 2015, Unsupervised Domain Adaptation by
Backpropagation, https://arxiv.org/abs/1409.7495): the absolute difference of a digit and a patch
of a colour photograph. The digits are scikit-learn's 1,797 scans (UCI optical recognition of
handwritten digits), the photographs those inside scikit-image and scikit-learn.
"""

import numpy as np
import skimage.data
import sklearn.datasets
import torch
import torch.nn.functional as F
from skimage.util import img_as_float32
from torch import Tensor

from data.images import SPLITS, Dataset, Images

SIZE = 32
PHOTOS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry",
          "retina", "rocket", "stereo_motorcycle")  # fmt: skip
# The digits of each split, and its share of every photograph's width: splits share neither.
DIGITS = {"train": (0, 1000), "tuning": (1000, 1197), "evaluation": (1197, 1797)}
REGIONS = {"train": (0.0, 0.6), "tuning": (0.6, 0.75), "evaluation": (0.75, 1.0)}


class DigitsPhotos(Dataset):
    """32x32 RGB images of 10 classes; 600 evaluation, 197 tuning and `copies` x 1,000 training images.

    Args:
        seed: seed of the digits' order and of their patches.
        copies: number of training images made of each training digit, each with a patch of its own.
        patch: side of the photograph's patch in pixels before it is resized to 32x32.
    """

    version = 1
    label_space = "digits"
    classes = tuple("0123456789")
    divided_by = ("seed",)

    def __init__(self, *, seed: int = 0, copies: int = 4, patch: int = 32) -> None:
        self.seed, self.copies, self.patch = seed, copies, patch

    def load(self, split: str) -> Images:
        """Return the images of a split; ids are digits-photos/<split>/<digit>-<copy>."""
        self.check_split(split)
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        digits, labels = _digits()
        order = np.random.default_rng(self.seed).permutation(len(digits))[slice(*DIGITS[split])]
        copies = self.copies if split == "train" else 1
        photos = [_region(photo, *REGIONS[split]) for photo in _photos()]
        chosen = np.repeat(order, copies)
        patches = torch.stack([self._patch(photos, rng) for _ in chosen])
        images = (digits[chosen] - patches).abs().clamp(0, 1)
        ids = tuple(f"digits-photos/{split}/{d}-{i % copies}" for i, d in enumerate(chosen))
        return Images(ids, images, labels[chosen])

    def _patch(self, photos: list[Tensor], rng: np.random.Generator) -> Tensor:
        photo = photos[rng.integers(len(photos))]
        top, left = (rng.integers(side - self.patch + 1) for side in photo.shape[1:])
        patch = photo[:, top : top + self.patch, left : left + self.patch]
        return _resize(patch)


def _digits() -> tuple[Tensor, Tensor]:
    scans = sklearn.datasets.load_digits()
    images = torch.from_numpy(scans.images.astype(np.float32) / 16).unsqueeze(1)
    return _resize(images), torch.from_numpy(scans.target.astype(np.int64))


def _photos() -> list[Tensor]:
    pictures = [getattr(skimage.data, name)() for name in PHOTOS]
    pictures = [picture[0] if isinstance(picture, tuple) else picture for picture in pictures]
    pictures += sklearn.datasets.load_sample_images().images
    return [torch.from_numpy(img_as_float32(p)).permute(2, 0, 1) for p in pictures]


def _region(photo: Tensor, start: float, stop: float) -> Tensor:
    width = photo.shape[2]
    return photo[:, :, round(start * width) : round(stop * width)]


def _resize(images: Tensor) -> Tensor:
    """Resize (..., h, w) to (..., 32, 32) bilinearly, with antialiasing if it shrinks."""
    batch = images.unsqueeze(0) if images.ndim == 3 else images
    out = F.interpolate(batch, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return out.clamp(0, 1).reshape(*images.shape[:-2], SIZE, SIZE)
