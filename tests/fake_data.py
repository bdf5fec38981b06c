"""Tiny data sets in the layouts of the real ones, and what loaders must be told to accept them."""

import csv
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from hydra import compose, initialize_config_dir
from PIL import Image

import data.flower17
import data.imagenet
import data.mnist
from data.images import Dataset
from runners.evaluation.component import build, to_plain_dict
from runners.places import CONFIGS

WNIDS = ["n01440764", "n01443537", "n02084071"]
ILSVRC_IDS = [2, 3, 1]  # the development kit has its own order of classes
VALIDATION = [0, 2, 2, 1, 0, 1]  # labels of images 1 to 6, in torchvision's order


def picture(path: Path, *, size: tuple[int, int] = (40, 30), seed: int = 0, mode: str = "RGB") -> None:
    """Write a small random image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def mnist(root: Path, patch: Callable[..., None]) -> None:
    folder, rng = root / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, count in (("train", 30), ("t10k", 40)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        header = np.array([0x801, count], ">i4").tobytes()
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    digests = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    patch("data.mnist.MD5", {name: digests[name] for name in data.mnist.MD5})
    patch("data.mnist.TUNING", 10)


def cifar10(root: Path, patch: Callable[..., None]) -> None:
    folder, rng = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {
            "data": rng.integers(0, 256, (30, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(30)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    patch("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    patch("data.cifar10.TUNING", 10)


def flower17(root: Path, patch: Callable[..., None]) -> None:
    first = root / "flower17" / "jpg" / "image_0001.jpg"
    picture(first)
    for number in range(2, 1361):
        first.with_name(f"image_{number:04}.jpg").write_bytes(first.read_bytes())


def official_splits(root: Path, **changes: object) -> None:
    """Write the authors' file of splits, each of which takes the same positions of every class."""
    numbers = np.arange(1, 1361).reshape(17, 80)
    parts = {"trn1": numbers[:, 40:], "val1": numbers[:, :20], "tst1": numbers[:, 20:40]}
    content = {name: part.reshape(1, -1).astype(np.uint16) for name, part in parts.items()} | changes
    path = root / "flower17" / "datasplits.mat"
    scipy.io.savemat(path, {name: value for name, value in content.items() if value is not None})


def imagenet(root: Path, patch: Callable[..., None]) -> None:
    for number, label in enumerate(VALIDATION, 1):
        name = f"ILSVRC2012_val_{number:08}.JPEG"
        picture(
            root / "imagenet" / "val" / WNIDS[label] / name, seed=number, mode="L" if number == 3 else "RGB"
        )
    for wnid in WNIDS:
        for number in range(4):
            picture(root / "imagenet" / "train" / wnid / f"{wnid}_{number}.JPEG", seed=number)
    patch("data.imagenet.WNIDS_SHA256", hashlib.sha256("\n".join(WNIDS).encode()).hexdigest())
    patch("data.imagenet.TUNING", 5)


def flattened(root: Path) -> None:
    """Arrange the fake ImageNet's validation images as the archive does, and write the development kit."""
    folder = root / "imagenet" / "val"
    for file in sorted(folder.rglob("*.JPEG")):
        file.rename(folder / file.name)
    for wnid in WNIDS:
        (folder / wnid).rmdir()
    devkit = root / "imagenet" / data.imagenet.DEVKIT
    devkit.mkdir(parents=True)
    rows = [(7, "n00001740", 3), *zip(ILSVRC_IDS, WNIDS, [0, 0, 0], strict=True)]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    scipy.io.savemat(devkit / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    truth = "".join(f"{ILSVRC_IDS[label]}\n" for label in VALIDATION)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def neurips2017(root: Path, patch: Callable[..., None]) -> None:
    names, labels = ["0c7a", "f43f", "ffff", "712f"], [306, 884, 5, 1000]
    for seed, name in enumerate(names):
        if name != "ffff":  # not every user has all images
            picture(root / "neurips2017" / "images" / f"{name}.png", size=(299, 299), seed=seed)
    with (root / "neurips2017" / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "URL", "TrueLabel", "TargetClass"])
        rows.writerows([name, "http://x", label, 1] for name, label in zip(names, labels, strict=True))


def embedded(root: Path, patch: Callable[..., None]) -> None:
    """Do nothing, since this data set needs no files."""


FAKES = {
    "digits-photos": embedded,
    "cifar10": cifar10,
    "mnist": mnist,
    "flower17": flower17,
    "imagenet": imagenet,
    "neurips2017": neurips2017,
}


def dataset(name: str, root: Path, *words: str) -> Dataset:
    """Return the data set as the command line builds it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("evaluate", [f"dataset={name}", f"data_dir='{root}'", *words])
        return build(to_plain_dict(config.dataset))
