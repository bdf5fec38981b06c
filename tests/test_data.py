from itertools import pairwise

import numpy as np
import pytest
import torch

from data.cifar10 import Cifar10
from data.digits_photos import DIGITS, PHOTOS, REGIONS, DigitsPhotos
from data.errors import InputError, MissingError
from data.images import SPLITS, Images

DATASET = DigitsPhotos(copies=1)


@pytest.fixture(scope="module")
def splits() -> dict[str, Images]:
    return {split: DATASET.load(split) for split in SPLITS}


def test_digits_photos_is_what_it_says(splits):
    assert {split: len(images) for split, images in splits.items()} == {
        "train": 1000,
        "tuning": 197,
        "evaluation": 600,
    }
    for images in splits.values():
        assert images.images.shape[1:] == (3, 32, 32)
        assert set(images.labels.tolist()) == set(range(10))
    assert len(PHOTOS) == 8


def test_digits_photos_is_the_same_every_time(splits):
    assert DigitsPhotos(copies=1).load("evaluation").digest == splits["evaluation"].digest
    assert DigitsPhotos(copies=1, seed=1).load("evaluation").digest != splits["evaluation"].digest


def test_splits_share_no_digit_and_no_photograph_region(splits):
    digits = [{i.split("/")[2].split("-")[0] for i in images.ids} for images in splits.values()]
    assert sum(map(len, digits)) == len(set.union(*digits)) == 1797
    for spans in (DIGITS, REGIONS):
        ordered = sorted(spans.values())
        assert all(a[1] <= b[0] for a, b in pairwise(ordered))


def test_subset_of_fewer_images_is_a_prefix(splits):
    images = splits["tuning"]
    assert images.subset(50, seed=3).ids[:20] == images.subset(20, seed=3).ids
    assert images.subset(20, seed=4).ids != images.subset(20, seed=3).ids


def test_chunks_lose_nothing(splits):
    images = splits["tuning"].subset(21, seed=0)
    chunks = list(images.chunks(8))
    assert [len(c) for c in chunks] == [8, 8, 5]
    assert sum((c.ids for c in chunks), ()) == images.ids
    assert torch.equal(torch.cat([c.images for c in chunks]), images.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((2, 3, 4, 4), float("nan"))}, "NaN"),
        ({"images": torch.full((2, 3, 4, 4), 1.5)}, r"\[0, 1\]"),
        ({"images": torch.full((2, 3, 4, 4), -0.1)}, r"\[0, 1\]"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, "float32"),
        ({"images": torch.zeros(3, 4, 4)}, "N, C, H, W"),
        ({"ids": ("a",)}, "as many ids"),
        ({"ids": ("a", "a")}, "unique"),
        ({"labels": torch.zeros(2)}, "int64"),
    ],
)
def test_bad_images_are_refused(change, message):
    good = {
        "ids": ("a", "b"),
        "images": torch.zeros(2, 3, 4, 4),
        "labels": torch.zeros(2, dtype=torch.int64),
    }
    Images(**good)
    with pytest.raises(InputError, match=message):
        Images(**(good | change))


@pytest.mark.parametrize("n", [0, -1, 198])
def test_impossible_subset_sizes(splits, n):
    with pytest.raises(InputError, match=f"1 to 197 images .* got {n}"):
        splits["tuning"].subset(n, seed=0)


def test_unknown_split():
    with pytest.raises(InputError, match="train, tuning, evaluation"):
        DATASET.load("test")


def test_missing_cifar10_says_where_and_how(tmp_path):
    with pytest.raises(MissingError, match=f"{tmp_path}.*cifar-10-python.tar.gz.*DATA_DIR"):
        Cifar10(root=str(tmp_path)).load("evaluation")


def test_damaged_cifar10_is_noticed(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(np.zeros(100).tobytes())
    with pytest.raises(MissingError, match="md5"):
        Cifar10(root=str(tmp_path)).load("evaluation")
