"""MNIST: LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/."""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.datasets.utils import calculate_md5

from data.errors import MissingError
from data.images import Dataset, Images

TUNING = 1000
# These are of the unpacked files; torchvision checks those of the archives, and only when it downloads them.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Mnist(Dataset):
    """28x28 grey images with one channel, of 10 classes.

    Each file's md5 is checked before torchvision reads it.

    As in CIFAR-10, the test set's 10,000 images are put in a fixed order; the last 1,000 are the tuning
    split, and the others the evaluation split. The training split has all 60,000 training images.

    Args:
        root: folder that contains MNIST/raw, as torchvision unpacks it.
    """

    version = 1
    descriptive = frozenset({"root"})
    label_space = "mnist"
    classes = tuple("0123456789")

    def __init__(self, *, root: str) -> None:
        self.root = root

    def load(self, split: str) -> Images:
        """Return the images of a split; ids are mnist/<train or test>/<position in the file>."""
        self.check_split(split)
        part = "train" if split == "train" else "test"
        self._check_files("train" if part == "train" else "t10k")
        source = torchvision.datasets.MNIST(self.root, train=part == "train", download=False)
        positions = np.arange(len(source.data))
        if part == "test":
            order = np.random.default_rng(0).permutation(len(positions))
            positions = order[-TUNING:] if split == "tuning" else order[:-TUNING]
        picked = torch.from_numpy(positions)
        images = source.data[picked].unsqueeze(1).float() / 255
        return Images(tuple(f"mnist/{part}/{i}" for i in positions), images, source.targets[picked].long())

    def _check_files(self, prefix: str) -> None:
        folder = Path(self.root).resolve() / "MNIST" / "raw"
        how = (
            'unpack the four .gz archives of MNIST there (python -c "import torchvision; '
            "torchvision.datasets.MNIST('DATA_DIR', download=True)\" fetches them) and set DATA_DIR"
        )
        if absent := [name for name in MD5 if not (folder / name).is_file()]:
            raise MissingError(f"MNIST is not in {folder}: {', '.join(absent)} not there; {how}")
        for name in MD5:
            if name.startswith(prefix) and (digest := calculate_md5(folder / name)) != MD5[name]:
                raise MissingError(
                    f"MNIST: {folder / name}: expected md5 {MD5[name]}, got {digest} (truncated?); {how}"
                )
