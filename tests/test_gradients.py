"""The gradient that each knowledge gives: the exact one, or that of a substitute."""

import pytest
import torch
import torch.nn.functional as F
from conftest import ATTACKS, Noise, RowByRow, class_of, crafted, random_images, small_attack
from torch import nn

from attacks.bpda import BPDAWrapper, GaussianBlur
from attacks.knowledge import BPDA, Blind, Full
from purifiers.dynamic import Dynamic
from purifiers.gaussian_smoothing import GaussianSmoothing
from purifiers.identity import Identity
from purifiers.jpeg import JPEG
from purifiers.purifier import Purifier
from purifiers.randomization import Randomization

GRADIENT = [name for name in ATTACKS if class_of("attack", name).needs == "gradient"]


def slope(target, images, direction):
    """Return the gradient of direction . logits."""
    inputs = images.clone().requires_grad_()
    return torch.autograd.grad((target(inputs) * direction).sum(), inputs)[0]


class Doubled(Purifier):
    """A purifier that doubles height and width and is not differentiable."""

    scale = 2

    def purify(self, images, seeds, victim):
        return F.interpolate((images * 16).round() / 16, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("knowledge", [BPDA(), Full()], ids=["bpda", "full"])
@pytest.mark.parametrize("name", GRADIENT)
def test_without_a_purifier_all_white_boxes_are_the_blind_one(network, name, knowledge):
    images = random_images(3)
    labels, attack = network(images).argmax(1), small_attack(name, lr=0.1, init_epsilon=0.1)
    blind = crafted(attack, Blind(), network, None, images, labels)
    assert not torch.equal(blind, images), "the purifier changed nothing"
    assert torch.equal(crafted(attack, knowledge, network, Identity(), images, labels), blind)


@pytest.mark.parametrize(
    "purifier",
    [JPEG(quality=30), Noise(), Identity(), Dynamic(purifier=JPEG())],
    ids=lambda p: type(p).__name__,
)
def test_bpda_is_the_victims_gradient_at_the_purified_image(network, purifier):
    images, direction = random_images(3), torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    target = BPDA().target(network, purifier, [], seeds=[1, 2, 3])
    again = BPDA().target(network, purifier, [], seeds=[1, 2, 3])
    purified = []
    view, target.view = (
        target.view,
        lambda rows, seeds: purified.append(purifier(rows, seeds=seeds)) or view(rows, seeds),
    )
    gradient = slope(target, images, direction)
    inputs = purified[0].detach().requires_grad_()
    (expected,) = torch.autograd.grad((network(inputs) * direction).sum(), inputs)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(again(images), network(inputs), msg="the forward pass is not the defense's")


def test_a_substitutes_transposed_jacobian_comes_before_the_victims_gradient(network):
    images, direction = random_images(2), torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    target = BPDA(substitute=GaussianBlur(kernel=5, sigma=1.5)).target(network, JPEG(), [], seeds=[1, 2])
    gradient = slope(target, images, direction)
    inputs = JPEG()(images, seeds=[1, 2]).requires_grad_()
    (onward,) = torch.autograd.grad((network(inputs) * direction).sum(), inputs)
    jacobian = (
        torch.autograd.functional.jacobian(GaussianBlur(kernel=5, sigma=1.5), images[:1])
        .flatten(4)
        .flatten(0, 3)
    )
    torch.testing.assert_close(gradient.flatten(1), onward.flatten(1) @ jacobian)
    assert not torch.allclose(gradient, onward, atol=1e-3)


def test_each_stage_of_a_chain_of_wrappers_is_given_its_own_input(network):
    first, second = (
        BPDAWrapper(f, forwardsub=g) for f, g in ((torch.round, torch.sin), (torch.floor, torch.exp))
    )
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
    (gradient,) = torch.autograd.grad(second(first(x)).sum(), x)
    torch.testing.assert_close(gradient, torch.exp(torch.round(x)) * torch.cos(x))


@pytest.mark.parametrize("substitute", [None, nn.Upsample(scale_factor=2)], ids=["default", "named"])
def test_a_purifier_that_enlarges_gives_a_gradient_of_the_images_shape(substitute):
    images, victim, direction = random_images(2), RowByRow(32), torch.tensor([[0.0, 1, 0, 0, 0]])
    gradient = slope(
        BPDA(substitute=substitute).target(victim, Doubled(), [], seeds=[1, 2]), images, direction
    )
    onward = victim.weight[1].float().view(1, 3, 32, 32)
    like = images.clone().requires_grad_()
    enlarged = F.interpolate(like, scale_factor=2, mode="nearest" if substitute else "bilinear")
    (expected,) = torch.autograd.grad((enlarged * onward).sum(), like)
    assert gradient.shape == images.shape
    torch.testing.assert_close(gradient, expected)


EXACT = [
    Identity(),
    GaussianSmoothing(),
    Noise(sigma=0.01),
    Randomization(),
]


@pytest.mark.parametrize("purifier", EXACT, ids=lambda p: type(p).__name__)
def test_full_is_the_exact_gradient_of_the_whole_defense(purifier):
    """It is compared with autograd, and with central differences in float64."""
    images = 0.3 + 0.4 * random_images(2, 32)
    with torch.no_grad():
        size = purifier(images, seeds=[1, 2]).shape[-1]
    linear = nn.Linear(3 * size * size, 4)
    nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(1))
    victim = nn.Sequential(nn.Flatten(), linear, nn.Tanh()).requires_grad_(False)
    linear.weight /= 30
    direction = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    used_seeds = []
    target = Full().target(victim, purifier, [], seeds=[1, 2])
    view, target.view = target.view, lambda rows, seeds: used_seeds.extend(seeds) or view(rows, seeds)
    gradient = slope(target, images, direction)
    inputs = images.clone().requires_grad_()
    defended = victim(purifier(inputs, seeds=used_seeds))
    torch.testing.assert_close(gradient, torch.autograd.grad((defended * direction).sum(), inputs)[0])
    in_float64, victim = images.double(), victim.double()
    for k in range(4):
        step_direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(k)).double()
        sides = [
            (victim(purifier.purify(in_float64 + step * step_direction, used_seeds, None)) * direction).sum()
            for step in (1e-5, -1e-5)
        ]
        assert (gradient * step_direction).sum().item() == pytest.approx(
            (sides[0] - sides[1]).item() / 2e-5, rel=1e-3
        )


@pytest.mark.parametrize("purifier", EXACT[:2] + EXACT[3:], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_black_and_white_pixels_have_their_gradient(purifier, colour):
    """They can move into the range; a gradient of 0 would spare every image with a plain background."""
    images = torch.full((1, 3, 32, 32), colour)
    gradient = slope(Full().target(nn.Flatten(), purifier, [], seeds=[1]), images, torch.ones(1))
    inward = 0.5 - colour
    moved = Full().target(nn.Flatten(), purifier, [], seeds=[1])(images + 0.1 * inward)
    still = Full().target(nn.Flatten(), purifier, [], seeds=[1])(images)
    expected = (moved - still).double().sum().item() / (0.1 * inward)
    assert expected > 1000
    assert gradient.sum().item() == pytest.approx(expected, rel=1e-3)
