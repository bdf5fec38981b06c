"""scripts.survival measures how much of a perturbation comes back; here the answers are known."""

import pytest
import torch
from conftest import random_images
from torch import nn

from attacks.attack import Clean
from attacks.from_torchattacks import BIM
from data.errors import InputError
from purifiers.oag import Generator, OAGTrace
from scripts.survival import along, changed, survived
from victims.victim import Victim


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, -0.5])
def test_the_share_that_survives_is_the_one_that_was_put_there(share):
    images = random_images(3)
    perturbation = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) / 50
    purified = random_images(3).flip(0)
    other = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) / 50
    across = other - survived(0 * other, other, 0 * images, perturbation).view(-1, 1, 1, 1) * perturbation
    shares = survived(purified, purified + share * perturbation + across, images, images + perturbation)
    torch.testing.assert_close(shares, torch.full((3,), share), rtol=0, atol=1e-4)


def test_all_steps_are_read_off_one_run_and_equal_seeds_give_equal_images():
    trace = OAGTrace(network=Generator(kernel=3, filters=4), image_steps=1)
    image = random_images(1)
    results = along(trace, torch.cat([image, image]), [5, 5], 120)
    assert list(results) == [50, 100, 120]
    for first, second in results.values():
        assert torch.equal(first, second)


def test_the_attack_asks_the_victim_and_must_change_every_image():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    victim = Victim(network=network, label_space="", mean=[0] * 3, std=[1] * 3).eval()
    images, labels = random_images(2), torch.tensor([0, 1])
    attacked = changed(
        BIM(eps=4 / 255, alpha=1 / 255, steps=2, targeted=True), victim, images, labels, [0, 1]
    )
    assert 0 < (attacked - images).abs().max() <= 4 / 255 + 1e-6
    with pytest.raises(InputError, match="changes every image"):
        changed(Clean(), victim, images, labels, [0, 1])
