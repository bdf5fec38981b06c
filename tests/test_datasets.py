"""Every data set of configs/dataset on a tiny copy of its layout, and on the real files where they are."""

import logging
import os
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from fake_data import FAKES, WNIDS, flattened, official_splits, picture
from hydra import compose, initialize_config_dir
from PIL import Image

from data.errors import InputError, MissingError
from data.flower17 import Flower17
from data.imagenet import CLASSES, WNIDS_SHA256, ImageNet
from data.images import SPLITS, Dataset
from data.mnist import Mnist
from data.neurips2017 import NeurIPS2017
from runners.app import CONFIGS, names_of
from runners.components import build, plain

NAMES = names_of("dataset")
ON_DISK = [name for name in NAMES if name != "digits-photos"]
ONLY_EVALUATION = {"neurips2017"}


def dataset(name: str, root: Path, *words: str) -> Dataset:
    """As the command line makes it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("evaluate", [f"dataset={name}", f"data_dir='{root}'", *words])
        return build(plain(config.dataset))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Writes the tiny copy of a data set; returns where."""

    def write(name: str) -> Path:
        FAKES[name](tmp_path, monkeypatch.setattr)
        return tmp_path

    return write


@pytest.mark.parametrize("name", NAMES)
def test_splits_hold_what_an_index_says_and_share_no_image(name, fake):
    words = ["dataset.copies=1"] if name == "digits-photos" else []
    source = dataset(name, fake(name), *words)
    seen: set[str] = set()
    for split in ("evaluation",) if name in ONLY_EVALUATION else SPLITS:
        index = source.index(split)
        assert len(index.ids) == len(index.labels) > 0
        assert 0 <= index.labels.min() <= index.labels.max() < len(source.classes)
        some = list(range(len(index.ids)))[-1:0:-2][:3]
        picked = index.take(some)
        assert picked.ids == tuple(index.ids[i] for i in some)
        assert torch.equal(picked.labels, index.labels[some])
        if len(index.ids) < 100:
            assert source.load(split).take(some).digest == picked.digest
        assert index.take([]).ids == ()
        assert not seen & set(index.ids)
        seen |= set(index.ids)
        assert source.index(split).ids == index.ids, "the same every time"


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
    wide = Image.new("RGB", (80, 40), (255, 0, 0))  # its middle is blue below
    wide.paste((0, 0, 255), (20, 20, 60, 40))
    wide.save(index.files[0], quality=100, subsampling=0)
    (image,) = index.take([0]).images
    assert image[0, :4].min() > 0.9, "red above: the crop is of the middle, and rows are rows"
    assert image[2, 6:].min() > 0.9, "blue below: channels are RGB, at half the size no side is seen"
    assert torch.equal(*index.take([2]).images[0, :2]), "grey becomes RGB"
    whole = dataset("neurips2017", fake_neurips(tmp_path), "dataset.size=299").load("evaluation")
    pixels = Image.open(tmp_path / "n" / "neurips2017" / "images" / "0c7a.png").getpixel((7, 3))
    assert (whole.images[0, :, 3, 7] * 255).round().tolist() == list(pixels), "their own size is untouched"


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


# NeurIPS 2017


def test_labels_of_neurips_count_from_one_and_absent_images_are_said(fake, caplog):
    with caplog.at_level(logging.WARNING):
        index = dataset("neurips2017", fake("neurips2017")).index("evaluation")
    assert index.ids == ("neurips2017/0c7a", "neurips2017/f43f", "neurips2017/712f")
    assert index.labels.tolist() == [305, 883, 999]
    assert CLASSES[305] == "dung beetle"
    assert "3 of 4 images are there" in caplog.text


def test_neurips_has_nothing_to_learn_or_to_tune_on(fake):
    source = dataset("neurips2017", fake("neurips2017"))
    with pytest.raises(MissingError, match=r"no train split.*\+dataset@purifier.weights.dataset=imagenet"):
        source.load("train")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = ["dataset=neurips2017", "purifier=ncis", "+dataset@purifier.weights.dataset=flower17"]
        purifier = build(plain(compose("evaluate", words).purifier))
    assert isinstance(purifier.weights.dataset, Flower17)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,x,0,1", "line 6: expected a TrueLabel from 1 to 1000, got '0'"),
        ("a,x,1001,1", "line 6: expected a TrueLabel from 1 to 1000, got '1001'"),
        ("a,x,dog,1", "line 6: expected a TrueLabel from 1 to 1000, got 'dog'"),
        ("a,x", "line 6: expected a TrueLabel from 1 to 1000, got None"),
        (",x,4,1", "line 6: expected an ImageId, the name of an image, got ''"),
        ("../a,x,4,1", "line 6: expected an ImageId, the name of an image, got '../a'"),
        ("f43f,x,4,1", "line 6: expected f43f once, got it in line 3 too"),
        (b"\xff,x,4,1", "expected a CSV file in UTF-8"),
    ],
)
def test_a_bad_row_of_the_list_is_named(fake, line, message):
    root = fake("neurips2017")
    path = root / "neurips2017" / "images.csv"
    path.write_bytes(path.read_bytes() + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(InputError, match=message):
        dataset("neurips2017", root).index("evaluation")


def test_a_list_without_labels_is_refused(fake):
    root = fake("neurips2017")
    (root / "neurips2017" / "images.csv").write_text("ImageId,URL\na,b\n")
    with pytest.raises(InputError, match="line 1: expected a column TrueLabel, got none"):
        dataset("neurips2017", root).index("evaluation")


# ImageNet


def test_both_layouts_of_imagenet_give_the_same_images_and_labels(fake):
    root = fake("imagenet")
    source = dataset("imagenet", root)
    folders = source.load("evaluation")
    assert folders.ids[0] == "imagenet/val/ILSVRC2012_val_00000001"
    assert folders.labels.tolist() == [0, 2, 2, 1, 0, 1]
    flattened(root)
    assert source.load("evaluation").digest == folders.digest


def test_other_classes_than_those_of_ilsvrc_are_refused(fake):
    root = fake("imagenet")
    (root / "imagenet" / "val" / "n00000001").mkdir()
    with pytest.raises(InputError, match=r"val: expected the 1,000 classes .* got 4 others, n00000001 first"):
        dataset("imagenet", root).index("evaluation")


def truth_of(root: Path) -> Path:
    return root / "imagenet" / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: f.unlink(), MissingError, "no class folders.*ground_truth.txt: unpack"),
        (lambda f: f.with_name("meta.mat").unlink(), MissingError, "meta.mat: unpack"),
        (
            lambda f: f.with_name("meta.mat").write_bytes(b"no"),
            InputError,
            "meta.mat: expected a MATLAB file, got one that",
        ),
        (
            lambda f: f.write_text("2\nx\n"),
            InputError,
            "ground_truth.txt, line 2: expected a number .* got 'x'",
        ),
        (lambda f: f.write_text("2\n"), InputError, "0000000[2-6].JPEG: expected ILSVRC2012_val_<1 to 1>"),
    ],
)
def test_a_bad_list_of_labels_is_named(fake, damage, error, message):
    root = fake("imagenet")
    flattened(root)
    damage(truth_of(root))
    with pytest.raises(error, match=message):
        dataset("imagenet", root).index("evaluation")


def test_imagenet_learns_from_training_images_and_tunes_on_others(fake, caplog):
    root = fake("imagenet")
    source = dataset("imagenet", root, "dataset.training=3")
    with caplog.at_level(logging.WARNING):
        assert len(source.index("evaluation").ids) == 6
    assert "6 of 50,000 validation images are there" in caplog.text
    assert [len(source.index(split).ids) for split in ("tuning", "train")] == [5, 3]
    assert all(name.startswith("imagenet/train/n") for name in source.index("train").ids)
    for file in (root / "imagenet" / "train").rglob("*_[0-2].JPEG"):
        file.unlink()
    with pytest.raises(MissingError, match="expected more than the 5 images of the tuning split, got 3"):
        source.index("train")


def test_one_name_in_two_classes_is_refused(fake):
    root = fake("imagenet")
    picture(root / "imagenet" / "val" / WNIDS[1] / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match="imagenet/val/ILSVRC2012_val_00000001 more than once"):
        dataset("imagenet", root).index("evaluation")


def test_the_wnids_are_those_of_timm():
    timm_data = pytest.importorskip("timm.data", reason="timm is not installed")
    names = timm_data.ImageNetInfo("imagenet-1k").label_names()
    assert sha256("\n".join(names).encode()).hexdigest() == WNIDS_SHA256


# Flower-17


def test_the_drawn_split_is_balanced_and_the_official_one_is_taken_where_it_is(fake, caplog):
    root = fake("flower17")
    source = dataset("flower17", root)
    for split, each in (("train", 40), ("tuning", 20), ("evaluation", 20)):
        assert source.index(split).labels.bincount().tolist() == [each] * 17
    official_splits(root)
    there = dataset("flower17", root).index("evaluation")
    assert there.ids[:2] == ("flower17/21", "flower17/22")
    assert there.labels.bincount().tolist() == [20] * 17
    with caplog.at_level(logging.WARNING):
        drawn = dataset("flower17", root, "dataset.splits=drawn").index("evaluation")
    assert drawn.ids == source.index("evaluation").ids != there.ids
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
        some = index.take([0, len(index.ids) - 1])
        assert len(some) == 2
        assert some.images.std() > 0.05
        assert 0 <= index.labels.min() <= index.labels.max() < len(source.classes)
