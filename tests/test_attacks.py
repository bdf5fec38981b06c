"""Library attacks through our protocol, against a linear victim whose answers are known."""

import pytest
import torch
from conftest import random_images
from torch import nn

from attacks.attack import Attack, AttackError, Clean
from attacks.from_foolbox import DDN
from attacks.from_torchattacks import BIM, CW, FGSM, MIFGSM, PGD
from attacks.noise import GaussianNoise
from attacks.randomness import per_image_randomness
from attacks.target import Target
from data.errors import InputError

EPS = 2 / 255
LINF = {
    "fgsm": FGSM(eps=EPS),
    "pgd": PGD(eps=EPS, alpha=EPS / 4, steps=20),
    "pgd without a random start": PGD(eps=EPS, alpha=EPS / 4, steps=10, random_start=False),
    "bim": BIM(eps=EPS, alpha=EPS / 4, steps=10),
    "mifgsm": MIFGSM(eps=EPS, alpha=EPS / 4, steps=10),
}
ALL = {**LINF, "cw": CW(), "ddn": DDN(steps=50), "clean": Clean(), "gaussian": GaussianNoise()}


def craft(attack: Attack, model: nn.Module, images, labels, *, seeds):
    target = Target(lambda rows, drawn: model(rows), seeds=seeds)
    return attack(target, images, labels, seeds=seeds).images


def seeds(n: int) -> list[int]:
    return list(range(100, 100 + n))


@pytest.mark.parametrize("name", LINF)
def test_linf_robust_accuracy_of_a_linear_victim_is_exact(linear, name):
    """An image falls if and only if its margin is below eps * |w|_1."""
    victim, data = linear
    adversarial = craft(LINF[name], victim, data.images, data.labels, seeds=seeds(len(data)))
    stands = victim.margin(data.images).abs() > EPS * victim.weight.abs().sum()
    assert 0.1 < stands.float().mean() < 0.9, "a test that could not fail"
    assert torch.equal(victim(adversarial).argmax(1) == data.labels, stands)


def test_fgsm_on_a_linear_victim_is_the_known_step(linear):
    victim, data = linear
    adversarial = craft(LINF["fgsm"], victim, data.images, data.labels, seeds=seeds(len(data)))
    direction = torch.where(data.labels == 1, -1.0, 1.0).view(-1, 1) * victim.weight.sign()
    expected = (data.images + EPS * direction.view_as(data.images)).clamp(0, 1)
    torch.testing.assert_close(adversarial, expected)


@pytest.mark.parametrize(
    ("attack", "slack"), [(DDN(steps=300), 0.03), (CW(c=0.1, steps=1000, lr=0.001), 0.01)], ids=["ddn", "cw"]
)
def test_l2_attacks_find_the_distance_to_a_linear_boundary(linear, attack, slack):
    victim, data = linear
    picked = data.take(list(range(6)))
    adversarial = craft(attack, victim, picked.images, picked.labels, seeds=seeds(6))
    found = (adversarial - picked.images).flatten(1).norm(dim=1)
    distance = victim.margin(picked.images).abs() / victim.weight.norm()
    assert (victim(adversarial).argmax(1) != picked.labels).all()
    assert (found >= distance * (1 - 1e-4)).all(), "below the known minimum"
    assert (found <= distance * (1 + slack) + 2e-3).all(), f"{found} against {distance}"


@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_its_batch_or_on_global_randomness(network, name):
    images, labels, attack = random_images(6), torch.arange(6), ALL[name]
    together = craft(attack, network, images, labels, seeds=seeds(6))
    torch.manual_seed(123)
    turned = craft(attack, network, images.flip(0), labels.flip(0), seeds=seeds(6)[::-1]).flip(0)
    alone = craft(attack, network, images[2:3], labels[2:3], seeds=[102])
    torch.testing.assert_close(together, turned, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_attacks_stay_valid_and_leave_the_world_alone(network, name):
    images, labels = random_images(4), torch.arange(4)
    before, state = images.clone(), torch.random.get_rng_state()
    out = craft(ALL[name], network, images, labels, seeds=seeds(4))
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not out.requires_grad
    assert not network.training
    assert 0 <= out.min() <= out.max() <= 1


def test_random_starts_follow_seeds(network):
    images, labels = random_images(2), torch.arange(2)
    start = PGD(eps=EPS, alpha=1e-9, steps=1)
    first, second = (craft(start, network, images, labels, seeds=s) for s in ([1, 2], [1, 3]))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(1),
        lambda: torch.rand(4, 2).exponential_(),
        lambda: torch.randperm(4),
        lambda: torch.poisson(torch.ones(4)),
        lambda: torch.randint(3, (4,)),
        lambda: torch.randn(3, 4),
    ],
)
def test_randomness_that_no_image_owns_is_an_error(draw):
    with per_image_randomness([1, 2, 3, 4]), pytest.raises(RuntimeError, match="no image owns"):
        draw()


@pytest.mark.parametrize(
    "make",
    [
        lambda: FGSM(eps=-1 / 255),
        lambda: FGSM(eps=0.0),
        lambda: PGD(eps=1.5),
        lambda: PGD(steps=0),
        lambda: BIM(alpha=0.0),
        lambda: CW(c=-1.0),
        lambda: DDN(gamma=1.0),
    ],
)
def test_impossible_parameters(make):
    with pytest.raises(InputError, match="expected"):
        make()


class Leaves(Attack):
    norm = "linf"

    def __init__(self, change):
        self.eps, self.change = 0.1, change

    def craft(self, model, images, labels):
        return self.change(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x + 0.2).clamp(0, 1), "expected perturbations <= 0.1"),
        (lambda x: x - 0.6, "left"),
        (lambda x: x * float("nan"), "finite"),
    ],
)
def test_invalid_adversarial_examples_never_pass(change, message):
    grey, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2).long()
    with pytest.raises(AttackError, match=message):
        craft(Leaves(change), nn.Identity(), grey, labels, seeds=[0, 1])


@pytest.mark.parametrize("images", [torch.full((1, 3, 4, 4), 2.0), torch.full((1, 3, 4, 4), float("nan"))])
def test_bad_images_are_refused(images):
    with pytest.raises(InputError):
        craft(Clean(), nn.Identity(), images, torch.zeros(1).long(), seeds=[0])
