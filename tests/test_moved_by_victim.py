"""Purifiers that move an image by the victim's gradient, on victims whose gradient is known."""

import pytest
import torch
import torch.nn.functional as F
from conftest import LinearVictim, crafted, inner_images, linear_victim, random_images, small_attack
from scipy.ndimage import gaussian_filter
from torch import nn

from attacks.knowledge import BPDA, Blind, Full
from data.errors import InputError
from purifiers.anti_adversary import AntiAdversary
from purifiers.gaussian_smoothing import smooth
from purifiers.hedge import Hedge
from purifiers.zeropur import ZeroPur, _embedding, stages

STEP = 0.02


class Stages(nn.Module):
    """A network of two convolutional stages, an in-place activation and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU())
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 10)

    def forward(self, images):
        return self.last(self.pool(self.second(self.first(images))).flatten(1))


def gentle() -> LinearVictim:
    """Return a linear victim whose logits are so close that no cross-entropy is rounded to 0."""
    victim = linear_victim(16)
    return LinearVictim(victim.weight / 50, victim.bias / 50)


@pytest.fixture
def staged() -> Stages:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Stages().eval().requires_grad_(False)


def test_the_anti_adversary_of_a_linear_victim_is_known():
    victim, images = gentle(), inner_images(6)
    result = AntiAdversary(steps=2, size=STEP)(images, seeds=range(6), victim=victim)
    surer = (victim.margin(images) > 0).float().mul(2).sub(1).view(-1, 1, 1, 1)
    expected = images + 2 * STEP * surer * victim.weight.sign().view(1, 3, 16, 16)
    torch.testing.assert_close(result, expected)
    assert torch.equal(victim(result).argmax(1), victim(images).argmax(1))


def test_a_step_of_the_anti_adversary_is_in_units_of_the_victims_input():
    victim, images = gentle(), inner_images(2)
    victim.register_buffer("std", torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1))
    change = AntiAdversary(steps=1, size=0.1)(images, seeds=[0, 1], victim=victim) - images
    torch.testing.assert_close(
        change.abs(), torch.tensor([0.01, 0.02, 0.04]).view(1, 3, 1, 1).expand_as(change)
    )


@pytest.mark.parametrize("knowledge", [BPDA(), Full()], ids=["bpda", "full"])
@pytest.mark.parametrize(("share", "left"), [(0.9, 1.0), (1.1, 0.0)])
def test_an_attack_that_knows_the_anti_adversary_needs_no_more_than_without_it(knowledge, share, left):
    """A change of margin / |w|_1 in all values misleads the bare linear victim; a smaller one does not."""
    victim, images = gentle(), inner_images(5)
    labels = victim(images).argmax(1)
    purifier, seeds = AntiAdversary(size=STEP), range(5)
    for i in range(5):
        image, label = images[i : i + 1], labels[i : i + 1]
        eps = share * (victim.margin(image).abs() / victim.weight.abs().sum()).item()
        attack = small_attack("pgd", eps=eps, alpha=eps, steps=4)
        adversarial = crafted(attack, knowledge, victim, purifier, image, label)
        defended = victim(purifier(adversarial, seeds=seeds[:1], victim=victim)).argmax(1)
        assert (defended == label).float().mean() == left


def test_a_blind_example_that_misleads_the_victim_misleads_the_anti_adversary():
    victim, images = gentle(), inner_images(5)
    labels = victim(images).argmax(1)
    adversarial = crafted(small_attack("pgd", eps=0.2), Blind(), victim, None, images, labels)
    misled = victim(adversarial).argmax(1) != labels
    defended = victim(AntiAdversary(size=STEP)(adversarial, seeds=range(5), victim=victim)).argmax(1)
    assert misled.any()
    assert torch.equal(defended != labels, misled)


def test_hedge_moves_a_linear_victim_away_from_its_boundary_and_stays_in_the_ball():
    """The sum of the cross-entropies of two classes grows with the distance from the boundary."""
    victim, images = gentle(), inner_images(6)
    result = Hedge(steps=20, size=4 / 255, eps=8 / 255)(images, seeds=range(6), victim=victim)
    surer = (victim.margin(images) > 0).float().mul(2).sub(1).view(-1, 1, 1, 1)
    corner = images + 8 / 255 * surer * victim.weight.sign().view(1, 3, 16, 16)
    is_far = victim.margin(images).abs() > 0.05
    assert is_far.any()
    torch.testing.assert_close(result[is_far], corner[is_far])
    assert (result - images).abs().max() < 8 / 255 + 1e-6


def test_stages_are_the_last_features_of_each_shape(staged):
    images = random_images(2)
    all_stages = stages(staged, images)
    first = staged.first(images)
    assert [tuple(features.shape) for features in all_stages] == [(2, 4, 16, 16), (2, 6, 8, 8)]
    torch.testing.assert_close(all_stages[0], first)
    torch.testing.assert_close(all_stages[1], staged.second(first))
    assert not any(module._forward_hooks for module in staged.modules())


def test_a_victim_without_places_has_its_logits_for_features():
    victim, images = linear_victim(16), random_images(2)
    assert torch.equal(stages(victim, images)[0], victim(images))


def test_hooks_are_taken_off_where_the_victim_fails(staged):
    with pytest.raises(RuntimeError):
        stages(staged, torch.zeros(1, 5, 8, 8))
    assert not any(module._forward_hooks for module in staged.modules())


def test_zeropur_brings_the_features_nearer_to_those_of_the_blurred_image(staged):
    images, purifier = random_images(3), ZeroPur(eps=10 / 255, shift_steps=10, projection_steps=10)
    blurred_features = stages(staged, smooth(images, purifier.kernel))[-1].mean((2, 3))

    def likeness(images):
        return F.cosine_similarity(stages(staged, images)[-1].mean((2, 3)), blurred_features)

    shifted = purifier._shifted(images, staged)
    assert (likeness(shifted) > likeness(images)).all()
    result = purifier(images, seeds=range(3), victim=staged)
    assert (result - images).abs().max() < 10 / 255 + 1e-6


def test_zeropurs_blur_has_the_standard_deviation_of_the_authors_code():
    images = random_images(2, 32)
    expected = gaussian_filter(images.double().numpy(), 1.8, mode="mirror", radius=6, axes=(2, 3))
    torch.testing.assert_close(smooth(images, ZeroPur().kernel), torch.from_numpy(expected).float())


def test_tokens_are_places_and_their_features_channels():
    """A transformer returns (N, T, C), whose mean over the channels is 0 after its last LayerNorm."""
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, images):
            return self.head(self.norm(tokens)[:, 0])

    victim, images = Transformer().requires_grad_(False), random_images(2)
    normalised = victim.norm(tokens)
    torch.testing.assert_close(stages(victim, images), [normalised.transpose(1, 2)])
    torch.testing.assert_close(_embedding(victim, images), normalised.mean(1))


def test_where_the_projection_weighs_nothing_the_image_stays(staged):
    images = inner_images(2)
    still = ZeroPur(projection=0.0, projection_steps=3)(images, seeds=[0, 1], victim=staged)
    torch.testing.assert_close(still, images)


@pytest.mark.parametrize("method", [AntiAdversary(), Hedge(), ZeroPur(shift_steps=2, projection_steps=3)],
                         ids=lambda p: type(p).__name__)  # fmt: skip
def test_neither_batch_nor_order_matters(staged, method):
    images = random_images(4)
    together = method(images, seeds=range(4), victim=staged)
    mixed = method(images.flip(0), seeds=range(3, -1, -1), victim=staged).flip(0)
    torch.testing.assert_close(mixed, together, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "method",
    [
        lambda: AntiAdversary(steps=0),
        lambda: Hedge(size=0.0),
        lambda: ZeroPur(eps=-1.0),
        lambda: ZeroPur(blur=0.0),
    ],
)
def test_impossible_settings_are_refused(method):
    with pytest.raises(InputError, match="expected"):
        method()
