"""ImageNet (ILSVRC 2012): Russakovsky et al. 2015, https://arxiv.org/abs/1409.0575."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.models import ResNet50_Weights

from data import matlab
from data.errors import InputError, MissingError
from data.listing import FileDataset, Listing

log = logging.getLogger(__name__)

CLASSES = tuple(ResNet50_Weights.DEFAULT.meta["categories"])  # in torchvision's order
WNIDS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"  # of the sorted wnids
VALIDATION = 50_000
TUNING = 1000
DEVKIT = Path("ILSVRC2012_devkit_t12") / "data"
HOW = (
    "get the ILSVRC 2012 archives from https://image-net.org (an account is needed), unpack each to a folder "
    "a class, as torchvision.datasets.ImageNet does, and set DATA_DIR to the parent of imagenet"
)


class ImageNet(FileDataset):
    """RGB images of 1,000 classes in torchvision's order, evaluated on the 50,000 validation images.

    The layout is torchvision's, imagenet/val/<wnid>/*.JPEG; the sorted wnids are the classes, and they are
    checked. The validation images may also be in imagenet/val as in the archive, without class folders, if
    the development kit with its list of labels is in imagenet/ILSVRC2012_devkit_t12.

    The other splits come from imagenet/train/<wnid>/*.JPEG, in a fixed order. The first 1,000 images are the
    tuning split (as in NCIS, https://arxiv.org/abs/2106.11644, which chooses its settings on 1,000 training
    images), and the next `training` images are the training split.

    Args:
        root: folder that contains imagenet.
        training: number of training images; NCIS takes 5 % of all, 64,058. A victim's training holds all of
            them in memory (0.6 MB each at 224 pixels), a purifier's reads them by the batch.
        size, resize: the shorter side is resized to `resize`, then `size` x `size` is cropped from the
            centre, which is the usual test of a classifier of 224 pixels.
    """

    version = 1
    descriptive = frozenset({"root"})
    label_space = "imagenet"
    classes = CLASSES

    def __init__(self, *, root: str, training: int = 5000, size: int = 224, resize: int | None = 256) -> None:
        super().__init__(size=size, resize=resize)
        if not isinstance(training, int) or training < 1:
            raise InputError(f"dataset.training: expected 1 image or more, got {training!r}")
        self.folder, self.training = Path(root) / "imagenet", training

    def index(self, split: str) -> Listing:
        """Return the listing of a split; ids are imagenet/<val or train>/<name of the file>."""
        self.check_split(split)
        part = "val" if split == "evaluation" else "train"
        entries = self._found(part)
        if part == "val" and len(entries) != VALIDATION:
            log.warning(
                "imagenet: %s of %s validation images are there", f"{len(entries):,}", f"{VALIDATION:,}"
            )
        if part == "train":
            if len(entries) <= TUNING:
                raise MissingError(
                    f"{self.folder / part}: expected more than the {TUNING} images of the tuning split, got "
                    f"{len(entries)}; {HOW}"
                )
            order = np.random.default_rng(0).permutation(len(entries)).tolist()
            picked = order[:TUNING] if split == "tuning" else order[TUNING : TUNING + self.training]
            entries = [entries[i] for i in picked]
        return self.listing(
            ids=(f"imagenet/{part}/{file.stem}" for file, _ in entries),
            labels=(label for _, label in entries),
            files=(file for file, _ in entries),
        )

    def _found(self, part: str) -> list[tuple[Path, int]]:
        """Return files and labels in the order of the files' names, which does not depend on the layout."""
        folder = self.folder / part
        if not folder.is_dir():
            raise MissingError(f"ImageNet: {folder.resolve()} is not there; {HOW}")
        wnids = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if not wnids and part == "val":
            files = _images(folder)
            labels = _listed_labels(self.folder / DEVKIT, files) if files else []
        else:
            _check_wnids(wnids, str(folder))
            files_of_classes = [_images(folder / wnid) for wnid in wnids]
            files = [file for class_files in files_of_classes for file in class_files]
            labels = [label for label, class_files in enumerate(files_of_classes) for _ in class_files]
        if not files:
            raise MissingError(f"ImageNet: {folder.resolve()} holds no images; {HOW}")
        return sorted(zip(files, labels, strict=True), key=lambda pair: pair[0].name)


def _images(folder: Path) -> list[Path]:
    names = (entry.name for entry in os.scandir(folder))
    return [folder / n for n in names if n.lower().endswith(IMG_EXTENSIONS) and not n.startswith(".")]


def _check_wnids(wnids: list[str], where: str) -> None:
    """Raise InputError unless these are the 1,000 wnids of ILSVRC 2012, whose places are the labels."""
    if hashlib.sha256("\n".join(wnids).encode()).hexdigest() != WNIDS_SHA256:
        first = f", {wnids[0]} first" if wnids else ""
        raise InputError(
            f"{where}: expected the {len(CLASSES):,} classes of ILSVRC 2012 (n01440764 to n15075141; empty "
            f"folders are fine), got {len(wnids):,} others{first}; {HOW}"
        )


def _listed_labels(devkit: Path, files: list[Path]) -> list[int]:
    """Return the development kit's labels of validation images without class folders."""
    truth, meta = devkit / "ILSVRC2012_validation_ground_truth.txt", devkit / "meta.mat"
    for path in (truth, meta):
        if not path.is_file():
            raise MissingError(
                f"ImageNet: {files[0].parent} has no class folders, and the labels are not in "
                f"{path.resolve()}: unpack ILSVRC2012_devkit_t12.tar.gz beside it, or {HOW}"
            )
    synsets = matlab.read(meta, names=("synsets",), hint=HOW)["synsets"]
    try:
        leaves = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0}
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{meta}: expected the development kit's synsets, got {error}; {HOW}") from error
    wnids = sorted(leaves.values())
    _check_wnids(wnids, str(meta))
    places = {number: wnids.index(wnid) for number, wnid in leaves.items()}
    labels = []
    for place, line in enumerate(truth.read_text(errors="replace").splitlines(), 1):
        if not line.strip().isdecimal() or int(line) not in places:
            raise InputError(f"{truth}, line {place}: expected a number from 1 to 1000, got {line[:40]!r}")
        labels.append(places[int(line)])
    return [labels[_number(file, len(labels)) - 1] for file in files]


def _number(file: Path, count: int) -> int:
    """Return the number in a file name, such as 7 for ILSVRC2012_val_00000007.JPEG."""
    number = file.stem.rpartition("_")[2]
    if not number.isdecimal() or not 1 <= int(number) <= count:
        raise InputError(f"{file}: expected ILSVRC2012_val_<1 to {count}>.JPEG, as in the list of labels")
    return int(number)
