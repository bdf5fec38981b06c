"""Attacks of libraries under our protocol: known answers of a linear victim, and a second library."""

import foolbox
import pytest
import torch
from conftest import ATTACKS, Noise, RowByRow, answering, random_images, small_attack
from torch import nn

from attacks.apgd import APGD
from attacks.attack import Attack, AttackError, Clean
from attacks.from_foolbox import DDN
from attacks.from_torchattacks import BIM, CW, DIFGSM, EOTPGD, FGSM, MIFGSM, PGD
from attacks.knowledge import Full
from attacks.noise import GaussianNoise
from attacks.randomness import per_image_randomness
from attacks.target import Target
from data.errors import InputError
from purifiers.identity import Identity
from runners.evaluation.metrics import wilson

EPS = 2 / 255
LINF = {
    "fgsm": FGSM(eps=EPS),
    "pgd": PGD(eps=EPS, alpha=EPS / 4, steps=20),
    "pgd without a random start": PGD(eps=EPS, alpha=EPS / 4, steps=10, random_start=False),
    "bim": BIM(eps=EPS, alpha=EPS / 4, steps=10),
    "mifgsm": MIFGSM(eps=EPS, alpha=EPS / 4, steps=10),
    "difgsm": DIFGSM(eps=EPS, alpha=EPS / 4, steps=10, diversity=0.0),
    "eotpgd": EOTPGD(eps=EPS, alpha=EPS / 4, steps=20, draws=2),
    "apgd": APGD(eps=EPS, steps=10),
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
    assert 0.1 < stands.float().mean() < 0.9, "this test could not fail"
    assert torch.equal(victim(adversarial).argmax(1) == data.labels, stands)


def test_fgsm_on_a_linear_victim_is_the_known_step(linear):
    victim, data = linear
    adversarial = craft(LINF["fgsm"], victim, data.images, data.labels, seeds=seeds(len(data)))
    direction = torch.where(data.labels == 1, -1.0, 1.0).view(-1, 1) * victim.weight.sign()
    expected = (data.images + EPS * direction.view_as(data.images)).clamp(0, 1)
    torch.testing.assert_close(adversarial, expected)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(norm="l2", eps=0.08, alpha=0.02, steps=10, random_start=False),
        PGD(norm="l2", eps=0.08, alpha=0.04, steps=60),
        APGD(norm="l2", eps=0.08, steps=12),
    ],
    ids=["pgd", "pgd with a random start", "apgd"],
)
def test_l2_robust_accuracy_of_a_linear_victim_is_exact(linear, attack):
    """An image falls if and only if the boundary is nearer than eps; no step meets the border of [0, 1]."""
    victim, data = linear
    assert 0.08 < 0.3 <= min(data.images.min(), 1 - data.images.max()), (
        "a step could reach the border of [0, 1]"
    )
    adversarial = craft(attack, victim, data.images, data.labels, seeds=seeds(len(data)))
    stands = victim.margin(data.images).abs() / victim.weight.norm() > 0.08
    assert 0.1 < stands.float().mean() < 0.9, "this test could not fail"
    assert torch.equal(victim(adversarial).argmax(1) == data.labels, stands)


@pytest.mark.parametrize(
    ("attack", "slack"), [(DDN(steps=300), 0.03), (CW(c=0.1, steps=1000, lr=0.001), 0.01)], ids=["ddn", "cw"]
)
def test_l2_attacks_find_the_distance_to_a_linear_boundary(linear, attack, slack):
    victim, data = linear
    picked = data.take(list(range(3)))
    adversarial = craft(attack, victim, picked.images, picked.labels, seeds=seeds(3))
    sizes = (adversarial - picked.images).flatten(1).norm(dim=1)
    distance = victim.margin(picked.images).abs() / victim.weight.norm()
    assert (victim(adversarial).argmax(1) != picked.labels).all()
    assert (sizes >= distance * (1 - 1e-4)).all(), "an example is nearer than the known minimum"
    assert (sizes <= distance * (1 + slack) + 2e-3).all(), f"{sizes} against {distance}"


def test_ddn_of_few_steps_stays_far_from_the_smallest_norm(linear):
    victim, data = linear
    few, many = (
        craft(DDN(steps=steps), victim, data.images, data.labels, seeds=seeds(len(data)))
        for steps in (10, 100)
    )
    assert all((victim(adversarial).argmax(1) != data.labels).all() for adversarial in (few, many))
    few, many = ((adversarial - data.images).flatten(1).norm(dim=1).mean() for adversarial in (few, many))
    assert few > 1.5 * many


def test_bim_without_a_ball_to_stay_in_is_guos_ifgsm(linear):
    """Ten signed steps of 0.0047 add up, because on a linear victim all ten go the same way."""
    victim, data = linear
    attack = BIM(eps=0.04725, alpha=0.004725, steps=10)
    adversarial = craft(attack, victim, data.images, data.labels, seeds=seeds(len(data)))
    torch.testing.assert_close((adversarial - data.images).abs(), torch.full_like(data.images, 0.04725))


@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_its_batch_or_on_global_randomness(network, name):
    images, labels, attack = random_images(6), torch.arange(6), ALL[name]
    together = craft(attack, network, images, labels, seeds=seeds(6))
    torch.manual_seed(123)
    flipped = craft(attack, network, images.flip(0), labels.flip(0), seeds=seeds(6)[::-1]).flip(0)
    alone = craft(attack, network, images[2:3], labels[2:3], seeds=[102])
    torch.testing.assert_close(together, flipped, atol=1e-5, rtol=0)
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


@pytest.mark.parametrize("name", ATTACKS)
def test_every_configured_attack_yields_valid_examples_and_reaches_what_it_is_given(name):
    images, victim, attack = random_images(4), RowByRow(), small_attack(name, steps=4, lr=0.3)
    images[0, :, :4], images[1, :, :4] = 0, 1  # the border of the range
    labels, before = victim(images).argmax(1), images.clone()
    target = answering(attack).target(victim, Noise(sigma=0.01), [], seeds=seeds(4))
    adversarial = attack(target, images, labels, seeds=seeds(4)).images
    assert torch.equal(images, before)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == torch.float32
    assert torch.isfinite(adversarial).all()
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    if attack.eps is not None:
        order = 2 if attack.norm == "l2" else torch.inf
        assert (adversarial - images).flatten(1).norm(order, dim=1).max() <= attack.eps + 1e-6
    assert torch.equal(adversarial, images) == (name == "clean")


def test_targeted_fgsm_steps_towards_a_class_drawn_for_each_image():
    images, victim = random_images(24), RowByRow()
    labels, eps = victim(images).argmax(1), 0.05
    adversarial = craft(FGSM(eps=eps, targeted=True), victim, images, labels, seeds=seeds(24))
    weight = victim.weight.float().view(5, *images.shape[1:])
    targets = set()
    for image, label, example in zip(images, labels.tolist(), adversarial, strict=True):
        chances = victim(image[None]).softmax(1)[0]
        steps = {
            target: (
                image + eps * (weight[target] - (chances.view(-1, 1, 1, 1) * weight).sum(0)).sign()
            ).clamp(0, 1)
            for target in range(5)
        }
        near = {t: (step - example).abs().gt(1e-6).float().mean().item() for t, step in steps.items()}
        target = min(near, key=near.get)
        assert near[target] < 0.01
        assert target != label
        targets.add((target - label) % 5)
    assert targets == {1, 2, 3, 4}, "the class is none of the others"


@pytest.mark.parametrize("kind", [PGD, BIM, MIFGSM, DIFGSM])
def test_targeted_attacks_lead_to_another_class_drawn_for_each_image(kind):
    images, victim = random_images(24), RowByRow()
    labels = victim(images).argmax(1)
    attack = kind(eps=0.05, alpha=0.0125, steps=8, targeted=True)
    logits = victim(craft(attack, victim, images, labels, seeds=seeds(24)))
    reached = logits.argmax(1)
    assert (reached != labels).all()
    assert len(set(((reached - labels) % 5).tolist())) == 4, "the class is none of the others"
    again = victim(craft(attack, victim, images, labels, seeds=list(range(24)))).argmax(1)
    assert (again != reached).any(), "the class does not follow the seed"
    untargeted = kind(eps=0.05, alpha=0.0125, steps=8)
    led = victim(craft(untargeted, victim, images, labels, seeds=seeds(24)))
    assert not torch.equal(led, logits)


def test_pgd_agrees_with_foolboxs(network):
    """With the same images, radius and steps, neither library leaves clearly more images standing."""
    n, eps, images = 48, 1.5 / 255, random_images(48, seed=4)
    labels = network(images).argmax(1)
    ours = craft(PGD(eps=eps, alpha=eps / 4, steps=10), network, images, labels, seeds=seeds(n))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=10, random_start=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        _, theirs, _ = attack(model, images, labels, epsilons=eps)
    standing = [int((network(adversarial).argmax(1) == labels).sum()) for adversarial in (ours, theirs)]
    assert 4 < standing[0] < n - 4, "this test could not fail"
    for count, other_count in (standing, standing[::-1]):
        low, high = wilson(other_count, n)
        assert low <= count / n <= high, f"{standing} of {n}"


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


def test_an_example_on_the_border_of_a_large_l2_ball_passes_and_one_beyond_does_not():
    """In float32 the norm of 150,528 equal values is 7e-5 too large."""
    step = 5 / (3 * 224 * 224) ** 0.5
    image, attack = torch.full((1, 3, 224, 224), 0.25), Leaves(lambda x: x + step)
    attack.eps, attack.norm = 5.0, "l2"
    assert craft(attack, nn.Identity(), image, torch.zeros(1).long(), seeds=[0]).equal(image + step)
    attack.change = lambda x: x + 1.0001 * step
    with pytest.raises(AttackError, match=r"expected perturbations <= 5, got 5\.0005"):
        craft(attack, nn.Identity(), image, torch.zeros(1).long(), seeds=[0])


@pytest.mark.parametrize("images", [torch.full((1, 3, 4, 4), 2.0), torch.full((1, 3, 4, 4), float("nan"))])
def test_bad_images_are_refused(images):
    with pytest.raises(InputError):
        craft(Clean(), nn.Identity(), images, torch.zeros(1).long(), seeds=[0])


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.1, alpha=0.02, steps=4, random_start=False, norm="l2"), DDN(steps=20)],
    ids=["pgd", "ddn"],
)
def test_l2_attacks_go_the_same_way_however_sure_the_victim_is(linear, attack):
    """The gradients of the sure victim are 1e-35 times those of the other, and their squares are 0."""
    victim, data = linear
    picked = data.take(victim.margin(data.images).abs().topk(4).indices.tolist())
    largest = victim.margin(picked.images).abs().max()

    def examples(margin):
        def scaled(rows):
            logits = victim(rows)
            return margin / largest * (logits - logits.mean(1, keepdim=True))

        return craft(attack, scaled, picked.images, picked.labels, seeds=seeds(4))

    calm, sure = examples(1.0), examples(85.0)
    assert (calm - picked.images).flatten(1).norm(dim=1).min() > 0.05
    torch.testing.assert_close(sure, calm, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("kind", [MIFGSM, lambda **settings: DIFGSM(diversity=0.0, **settings)])
def test_a_gradient_of_0_does_not_stop_the_later_steps(linear, kind, decay):
    """The first answer has no gradient, so that four steps go as far as three on the victim itself."""
    victim, data = linear
    picked, asked = data.take(list(range(3))), []

    def flat_at_first(rows, seeds):
        asked.append(len(rows))
        logits = victim(rows)
        return logits * 0 + logits.detach() if len(asked) == 1 else logits

    settings = {"eps": EPS, "alpha": EPS / 8, "decay": decay}
    target = Target(flat_at_first, seeds=seeds(3))
    attack = kind(steps=4, **settings)
    adversarial = attack(target, picked.images, picked.labels, seeds=seeds(3)).images
    assert [count.zero for count in target.counts] == [1, 1, 1]
    expected = craft(kind(steps=3, **settings), victim, picked.images, picked.labels, seeds=seeds(3))
    torch.testing.assert_close(adversarial, expected)
    assert (adversarial - picked.images).abs().max() > EPS / 4


class Undeclared(Attack):
    """An attack that asks twice, and declares as many passes as it is told to."""

    def __init__(self, *, forward: int, backward: int = 2) -> None:
        self.forward, self.backward = forward, backward

    def craft(self, model, images, labels):
        for _ in range(2):
            model(images.requires_grad_()).sum().backward()
        return images


@pytest.mark.parametrize("declared", [{"forward": 1}, {"forward": 2, "backward": 1}])
def test_an_attack_that_takes_more_passes_than_it_declares_fails(declared):
    images, labels = torch.rand(2, 3, 32, 32), torch.zeros(2).long()
    craft(Undeclared(forward=2), nn.Flatten(), images, labels, seeds=[0, 1])
    with pytest.raises(AttackError, match="backward passes an image that it declares, got 2 and 2"):
        craft(Undeclared(**declared), nn.Flatten(), images, labels, seeds=[0, 1])


def test_the_mean_of_several_draws_counts_as_one_pass():
    target = Target(lambda rows, drawn: rows.flatten(1), seeds=[0, 1], eot=3)
    images = torch.rand(2, 3, 32, 32)
    Undeclared(forward=2)(target, images, torch.zeros(2).long(), seeds=[0, 1])
    assert target.counts[0].forward == 6


def test_an_attack_that_declares_no_passes_is_refused_before_it_runs():
    with pytest.raises(InputError, match="attack Undeclared: expected a class that declares"):
        Full().check(Undeclared(forward=0), Identity())
    Full().check(Clean(), Identity())
