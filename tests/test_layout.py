"""Images that pass between stages have one memory layout, so stored and fresh ones give the same bits."""

import pytest
import torch
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.target import Target
from data.images import Images, standard_layout
from purifiers.purifier import Purifier

SHAPES = [(1, 3, 8, 8), (4, 3, 8, 8), (1, 1, 8, 8), (4, 1, 8, 8)]


def other_layout(images: Tensor) -> Tensor:
    """Return the same images in the layout of a decoder or of a channels-last network."""
    return images.clone(memory_format=torch.channels_last)


def standard(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape).stride()


class ChannelsLast(Purifier):
    version = 1

    def purify(self, images: Tensor, seeds, victim: nn.Module | None) -> Tensor:
        return other_layout(images)


class Unchanged(Attack):
    version = 1
    needs = None

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return other_layout(images)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_stage_hands_out_the_standard_layout(shape):
    images, count = torch.rand(shape), shape[0]
    strange = other_layout(images)
    assert strange.stride() != standard(shape)
    target = Target(lambda rows, seeds: rows.flatten(1), seeds=range(count))
    labels = torch.zeros(count, dtype=torch.int64)
    handed_out = [
        Images(tuple(map(str, range(count))), strange, labels).images,
        ChannelsLast()(images, seeds=range(count)),
        Unchanged()(target, strange, labels, seeds=range(count)).images,
    ]
    for result in handed_out:
        assert result.stride() == standard(shape)
        assert torch.equal(result, images)


def test_images_that_have_the_layout_are_not_copied():
    images = torch.rand(2, 3, 8, 8)
    assert standard_layout(images) is images
