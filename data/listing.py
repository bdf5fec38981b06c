"""Images that stay in their files until they are taken: all files are listed, and those needed are read."""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import ClassVar

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import functional as transforms

from data.errors import InputError
from data.images import Dataset, Images, as_rgb

HELD = 2**30  # bytes of images that a process keeps in memory, over all chunks


@dataclass(frozen=True)
class Listing:
    """The ids, labels and files of a split; `take` reads only the requested images.

    Args:
        ids: ids as in Images.
        labels: labels (N,), int64.
        files: one file for each image.
        size: height and width of the images that are read, in pixels.
        resize: length to which the shorter side is resized before a centre crop of `size`, as is usual; None
            resizes the whole image to `size` x `size`, without a crop.
        said_in: the line that names each image, "images.csv, line 3", for errors; empty without a list.
    """

    ids: tuple[str, ...]
    labels: Tensor
    files: tuple[Path, ...]
    size: int
    resize: int | None
    said_in: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.ids)) < len(self.ids):
            twice = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise InputError(f"expected unique image ids, got {twice} more than once: remove the copy")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the Index: the sha256 of ids, labels and file sizes. No file is read.

        Other pixels in a file of the same size are noticed only when its image is taken.
        """
        sizes = [file.stat().st_size if file.is_file() else None for file in self.files]
        listed = json.dumps([self.ids, self.labels.tolist(), sizes])
        return hashlib.sha256(listed.encode()).hexdigest()

    def take(self, indices: Sequence[int]) -> Images:
        """Return the images at these positions, in this order; raise InputError if one cannot be read."""
        with ThreadPoolExecutor() as threads:
            images = list(threads.map(self._read, indices))
        shape = (3, self.size, self.size)
        stacked = torch.stack(images) if images else torch.empty(0, *shape)
        return Images(tuple(self.ids[i] for i in indices), stacked, self.labels[list(indices)])

    def take_lazy(self, indices: Sequence[int]) -> "LazyImages":
        """Return the same images, which are read when they are needed."""
        said_in = tuple(self.said_in[i] for i in indices) if self.said_in else ()
        ids, files = tuple(self.ids[i] for i in indices), tuple(self.files[i] for i in indices)
        return LazyImages(
            replace(self, ids=ids, labels=self.labels[list(indices)], files=files, said_in=said_in)
        )

    def _read(self, index: int) -> Tensor:
        """Read an image (3, size, size) in [0, 1], resized bilinearly and antialiased by torchvision."""
        try:
            with Image.open(self.files[index]) as file:
                image = as_rgb(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            listed = f" ({self.said_in[index]})" if self.said_in else ""
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise InputError(
                f"{self.files[index]}{listed}: expected an image, got one that cannot be read ({reason}); "
                "replace it"
            ) from error
        if self.resize is None:
            image = transforms.resize(image, [self.size, self.size])
        else:
            image = transforms.center_crop(transforms.resize(image, [self.resize]), [self.size])
        return transforms.pil_to_tensor(image).float() / 255


class LazyImages:
    """Images of a listing that are held in memory while there is room, and are read again otherwise.

    They are used like Images. All chunks of a process share HELD bytes; the least recently used images are
    released first. Raises InputError if files differ from those that were read at first, OSError if a file
    can no longer be read.
    """

    held: ClassVar[OrderedDict[str, Images]] = OrderedDict()  # by digest
    lock: ClassVar[Lock] = Lock()

    def __init__(self, listing: Listing) -> None:
        self.listing, self.ids, self.labels = listing, listing.ids, listing.labels
        self.first: str | None = None  # the digest when they were first read

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of each image, without reading any."""
        return 3, self.listing.size, self.listing.size

    @property
    def images(self) -> Tensor:
        """The images (N, C, H, W), as in Images."""
        return self._all().images

    @property
    def digest(self) -> str:
        """The digest, as in Images."""
        return self.first or self._all().digest

    def to(self, device: torch.device) -> Images:
        """Return the images on a device."""
        return self._all().to(device)

    def take(self, indices: Sequence[int]) -> Images:
        """Return the images at these positions, in this order."""
        return self._all().take(indices)

    def _all(self) -> Images:
        with self.lock:
            if self.first in self.held:
                self.held.move_to_end(self.first)
                return self.held[self.first]
        try:
            read = self.listing.take(range(len(self)))
        except InputError as error:
            if self.first is None:
                raise
            raise OSError(str(error)) from error  # it could be read before: this task fails, others go on
        if self.first not in (None, read.digest):
            raise InputError(
                f"images {self.ids[0]} to {self.ids[-1]}: expected the files that the run began with, got "
                "others; let nothing write to the data set, and run again"
            )
        self.first = read.digest
        with self.lock:
            self.held[self.first] = read
            while len(self.held) > 1 and sum(images.images.nbytes for images in self.held.values()) > HELD:
                self.held.popitem(last=False)
        return read


class FileDataset(Dataset):
    """A data set of image files, which are listed at once and read when they are taken.

    Args:
        size: height and width in pixels.
        resize: see Listing.
    """

    def __init__(self, *, size: int, resize: int | None) -> None:
        for name, value in (("size", size), ("resize", size if resize is None else resize)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"dataset.{name}: expected pixels, 1 or more, got {value!r}")
        if resize is not None and resize < size:
            raise InputError(f"dataset.resize: expected at least dataset.size, {size}, got {resize}")
        self.size, self.resize = size, resize

    def listing(
        self, ids: Iterable[str], labels: Iterable[int], files: Iterable[Path], *, said_in: Iterable[str] = ()
    ) -> Listing:
        """Return these images at the size of this data set."""
        return Listing(
            ids=tuple(ids),
            labels=torch.tensor(list(labels)),
            files=tuple(files),
            size=self.size,
            resize=self.resize,
            said_in=tuple(said_in),
        )

    def load(self, split: str) -> Images:
        """Return all images of a split, read at once."""
        listing = self.index(split)
        return listing.take(range(len(listing)))
