"""The blind spot is exactly blind, and NCIS, FBI-E, FBI and FBI + GS are built on it as described."""

import pytest
import torch
from conftest import linear_victim, losses_of, random_images
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.gaussian_smoothing import GaussianSmoothing
from purifiers.ncis import NCIS
from purifiers.networks.blind_spot import BlindSpotNet

WEIGHTS = WeightFile(path="nowhere.pt", sha256="0" * 64)
SMALL = {"filters": 6, "layers": 8}


def wide_awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give the network random positive weights in float64, which keep all PReLUs open, and return it.

    So no path is closed by chance, and none cancels another.
    """
    generator = torch.Generator().manual_seed(seed)
    network.double()
    for parameter in network.parameters():
        parameter.data = 0.1 + 0.1 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def influence(function, shape: tuple[int, ...], place: tuple[int, int]) -> Tensor:
    """Return (H, W): how much the output at a place, over all channels, depends on each input pixel."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images.requires_grad_()
    out = function(images)
    y, x = place
    total = torch.zeros(shape[2:], dtype=torch.float64)
    for channel in range(out.shape[1]):
        (slope,) = torch.autograd.grad(out[0, channel, y, x], images, retain_graph=True)
        total += slope[0].abs().sum(0)
    return total


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layers", [2, 3, 8])
@pytest.mark.parametrize("size", [(25, 25), (24, 17), (7, 6)], ids=str)
def test_no_output_pixel_sees_its_own_input(channels, layers, size):
    network = BlindSpotNet(in_channels=channels, out_channels=channels, filters=4, layers=layers)
    network = wide_awake(network)
    height, width = size
    for place in [(0, 0), (height // 2, width // 2), (height - 1, width // 3), (height - 1, width - 1)]:
        seen = influence(network, (1, channels, height, width), place)
        assert seen[place] == 0
        y, x = place
        around = seen[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert (around > 0).sum() == around.numel() - 1, "it does not see all its neighbours"


def test_receptive_field_of_eight_layers():
    """Layer 1 reaches 1 pixel, layer 2 reaches 2, and each of the other six reaches 3.

    The masks keep the centre of the first two layers unseen wherever the other layers carry it.
    """
    network = wide_awake(BlindSpotNet(in_channels=1, out_channels=1, filters=2))
    seen = influence(network, (1, 1, 51, 51), (25, 25)) > 0
    rows = seen.any(1).nonzero().flatten()
    assert (rows.min(), rows.max()) == (25 - 21, 25 + 21)
    steps = range(-9, 10)
    unseen = [(y, x) for y in steps for x in steps if not seen[25 + y, 25 + x]]
    assert unseen == [(y, x) for y in steps for x in steps if y % 3 == x % 3 == 0 and (y + x) % 6 == 0]


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("size", [(12, 12), (13, 11), (7, 8)], ids=str)
def test_no_patch_sees_itself(patch, size):
    purifier = NCIS(weights=WEIGHTS, patch=patch, smoothing_kernel=None, **SMALL)
    wide_awake(purifier.network)
    height, width = size
    for place in [
        (0, 0),
        (height // 2, width // 2),
        (height - 1, width - 1),
        (0, width - 1),
        (height - 3, 2),
    ]:
        seen = influence(purifier.step, (1, 3, height, width), place)
        y, x = (at // patch * patch for at in place)
        assert seen[y : y + patch, x : x + patch].abs().max() == 0
        outside = torch.ones(size, dtype=torch.bool)
        outside[y : y + patch, x : x + patch] = False
        near = torch.zeros(size, dtype=torch.bool)
        near[max(y - patch, 0) : y + 2 * patch, max(x - patch, 0) : x + 2 * patch] = True
        assert (seen[outside & near] > 0).all(), "it does not see all its neighbours"


def test_weights_off_the_mask_have_no_effect_and_no_gradient():
    network = BlindSpotNet(filters=4, layers=3)
    images = random_images(1)
    before = network(images)
    before.sum().backward()
    for conv in network.convs:
        off = (conv.mask == 0).expand_as(conv.weight)
        assert conv.weight.grad[off].abs().max() == 0
        conv.weight.data[off] = 7.0
    assert torch.equal(network(images), before)
    assert not any("mask" in name for name in network.state_dict())


def size_of(purifier: NCIS) -> int:
    return sum(p.numel() for p in purifier.network.parameters())


@pytest.mark.parametrize(("patch", "expected"), [(2, 408_844), (1, 403_075)])
def test_parameters_are_about_as_many_as_the_paper_prints(patch, expected):
    """Table 2 of the supplement prints 0.40 M."""
    count = size_of(NCIS(weights=WEIGHTS, patch=patch))
    assert count == expected
    assert count == pytest.approx(0.40e6, rel=0.03)


def zeros(purifier: NCIS) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in purifier.network.state_dict().items()}


@pytest.mark.parametrize("size", [16, 17])
def test_with_a_zero_network_ncis_is_iterated_smoothing(size):
    purifier, images = NCIS(weights=WEIGHTS, **SMALL), random_images(2, size)
    expected = GaussianSmoothing(kernel=11, iterations=7)(images, seeds=[0, 1])
    assert torch.equal(purifier.load_frozen(zeros(purifier))(images, seeds=[0, 1]), expected)


def test_with_a_zero_network_and_no_smoothing_nothing_is_left():
    purifier = NCIS(weights=WEIGHTS, smoothing_kernel=None, **SMALL)
    assert purifier.load_frozen(zeros(purifier))(random_images(1), seeds=[0]).abs().max() == 0


@pytest.mark.parametrize("settings", [{}, {"patch": 1}, {"smoothing_kernel": None}], ids=str)
def test_objective_falls(settings):
    torch.manual_seed(0)
    purifier = NCIS(weights=WEIGHTS, filters=8, layers=4, **settings)
    rows = torch.linspace(0, 3, 16)
    phase = torch.arange(8).view(8, 1, 1, 1)
    images = (0.5 + 0.4 * torch.sin(rows.view(1, 1, -1, 1) * 2 + rows + phase)).expand(8, 3, 16, 16)
    losses = losses_of(purifier, images, steps=30, lr=1e-2)
    assert losses[-1] < 0.7 * losses[0]


def test_contract_with_any_weights():
    torch.manual_seed(0)
    purifier = NCIS(weights=WEIGHTS, **SMALL)
    with pytest.raises(ValueError, match="load_frozen"):
        purifier(random_images(1), seeds=[0])
    purifier.load_frozen(purifier.network.state_dict())
    assert not any(p.requires_grad for p in purifier.network.parameters())
    images = random_images(3, 15)
    out = purifier(images, seeds=[1, 2, 3], victim=linear_victim())
    assert (purifier(images[1:2], seeds=[2]) - out[1:2]).abs().max() < 2e-6
    images.requires_grad_()
    purifier(images, seeds=[1, 2, 3]).sum().backward()
    assert images.grad.abs().max() > 0


def test_freeze_names_what_does_not_fit():
    purifier = NCIS(weights=WEIGHTS, **SMALL)
    state = zeros(purifier)
    state["more"] = state.pop("out.2.bias")
    with pytest.raises(InputError, match=r"1 missing \(out.2.bias\); 1 unexpected \(more\)"):
        purifier.load_frozen(state)
    with pytest.raises(InputError, match="of another shape"):
        purifier.load_frozen(zeros(purifier) | {"out.2.bias": torch.zeros(5)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patch", 0),
        ("iterations", 0),
        ("smoothing_kernel", 4),
        ("layers", 1),
        ("filters", 0),
        ("channels", 0),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(InputError, match=name):
        NCIS(weights=WEIGHTS, **{name: value})
