"""ImageNet in both of its layouts, and the NeurIPS 2017 images that share its labels."""

import logging
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import config_of
from fake_data import WNIDS, dataset, flattened, picture

from data.errors import InputError, MissingError
from data.flower17 import Flower17
from data.imagenet import CLASSES, WNIDS_SHA256
from runners.evaluation.component import build

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
    with pytest.raises(MissingError, match=r"no train split.*training@purifier.weights=photographs"):
        source.load("train")
    words = ["dataset=neurips2017", "training@purifier.weights=photographs"]
    purifier = build(config_of("purifier", "ncis", *words))
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
