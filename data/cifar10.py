"""CIFAR-10: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html."""

from pathlib import Path

import numpy as np
import torch
import torchvision

from data.errors import MissingError
from data.images import Dataset, Images

TUNING = 1000


class Cifar10(Dataset):
    """32x32 RGB images of 10 classes, read through torchvision, which checks each file's md5.

    The papers evaluate on random test images. The test set's 10,000 images are put in a fixed order; the
    last 1,000 are the tuning split, and the others the evaluation split. Settings are thus chosen on
    images on which no victim was trained and no table is made.

    Args:
        root: folder that contains cifar-10-batches-py.
    """

    version = 1
    descriptive = frozenset({"root"})
    label_space = "cifar10"
    classes = ("airplane", "automobile", "bird", "cat", "deer",
               "dog", "frog", "horse", "ship", "truck")  # fmt: skip

    def __init__(self, *, root: str) -> None:
        self.root = root

    def load(self, split: str) -> Images:
        """Return the images of a split; ids are cifar10/<train or test>/<position in torchvision's order>."""
        self.check_split(split)
        part = "train" if split == "train" else "test"
        if not (Path(self.root) / "cifar-10-batches-py").is_dir():
            raise MissingError(
                f"CIFAR-10 is not in {Path(self.root).resolve()}: expected the folder "
                "cifar-10-batches-py there. Unpack cifar-10-python.tar.gz "
                "(https://www.cs.toronto.edu/~kriz/cifar.html) and set DATA_DIR to its parent"
            )
        try:
            source = torchvision.datasets.CIFAR10(self.root, train=part == "train", download=False)
        except RuntimeError as error:
            raise MissingError(
                f"CIFAR-10 in {Path(self.root).resolve()}: a file is missing or its md5 differs from "
                "the published one (truncated?); unpack cifar-10-python.tar.gz again"
            ) from error
        positions = np.arange(len(source.data))
        if part == "test":
            order = np.random.default_rng(0).permutation(len(positions))
            positions = order[-TUNING:] if split == "tuning" else order[:-TUNING]
        images = torch.from_numpy(source.data[positions]).permute(0, 3, 1, 2).float() / 255
        labels = torch.tensor(source.targets, dtype=torch.int64)[torch.from_numpy(positions)]
        return Images(tuple(f"cifar10/{part}/{i}" for i in positions), images, labels)
