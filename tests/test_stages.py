"""What one chunk gives, with a purifier and a victim that do next to nothing."""

from types import SimpleNamespace

import pytest
import torch
from conftest import linear_victim, random_images

from data.images import Images, rounded
from runners.evaluation.component import Component
from runners.evaluation.scored import Scored
from runners.evaluation.stages import Worker

VICTIM, PURIFIER = Component({"_target_": "victim"}), Component({"_target_": "purifier"})
CPU = torch.device("cpu")


@pytest.fixture
def made(monkeypatch):
    """Return a function that purifies images; the purifier fits a network to each, and draws have factors."""
    worker = Worker(store=None, device=CPU, precision="float32")
    loaded = {"victim": linear_victim(16), "purifier": SimpleNamespace(per_image_optimization=True)}
    monkeypatch.setattr(worker, "load", lambda component: loaded[component.config["_target_"]])

    def batches(specs, purifiers, images, factor, victim):
        return [images * factor], len(images)

    monkeypatch.setattr(worker, "_batches", batches)
    return lambda images, factors: next(worker._purified([PURIFIER], images, factors, VICTIM))[1]


def test_answers_that_are_nan_under_a_further_draw_fail(made):
    assert made(random_images(2), [0.5, 0.3])["decided"].shape == (2, 2)
    with pytest.raises(ArithmeticError, match="the victim's logits of purified images hold NaN"):
        made(random_images(2), [0.5, float("nan")])


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1], [1], [2]])
def test_a_fit_has_a_result_at_8_bits_for_the_same_images_in_every_chunk(made, rows):
    """The rounding leaves the first and the last image as they are, and changes the second."""
    images = rounded(random_images(3))
    images[1] = images[1] * 0.99 + 0.001
    chunk = Images(("a", "b", "c"), images, torch.zeros(3).long()).take(rows)
    purified = made(chunk.images, [0.5])
    scored = Scored(linear_victim(16), chunk, {"images": chunk.images}, purified, "float32", ("",) * 3, [])
    assert [right is None for right in scored.right_8_bit] == [row == 1 for row in rows]
