"""Sets of labelled images, each with an id that never changes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.errors import InputError

SPLITS = ("train", "tuning", "evaluation")


@dataclass(frozen=True)
class Images:
    """Labelled images with ids.

    `images` is (N, C, H, W) float32 in [0, 1]; `labels` is (N,) int64; `ids` are unique strings. Raises
    InputError for anything else, such as NaN, values outside [0, 1] or lengths that differ.
    """

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_images(self.images, name="images")
        object.__setattr__(self, "images", standard_layout(self.images))
        if not len(self.ids) == len(self.images) == len(self.labels):
            raise InputError(
                f"expected as many ids and labels as images, got {len(self.ids)} ids, "
                f"{len(self.images)} images and {len(self.labels)} labels"
            )
        if len(set(self.ids)) != len(self.ids):
            raise InputError("expected unique image ids, got repeated ones")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise InputError(
                f"expected int64 labels (N,), got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> "Images":
        """Return the same images on a device."""
        return Images(self.ids, self.images.to(device), self.labels.to(device))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of each image."""
        return tuple(self.images.shape[1:])

    def take(self, indices: Sequence[int]) -> "Images":
        """Return the images at these positions, in this order."""
        picked = list(indices)
        return Images(tuple(self.ids[i] for i in picked), self.images[picked], self.labels[picked])

    take_lazy = take

    def subset(self, n: int, *, seed: int) -> "Images":
        """Return n images in a random order drawn from `seed`; a smaller n is a prefix of a larger one."""
        if not 1 <= n <= len(self):
            raise InputError(f"n: expected 1 to {len(self)} images (the whole set), got {n}")
        return self.take(shuffled(len(self), seed)[:n])

    def chunks(self, size: int) -> Iterator["Images"]:
        """Yield consecutive chunks of `size` images (the last may be shorter), which are the unit of work."""
        for positions in cut(range(len(self)), size):
            yield self.take(positions)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the ids, labels and pixels."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """The digest, as the fingerprint of an Index."""
        return self.digest


def cut(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield consecutive chunks of positions; raise InputError for a size below 1."""
    if size < 1:
        raise InputError(f"chunk: expected at least 1 image, got {size}")
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def shuffled(count: int, seed: int) -> list[int]:
    """Return the positions of `count` images in a random order."""
    return np.random.default_rng(seed).permutation(count).tolist()


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image file as RGB without its alpha channel.

    Raises ValueError for an image with more than 8 bits per value, which Pillow would cut off.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"expected 8 bits per value, got Pillow's mode {image.mode}: convert it to 8 bits")
    return image.convert("RGB")


def check_images(images: Tensor, *, name: str) -> None:
    """Raise InputError unless `images` is (N, C, H, W) float32, finite, within [0, 1]."""
    if images.ndim != 4 or images.dtype != torch.float32:
        raise InputError(
            f"{name}: expected float32 of shape (N, C, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if not torch.isfinite(images).all():
        raise InputError(f"{name}: expected finite values, got NaN or infinity")
    if images.numel() and (images.min() < 0 or images.max() > 1):
        raise InputError(
            f"{name}: expected values in [0, 1], got [{images.min().item():.4g}, {images.max().item():.4g}]"
        )


def standard_layout(images: Tensor) -> Tensor:
    """Return the same images with the strides of a new contiguous tensor.

    The last bits of a network's output depend on the layout of its input (channels-last or not). All images
    that pass from one stage to the next therefore have this layout, like images that are read from the store.
    """
    strides = torch.empty(images.shape, device="meta").stride()
    return images if images.stride() == strides else images.clone(memory_format=torch.contiguous_format)


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images to this height and width, bicubic and antialiased within [0, 1], unless they have it."""
    if list(images.shape[2:]) == list(size):
        return images
    return F.interpolate(images, size=list(size), mode="bicubic", antialias=True).clamp(0, 1)


def clipped(images: Tensor) -> Tensor:
    """Clip images to [0, 1], and keep the gradient of values that are already in [0, 1].

    In some versions of PyTorch the gradient of `clamp` is 0 at exactly 0 and 1, and many pixels are black or
    white.
    """
    return torch.where((images >= 0) & (images <= 1), images, images.clamp(0, 1))


def rounded(images: Tensor) -> Tensor:
    """Round images to 8 bits per value, as in a file or from a camera."""
    return (images * 255).round() / 255


class Index(Protocol):
    """The ids and labels of a split, from which images can be taken. Images are an index of themselves.

    The `fingerprint` identifies the index. For images that are not read, it covers the sizes of their files.
    """

    ids: tuple[str, ...]
    labels: Tensor

    @property
    def fingerprint(self) -> str:
        """A digest that identifies the images."""
        ...

    def take(self, indices: Sequence[int]) -> Images:
        """Return the images at these positions, in this order."""
        ...

    def take_lazy(self, indices: Sequence[int]) -> Any:
        """Return the same images as Images, or as data.listing.LazyImages, which are read when needed."""
        ...


class Dataset(ABC):
    """A source of images. `label_space` names the meaning of the labels; victims must have the same."""

    version = 1
    label_space: str
    classes: tuple[str, ...]
    divided_by: tuple[str, ...] = ()  # parameters that say which image is in which split

    @abstractmethod
    def load(self, split: str) -> Images:
        """Return all images of a split, train, tuning or evaluation; no two splits share an image."""

    def index(self, split: str) -> Index:
        """Return the index of a split; large data sets read an image only when it is taken."""
        return self.load(split)

    @staticmethod
    def check_split(split: str) -> None:
        """Raise InputError for an unknown split."""
        if split not in SPLITS:
            raise InputError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
