"""Dynamic inference: its noise, and that it otherwise equals the purifier inside."""

import pytest
import torch
from conftest import linear_victim, random_images

from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.dynamic import Dynamic
from purifiers.fitting.draws import Draws
from purifiers.gaussian_smoothing import GaussianSmoothing
from purifiers.identity import Identity
from purifiers.jpeg import JPEG
from purifiers.wrapper import TRAITS

EPS = 16 / 255


def test_noise_is_normal_within_the_ball():
    images = torch.full((4, 3, 64, 64), 0.5)
    noise = Dynamic(purifier=Identity())(images, seeds=[1, 2, 3, 4]) - images
    assert noise.abs().max() <= EPS + 1e-6
    inside = noise.abs() < EPS - 1e-6
    expected = torch.erf(torch.tensor(EPS / 0.05 / 2**0.5)).item()  # the share within eps of N(0, 0.05)
    assert inside.float().mean().item() == pytest.approx(expected, abs=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)


def test_noise_does_not_leave_the_range():
    images = random_images(2)
    images[0], images[1] = 0, 1
    out = Dynamic(purifier=Identity(), sigma=0.5)(images, seeds=[1, 2])
    assert 0 <= out.min() <= out.max() <= 1
    assert (out - images).abs().max() <= EPS + 1e-6


def test_an_images_noise_is_its_own():
    images, purifier = random_images(3), Dynamic(purifier=Identity())
    out = purifier(images, seeds=[5, 6, 7])
    assert torch.equal(out[1:2], purifier(images[1:2], seeds=[6]))
    assert not torch.equal(out, purifier(images, seeds=[7, 6, 5]))


def test_noise_is_not_the_stream_of_the_purifier_inside():
    images = torch.full((1, 3, 32, 32), 0.5)
    noise = Dynamic(purifier=Identity()).noisy(images, [9]) - images
    inner_noise = Draws([9], images.device).normal((3, 32, 32))
    assert torch.corrcoef(torch.stack([noise.flatten(), inner_noise.flatten()]))[0, 1].abs() < 0.1


def test_the_purifier_inside_gets_the_noisy_images_once():
    images, inner = random_images(2), GaussianSmoothing()
    purifier = Dynamic(purifier=inner)
    expected = inner(purifier.noisy(images, [1, 2]), seeds=[1, 2])
    assert torch.equal(purifier(images, seeds=[1, 2]), expected)


def test_traits_follow_the_purifier_inside(small_trace):
    ddip = DDIP(trace=small_trace, steps=20, maps=20, warmup=2, similarity=-1.0)
    assert Dynamic(purifier=GaussianSmoothing()).gradient == "exact"
    assert Dynamic(purifier=JPEG()).gradient == "bpda"
    assert not Dynamic(purifier=JPEG()).uses_victim
    purifier = Dynamic(purifier=ddip)
    assert purifier.uses_victim
    assert purifier.stochastic
    with pytest.raises(ValueError, match="victim"):
        purifier(random_images(1), seeds=[0])
    assert purifier(random_images(1), seeds=[0], victim=linear_victim(16)).shape == (1, 3, 16, 16)
    assert purifier.shortened()[1] == ddip.shortened()[1]


@pytest.mark.parametrize("settings", [{"sigma": 0}, {"eps": 0}, {"eps": 2}], ids=str)
def test_bad_settings_are_named(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Dynamic(purifier=Identity(), **settings)


def test_a_wrapper_takes_every_trait_of_the_purifier_inside():
    inner = JPEG()
    for trait, value in {
        "per_image_optimization": True,
        "scale": 2,
        "batch_coupled": True,
        "gradient": "none",
    }.items():
        setattr(inner, trait, value)
    wrapped = Dynamic(purifier=inner)
    assert [getattr(wrapped, trait) for trait in TRAITS if trait != "stochastic"] == [
        getattr(inner, trait) for trait in TRAITS if trait != "stochastic"
    ]
    assert wrapped.stochastic
