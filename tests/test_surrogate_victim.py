"""Purification against another classifier, which is asked instead of the victim."""

import pytest
import torch
from conftest import LinearVictim, random_images

from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.dip import DIP, DIPTrace
from purifiers.jpeg import JPEG
from purifiers.networks.skipnet import SkipNet
from purifiers.surrogate_victim import SurrogateVictim


def trace() -> DIPTrace:
    small = SkipNet(down=[4], up=[4], skip=[2], kernel_down=[3], kernel_up=[3], depth=2)
    return DIPTrace(network=small)


def ddip() -> DDIP:
    return DDIP(trace=trace(), steps=30, maps=15, warmup=0, similarity=0.0)


def victim_of(seed: int) -> LinearVictim:
    weight = torch.randn(3 * 16 * 16, generator=torch.Generator().manual_seed(seed))
    return LinearVictim(weight, float(-weight.sum() / 2))


def test_it_is_the_purifier_with_the_other_classifier():
    images, other, victim = random_images(3), victim_of(1), victim_of(2)
    result = SurrogateVictim(purifier=ddip(), victim=other)(images, seeds=[1, 2, 3], victim=victim)
    assert torch.equal(result, ddip()(images, seeds=[1, 2, 3], victim=other))
    assert not torch.equal(result, ddip()(images, seeds=[1, 2, 3], victim=victim))


def test_the_victim_is_not_asked():
    purifier = SurrogateVictim(purifier=ddip(), victim=victim_of(1))
    assert not purifier.uses_victim
    assert purifier.per_image_optimization
    assert purifier(random_images(1), seeds=[1]).shape == (1, 3, 16, 16)
    short, factor = purifier.shortened(steps=5)
    assert isinstance(short, SurrogateVictim)
    assert factor > 1


@pytest.mark.parametrize("inside", [JPEG(), DIP(trace=trace(), steps=3)])
def test_a_purifier_that_asks_no_classifier_is_refused(inside):
    with pytest.raises(InputError, match=f"got {type(inside).__name__}"):
        SurrogateVictim(purifier=inside, victim=victim_of(1))
