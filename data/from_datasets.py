"""Data sets of Hugging Face's datasets (Lhoest et al. 2021, https://arxiv.org/abs/2109.02846)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

from data.errors import InputError, MissingError
from data.images import Dataset, Images, as_rgb


@dataclass(frozen=True)
class Rows:
    """The rows of one split; `take` decodes only the images that are requested."""

    rows: Any
    labels: Tensor
    image: str
    name: str
    size: int

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the rows: <name>/<position>."""
        return tuple(f"{self.name}/{place}" for place in range(len(self.rows)))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the library, which covers the content."""
        return str(self.rows._fingerprint)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Images:
        """Return the images at these positions, in this order."""
        images = [self._decoded(self.rows[int(i)][self.image]) for i in indices]
        return Images(tuple(self.ids[i] for i in indices), torch.stack(images), self.labels[list(indices)])

    take_lazy = take

    def _decoded(self, image: Any) -> Tensor:
        resized = transforms.resize(as_rgb(image), [self.size, self.size])
        return transforms.pil_to_tensor(resized).float() / 255


class SavedDataset(Dataset):
    """A data set that `save_to_disk` of `datasets` wrote, with a column of images and one of labels.

    Args:
        path: folder of the data set.
        label_space: name of the meaning of the labels; a victim must have the same.
        name: prefix of the ids, which distinguishes this data set from others.
        image, label: names of the columns.
        splits: names of the splits evaluation, tuning and train in the data set.
        size: height and width to which images are resized, in pixels.
    """

    version = 1
    descriptive = frozenset({"path"})

    def __init__(
        self,
        *,
        path: str,
        label_space: str,
        name: str = "saved",
        image: str = "image",
        label: str = "label",
        splits: dict[str, str] | None = None,
        size: int = 224,
    ) -> None:
        try:
            from datasets import load_from_disk
        except ImportError as error:
            raise MissingError("this data set needs datasets: install it beside purifybench") from error
        if not Path(path).is_dir():
            raise MissingError(
                f"dataset.path: {path} does not exist: write the data set there with save_to_disk"
            )
        if not isinstance(size, int) or size < 1:
            raise InputError(f"dataset.size: expected pixels, 1 or more, got {size!r}")
        self.held = load_from_disk(path)
        self.label_space, self.name, self.image, self.label, self.size = label_space, name, image, label, size
        self.splits = splits or {"evaluation": "test", "tuning": "validation", "train": "train"}
        first = next(iter(self.held.values()))
        if lacking := [column for column in (image, label) if column not in first.features]:
            columns = ", ".join(first.features)
            raise InputError(f"dataset: expected the column {lacking[0]} in {path}, got {columns}")
        self.classes = tuple(getattr(first.features[label], "names", ())) or tuple(
            map(str, range(1 + max(max(part[label]) for part in self.held.values())))
        )

    def index(self, split: str) -> Rows:
        """Return the rows of a split; ids are <name>/<split>/<position>."""
        self.check_split(split)
        called = self.splits.get(split)
        if called not in self.held:
            raise MissingError(
                f"dataset.splits: expected {split} to be one of {', '.join(self.held)}, got {called}"
            )
        rows = self.held[called]
        return Rows(rows, torch.tensor(rows[self.label]), self.image, f"{self.name}/{called}", self.size)

    def load(self, split: str) -> Images:
        """Return all images of a split, decoded at once."""
        index = self.index(split)
        return index.take(range(len(index)))
