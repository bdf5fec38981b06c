"""Every data set of configs/dataset on a tiny copy of its layout, and on the real files if they exist."""

import logging
import os
from pathlib import Path

import pytest
import torch
from fake_data import FAKES, dataset, official_splits
from PIL import Image

from data.errors import InputError, MissingError
from data.flower17 import Flower17
from data.imagenet import ImageNet
from data.images import SPLITS
from data.mnist import Mnist
from data.neurips2017 import NeurIPS2017
from runners.config_errors import names_of

NAMES = [name for name in names_of("dataset") if not name.startswith("own/")]  # tests/test_own_data.py
ON_DISK = [name for name in NAMES if name != "digits-photos"]
ONLY_EVALUATION = {"neurips2017"}


@pytest.mark.parametrize("name", NAMES)
def test_splits_hold_what_an_index_says_and_share_no_image(name, fake):
    words = ["dataset.copies=1"] if name == "digits-photos" else []
    source = dataset(name, fake(name), *words)
    seen: set[str] = set()
    for split in ("evaluation",) if name in ONLY_EVALUATION else SPLITS:
        index = source.index(split)
        assert len(index.ids) == len(index.labels) > 0
        assert 0 <= index.labels.min() <= index.labels.max() < len(source.classes)
        positions = list(range(len(index.ids)))[-1:0:-2][:3]
        images = index.take(positions)
        assert images.ids == tuple(index.ids[i] for i in positions)
        assert torch.equal(images.labels, index.labels[positions])
        if len(index.ids) < 100:
            assert source.load(split).take(positions).digest == images.digest
        assert index.take([]).ids == ()
        assert not seen & set(index.ids)
        seen |= set(index.ids)
        assert source.index(split).ids == index.ids, "reading the index again gives other ids"


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_refused(name, fake):
    with pytest.raises(InputError, match=r"train, tuning, evaluation, got 'test'"):
        dataset(name, fake(name)).index("test")


@pytest.mark.parametrize("name", ON_DISK)
def test_what_is_not_there_is_said_with_how_to_get_it(name, tmp_path):
    with pytest.raises(MissingError, match=rf"{tmp_path}.*(http|download=True).*DATA_DIR"):
        dataset(name, tmp_path).index("evaluation")


@pytest.mark.parametrize(("name", "size"), [("imagenet", 16), ("neurips2017", 16), ("flower17", 16)])
def test_only_what_is_picked_is_read(name, size, fake):
    words = [f"dataset.size={size}"] + ([] if name == "neurips2017" else ["dataset.resize=20"])
    source = dataset(name, fake(name), *words)
    index = source.index("evaluation")
    for file in index.files[2:]:
        file.write_bytes(b"")
    assert index.take([1, 0]).images.shape == (2, 3, size, size)
    with pytest.raises(InputError, match=rf"{index.files[2]}.*cannot be read .not an image."):
        index.take([2])


def test_a_damaged_image_is_named_with_the_line_that_lists_it(fake):
    root = fake("neurips2017")
    file = root / "neurips2017" / "images" / "712f.png"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"712f.png \(images.csv, line 5\): expected an image, .*truncated"):
        dataset("neurips2017", root).load("evaluation")


def test_images_are_brought_to_size_as_the_field_does(fake, tmp_path):
    root = fake("imagenet")
    source = dataset("imagenet", root, "dataset.size=10", "dataset.resize=20")
    index = source.index("evaluation")
    wide = Image.new("RGB", (80, 40), (255, 0, 0))  # the lower half of its middle is blue
    wide.paste((0, 0, 255), (20, 20, 60, 40))
    wide.save(index.files[0], quality=100, subsampling=0)
    (image,) = index.take([0]).images
    assert image[0, :4].min() > 0.9, "the top is red if the crop is of the middle and rows are not columns"
    assert image[2, 6:].min() > 0.9, "the bottom is blue if channels are RGB and the sides are cut off"
    assert torch.equal(*index.take([2]).images[0, :2]), "grey images become RGB"
    whole = dataset("neurips2017", fake_neurips(tmp_path), "dataset.size=299").load("evaluation")
    pixels = Image.open(tmp_path / "n" / "neurips2017" / "images" / "0c7a.png").getpixel((7, 3))
    assert (whole.images[0, :, 3, 7] * 255).round().tolist() == list(pixels), (
        "images of this size stay as they are"
    )


def fake_neurips(tmp_path: Path) -> Path:
    root = tmp_path / "n"
    FAKES["neurips2017"](root, None)
    return root


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (NeurIPS2017, {"size": 0}, "dataset.size: expected pixels, 1 or more, got 0"),
        (
            ImageNet,
            {"size": 224, "resize": 200},
            "dataset.resize: expected at least dataset.size, 224, got 200",
        ),
        (ImageNet, {"training": 0}, "dataset.training: expected 1 image or more, got 0"),
        (Flower17, {"splits": "mine"}, "dataset.splits: expected official or drawn, got 'mine'"),
    ],
)
def test_bad_parameters(kind, arguments, message):
    with pytest.raises(InputError, match=message):
        kind(root=".", **arguments)


# Flower-17


def test_the_drawn_split_is_balanced_and_the_official_one_is_taken_where_it_is(fake, caplog):
    root = fake("flower17")
    source = dataset("flower17", root)
    for split, per_class in (("train", 40), ("tuning", 20), ("evaluation", 20)):
        assert source.index(split).labels.bincount().tolist() == [per_class] * 17
    official_splits(root)
    official = dataset("flower17", root).index("evaluation")
    assert official.ids[:2] == ("flower17/21", "flower17/22")
    assert official.labels.bincount().tolist() == [20] * 17
    with caplog.at_level(logging.WARNING):
        drawn = dataset("flower17", root, "dataset.splits=drawn").index("evaluation")
    assert drawn.ids == source.index("evaluation").ids != official.ids
    assert "dataset.splits=official" in caplog.text


def test_the_official_split_must_be_there_when_it_is_asked_for(fake):
    with pytest.raises(MissingError, match=r"datasplits.mat is not there: fetch it"):
        dataset("flower17", fake("flower17"), "dataset.splits=official").index("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val1": None}, "arrays trn1, val1, tst1, got none called val1"),
        ({"val1": [61]}, "got 1021, 1020 of them different"),
        ({"val1": [0]}, "from 0 to 1360"),
        ({"val1": []}, "trn1, val1, tst1 to hold numbers from 1 to 1360, each once, got 1020"),
        ({"val1": "text"}, "to hold numbers of images"),
    ],
)
def test_a_damaged_official_split_is_named(fake, changes, message):
    root = fake("flower17")
    official_splits(root, **changes)
    with pytest.raises(InputError, match=rf"datasplits.mat: expected .*{message}"):
        dataset("flower17", root).index("train")


def test_a_file_that_is_no_matlab_file_is_named(fake):
    root = fake("flower17")
    (root / "flower17" / "datasplits.mat").write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(InputError, match=r"datasplits.mat: expected a MATLAB file"):
        dataset("flower17", root).index("train")


def test_an_absent_flower_is_named(fake):
    root = fake("flower17")
    (root / "flower17" / "jpg" / "image_0700.jpg").unlink()
    with pytest.raises(MissingError, match=r"1 of 1360 images are missing \(image_0700.jpg first\)"):
        dataset("flower17", root).index("train")


# MNIST


def test_mnist_is_grey_and_its_labels_fit_its_images(fake):
    test = dataset("mnist", fake("mnist")).load("evaluation")
    assert test.images.shape == (30, 1, 28, 28)
    assert test.labels.tolist() == [int(name.split("/")[2]) % 10 for name in test.ids]


def test_a_damaged_mnist_file_is_named_with_its_md5(fake):
    root = fake("mnist")
    path = root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    Mnist(root=str(root)).load("train")
    with pytest.raises(MissingError, match=r"t10k-images-idx3-ubyte: expected md5 \w{32}, got \w{32}"):
        Mnist(root=str(root)).load("evaluation")


# The real files

REAL = {  # images of each split
    "mnist": {"train": 60000, "tuning": 1000, "evaluation": 9000},
    "cifar10": {"evaluation": 9000},
    "flower17": {"train": 680, "tuning": 340, "evaluation": 340},
    "neurips2017": {"evaluation": None},
    "imagenet": {"evaluation": None},
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files_are_read(name):
    source = dataset(name, Path(os.environ.get("DATA_DIR", "DATA_DIR")))
    for split, count in REAL[name].items():
        try:
            index = source.index(split)
        except MissingError as error:
            pytest.skip(str(error).splitlines()[0])
        assert count is None or len(index.ids) == count
        images = index.take([0, len(index.ids) - 1])
        assert len(images) == 2
        assert images.images.std() > 0.05
        assert 0 <= index.labels.min() <= index.labels.max() < len(source.classes)
