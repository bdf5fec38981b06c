"""Packed artefacts give back every bit, and take less space if there is something to gain."""

import json
import struct

import numpy as np
import pytest
import torch

from data.errors import InputError
from runners.store import packing
from runners.store.artifact import Artifact
from runners.store.store import Store

RECIPE = Artifact("adversarial", {"a": 1})
DRAWS = np.random.default_rng(0)
GRID = (DRAWS.integers(0, 256, 40_000) / 255).astype(np.float32)
BETWEEN = GRID + DRAWS.uniform(-0.03, 0.03, GRID.shape).astype(np.float32)
MIXED = np.where(DRAWS.random(GRID.shape) < 0.5, GRID, BETWEEN)
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45], np.float32)


@pytest.mark.parametrize(
    ("content", "most"),
    [
        (GRID.tobytes(), 0.30),
        (MIXED.tobytes(), 0.65),
        (BETWEEN.tobytes(), 0.90),
        (np.concatenate([np.repeat(ODD, 5_000), BETWEEN]).tobytes() + b"odd", 0.90),
    ],
    ids=["8 bits", "half of it", "no two alike", "special values and a length that is odd"],
)
def test_every_bit_comes_back_in_less_space(content, most):
    small = packing.packed(content)
    assert len(small) < most * len(content)
    assert packing.unpacked(small) == content


@pytest.mark.parametrize("content", [b"", b"abc", bytes(10**6), DRAWS.bytes(40_000)])
def test_what_gains_nothing_or_would_grow_too_much_is_left_as_it_is(content):
    assert packing.packed(content) is None


@pytest.mark.parametrize(
    "small",
    [
        b"",
        packing.packed(MIXED.tobytes())[:-7],
        struct.pack("<QQQ", 10**12, 0, 0) + packing.packed(MIXED.tobytes())[24:],
        struct.pack("<QQQ", 400, 2**63, 0) + bytes(100),
    ],
    ids=["empty", "cut off", "claims a terabyte", "claims a table of 2**63"],
)
def test_what_was_not_packed_so_is_refused_before_it_takes_memory(small):
    with pytest.raises(ValueError):  # noqa: PT011, whatever it says
        packing.unpacked(small)


def test_a_store_packs_images_reads_what_is_not_packed_and_refuses_newer_forms(tmp_path):
    store, images = Store(tmp_path), {"images": torch.from_numpy(MIXED)}
    store.put_tensors(RECIPE, images)
    plain = store.path(RECIPE).stat().st_size
    assert torch.equal(store.get_tensors(RECIPE)["images"], images["images"]), "older stores have this form"
    store.put_tensors(RECIPE, images, pack=True)
    assert store.path(RECIPE).stat().st_size < 0.7 * plain
    assert torch.equal(store.get_tensors(RECIPE)["images"], images["images"])
    head, _, content = store.path(RECIPE).read_bytes().partition(b"\n")
    newer = json.dumps(json.loads(head) | {"packed": packing.VERSION + 1}).encode()
    store.path(RECIPE).write_bytes(newer + b"\n" + content)
    with pytest.raises(InputError, match="reads form 1; use the newer version, or another store"):
        store.get(RECIPE)
    assert store.has(RECIPE), "another version's work was removed"
