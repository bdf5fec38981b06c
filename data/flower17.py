"""Oxford Flower-17: Nilsback & Zisserman 2006, https://www.robots.ox.ac.uk/~vgg/data/flowers/17/."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from data import matlab
from data.errors import InputError, MissingError
from data.listing import FileDataset, Listing

log = logging.getLogger(__name__)

PER_CLASS = 80  # images of each class, which are numbered in the order of the classes
DRAWN = {
    "train": (0, 40),
    "tuning": (40, 60),
    "evaluation": (60, 80),
}  # places among a class's shuffled images
OFFICIAL = {"train": "trn1", "tuning": "val1", "evaluation": "tst1"}
SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/17/"


class Flower17(FileDataset):
    """RGB images of 17 classes, 80 of each, with sides of 500 pixels or more.

    There are 680 images to train, 340 to tune and 340 to evaluate in both kinds of splits. The test set of
    Online Alternate Generator (https://arxiv.org/abs/2009.08110) has 340 images too: every accuracy of its
    Table I is a multiple of 1/340.

    Args:
        root: folder that contains flower17/jpg/image_0001.jpg to image_1360.jpg.
        splits: "official" for the first of the authors' three splits, read from flower17/datasplits.mat (the
            paper does not say which one it used); "drawn" for 40, 20 and 20 images of each class, drawn by a
            fixed seed. There is no default, so that what was trained on one is not evaluated on the other.
        size, resize: the shorter side is resized to `resize`, then the central `size` x `size` is cropped.
    """

    version = 1
    descriptive = frozenset({"root"})
    label_space = "flower17"
    divided_by = ("splits",)
    classes = ("daffodil", "snowdrop", "lily_valley", "bluebell", "crocus", "iris", "tigerlily", "tulip",
               "fritillary", "sunflower", "daisy", "colts_foot", "dandelion", "cowslip", "buttercup",
               "windflower", "pansy")  # fmt: skip

    def __init__(
        self, *, root: str, splits: Literal["official", "drawn"], size: int = 224, resize: int | None = 256
    ) -> None:
        super().__init__(size=size, resize=resize)
        if splits not in ("official", "drawn"):
            raise InputError(f"dataset.splits: expected official or drawn, got {splits!r}")
        self.folder, self.splits = Path(root) / "flower17", splits

    def index(self, split: str) -> Listing:
        """Return the listing of a split; ids are flower17/<number of the image, from 1>."""
        self.check_split(split)
        count = PER_CLASS * len(self.classes)
        files = [self.folder / "jpg" / f"image_{number:04}.jpg" for number in range(1, count + 1)]
        if absent := [file.name for file in files if not file.is_file()]:
            raise MissingError(
                f"Flower-17 is not whole in {files[0].parent.resolve()}: {len(absent)} of {count} images are "
                f"missing ({absent[0]} first). Unpack 17flowers.tgz ({SOURCE}) into DATA_DIR/flower17"
            )
        numbers = (self._official() if self.splits == "official" else self._drawn())[split]
        return self.listing(
            ids=(f"flower17/{number}" for number in numbers),
            labels=((number - 1) // PER_CLASS for number in numbers),
            files=(files[number - 1] for number in numbers),
        )

    def _drawn(self) -> dict[str, list[int]]:
        if (self.folder / "datasplits.mat").is_file():
            log.warning("flower17: the drawn split is used; dataset.splits=official takes datasplits.mat")
        rng = np.random.default_rng(0)
        order = [
            first + rng.permutation(PER_CLASS) for first in range(1, len(self.classes) * PER_CLASS, PER_CLASS)
        ]
        return {
            name: sorted(int(number) for class_numbers in order for number in class_numbers[start:stop])
            for name, (start, stop) in DRAWN.items()
        }

    def _official(self) -> dict[str, list[int]]:
        path = self.folder / "datasplits.mat"
        if not path.is_file():
            raise MissingError(
                f"{path.resolve()} is not there: fetch it ({SOURCE}datasplits.mat), or take the split "
                "drawn here with dataset.splits=drawn"
            )
        hint = f"fetch it again ({SOURCE}datasplits.mat)"
        content = matlab.read(path, names=tuple(OFFICIAL.values()), hint=hint)
        arrays = {name: np.ravel(content[key]) for name, key in OFFICIAL.items()}
        count = PER_CLASS * len(self.classes)
        expected = f"{path}: expected {', '.join(OFFICIAL.values())} to hold"
        if any(array.dtype.kind not in "iuf" for array in arrays.values()):
            raise InputError(f"{expected} numbers of images; {hint}")
        splits = {name: array.astype(int).tolist() for name, array in arrays.items()}
        every = [number for numbers in splits.values() for number in numbers]
        complete = len(set(every)) == len(every) and set(every) <= set(range(1, count + 1))
        if not complete or not all(splits.values()):
            raise InputError(
                f"{expected} numbers from 1 to {count}, each once, got {len(every)}, {len(set(every))} of "
                f"them different, from {min(every, default=0)} to {max(every, default=0)}; {hint}"
            )
        return splits
