"""PixelCNN++ is causal, and PixelDefend decodes the likeliest levels within the ball."""

import math

import pytest
import torch
from conftest import losses_of, random_images
from torch import nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.networks.pixelcnn import LEVELS, PixelCNN
from purifiers.pixeldefend import PixelDefend

NOWHERE = WeightFile("nowhere.pt", "0" * 64)


@pytest.fixture
def network() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(filters=8, blocks=2).eval()


@pytest.mark.parametrize("place", [(0, 0), (3, 4), (6, 0), (2, 8)], ids=str)
def test_a_pixel_is_known_from_those_before_it_only(network, place):
    row, column = place
    images = random_images(1, 9).requires_grad_()
    network(images)[0, :, row, column].square().sum().backward()
    influence = images.grad[0].abs().sum(0)
    later = torch.zeros(9, 9, dtype=torch.bool)
    later[row, column:] = later[row + 1 :] = True
    assert (influence[later] == 0).all()
    if place == (3, 4):
        for dy, dx in [(0, -1), (-1, -1), (-1, 0), (-1, 1), (-1, 2)]:
            assert influence[row + dy, column + dx] > 0


def test_a_pixel_sees_no_further_up_than_reach(network):
    images = random_images(1, 16)
    cut = network(images[:, :, 15 - network.reach :])[:, :, -1]
    torch.testing.assert_close(cut, network(images)[:, :, -1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("channel", "told"), [(0, []), (1, [0]), (2, [0, 1])])
def test_a_channel_is_told_those_before_it_in_its_pixel(network, channel, told):
    known, levels = torch.zeros(1, 8, 1, 1), torch.zeros(1, 3, 1, 1, dtype=torch.int64)
    plain = network.logits(known, channel, levels)
    for other in range(3):
        changed = levels.clone()
        changed[:, other] = 77
        assert torch.equal(network.logits(known, channel, changed), plain) == (other not in told)


def purifier(network: PixelCNN, eps: int) -> PixelDefend:
    p = PixelDefend(weights=NOWHERE, network=network, eps=eps)
    return p.load_frozen(network.state_dict())


def test_decoding_takes_the_likeliest_level_in_the_ball(network):
    """Every value of the finished image must be the best under the distribution of that image."""
    images = (random_images(2, 7) * 255).round() / 255
    out = purifier(network, 9)(images, seeds=[0, 1])
    levels, original_levels = (out * 255).round().long(), (images * 255).round().long()
    assert (levels - original_levels).abs().max() <= 9
    assert (levels != original_levels).any()
    with torch.no_grad():
        features = network(levels / (LEVELS - 1))
        for channel in range(3):
            logits = network.logits(features, channel, levels)
            outside = (
                torch.arange(LEVELS).view(1, -1, 1, 1) - original_levels[:, channel : channel + 1]
            ).abs() > 9
            best = logits.masked_fill(outside, -torch.inf).argmax(1)
            assert torch.equal(best, levels[:, channel])


def test_without_a_ball_nothing_changes(network):
    images = (random_images(2, 5) * 255).round() / 255
    assert torch.equal(purifier(network, 0)(images, seeds=[0, 1]), images)


def test_training_lowers_bits_per_dimension():
    torch.manual_seed(0)
    p = PixelDefend(weights=NOWHERE, network=PixelCNN(filters=16, blocks=2, dropout=0.0))
    images = nn.functional.interpolate(random_images(8, 3), size=(12, 12), mode="bilinear")
    bits = [loss / math.log(2) for loss in losses_of(p, images, steps=60, lr=3e-3)]
    assert bits[0] == pytest.approx(8, abs=0.3), "nothing is known of the first pixel"
    assert bits[-1] < 7


@pytest.mark.parametrize("eps", [-1, 256, 2.5])
def test_impossible_balls_are_refused(eps):
    with pytest.raises(InputError, match="whole number of levels"):
        PixelDefend(weights=NOWHERE, network=PixelCNN(filters=8, blocks=1), eps=eps)
