"""The two ways to compute the layers of a stack are equal, and so are the fits that use them."""

import pytest
import torch
import torch.nn.functional as F
from conftest import random_images

from purifiers.dip import DIPTrace
from purifiers.fitting import engine
from purifiers.fitting.draws import Draws
from purifiers.fitting.stack import STACKS, ProductStack, Stack, padded
from purifiers.networks.fcn import FCN
from purifiers.networks.skipnet import SkipNet
from purifiers.networks.unet import UNet
from purifiers.oag import Autoencoder, Generator, OAGTrace
from purifiers.ride import RIDETrace

U = {"down": [8, 8], "up": [8, 8], "skip": [2, 0]}
TRACES = {
    "reflect": DIPTrace(network=SkipNet(**U, kernel_down=[3, 3], kernel_up=[3, 3])),
    "replicate": DIPTrace(network=SkipNet(**U, kernel_down=[4, 2], kernel_up=[4, 3], padding="replicate")),
    "constant": DIPTrace(network=SkipNet(**U, kernel_down=[3, 5], kernel_up=[3, 2], padding="constant")),
    "learnt input": DIPTrace(
        network=SkipNet(**U, kernel_down=[3, 3], kernel_up=[3, 3]), optimise_input=True, jitter=0.0
    ),
    "two pairs": RIDETrace(network=FCN(filters=[6, 6], dropout=[2]), iterations=3, batch=2, mask=0.3),
    "unet": RIDETrace(network=UNet(filters=[4, 6]), iterations=3),
    "generator": OAGTrace(network=Generator(kernel=7, filters=5), image_steps=2),
    "autoencoder": RIDETrace(network=Autoencoder(kernel=7, filters=5), iterations=3, noisy_target=False),
}


@pytest.mark.parametrize("size", [(16, 16), (13, 18)], ids=str)
@pytest.mark.parametrize("name", TRACES)
def test_both_ways_take_the_same_steps(name, size, monkeypatch):
    """They are equal to 1e-9 over six steps in float64, which hides differences of rounding."""
    images = random_images(3, 18)[:, :, : size[0], : size[1]].double()
    trajectories = {}
    for way in (Stack, ProductStack):
        monkeypatch.setitem(STACKS, "cpu", way)
        seen = trajectories[way] = []
        TRACES[name].stream(images, [5, 6, 7], 6, lambda _, x, seen=seen: seen.append(x.clone()))
    ours, theirs = (torch.stack(trajectories[way]) for way in (ProductStack, Stack))
    assert not torch.equal(ours[0], ours[-1]), "the network has learnt nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize(("near", "far"), [(0, 1), (1, 1), (1, 2), (3, 3)])
def test_padding_and_its_gradient_are_those_of_pytorch(mode, near, far):
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    ours, theirs = padded(x, near, far, mode), F.pad(x, (near, far, near, far), mode=mode)
    assert torch.equal(ours, theirs)
    weights = torch.rand_like(ours)
    (a,), (b,) = (torch.autograd.grad(y, x, weights) for y in (ours, theirs))
    torch.testing.assert_close(a, b)
    assert torch.autograd.gradgradcheck(lambda x: padded(x, near, far, mode), x, fast_mode=True)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)], ids=str)
def test_doubling_is_bilinear_enlargement(size):
    x = torch.rand(1, 6, *size, dtype=torch.float64, requires_grad=True)
    draws = Draws([0, 1], torch.device("cpu"))
    ours, theirs = (way(2, draws).doubled(x) for way in (ProductStack, Stack))
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand_like(ours)
    (a,), (b,) = (torch.autograd.grad(y, x, weights) for y in (ours, theirs))
    torch.testing.assert_close(a, b)


def test_a_device_has_its_way():
    images = random_images(2)
    networks = engine.Networks(FCN(filters=[4]), images, seeds=[0, 1])
    assert type(networks.stack) is Stack
    ways = {device: way.convolution for device, way in STACKS.items()}
    assert ways == {"cpu": "grouped", "cuda": "products"}
