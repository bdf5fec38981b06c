"""What the attacker knows: which gradient it follows, and what a defense is worth against it."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Noise, RowByRow, random_images, small_attack
from torch import nn

from attacks.attack import Clean
from attacks.bpda import BPDAWrapper, GaussianBlur
from attacks.from_torchattacks import EOTPGD, FGSM, PGD
from attacks.knowledge import BPDA, Blind, Decision, Full, Score, Transfer, UnsuitedError
from attacks.queries import HopSkipJump, Square
from data.errors import InputError
from purifiers.dip import DIP
from purifiers.dynamic import Dynamic
from purifiers.gaussian_smoothing import GaussianSmoothing
from purifiers.identity import Identity
from purifiers.jpeg import JPEG
from purifiers.purifier import Purifier
from purifiers.randomization import Randomization
from runners.app import names_of

GRADIENT = [name for name in names_of("attack") if small_attack(name).needs == "gradient"]


def crafted(attack, knowledge, victim, purifier, images, labels, others=()):
    seeds = list(range(40, 40 + len(images)))
    target = knowledge.target(victim, purifier, list(others), seeds=seeds)
    return attack(target, images, labels, seeds=seeds).images


def slope(target, images, direction):
    """The gradient of direction . logits."""
    asked = images.clone().requires_grad_()
    return torch.autograd.grad((target(asked) * direction).sum(), asked)[0]


class Doubled(Purifier):
    """Twice as high and wide; not differentiable."""

    scale = 2

    def purify(self, images, seeds, victim):
        return F.interpolate((images * 16).round() / 16, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("knowledge", [BPDA(), Full()], ids=["bpda", "full"])
@pytest.mark.parametrize("name", GRADIENT)
def test_without_a_purifier_all_white_boxes_are_the_blind_one(network, name, knowledge):
    images = random_images(3)
    labels, attack = network(images).argmax(1), small_attack(name, lr=0.1, init_epsilon=0.1)
    blind = crafted(attack, Blind(), network, None, images, labels)
    assert not torch.equal(blind, images), "nothing was done"
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
    found = slope(target, images, direction)
    at = purified[0].detach().requires_grad_()
    (expected,) = torch.autograd.grad((network(at) * direction).sum(), at)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again(images), network(at), msg="the forward pass is not the defense's")


def test_a_substitutes_transposed_jacobian_comes_before_the_victims_gradient(network):
    images, direction = random_images(2), torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    target = BPDA(substitute=GaussianBlur(kernel=5, sigma=1.5)).target(network, JPEG(), [], seeds=[1, 2])
    found = slope(target, images, direction)
    at = JPEG()(images, seeds=[1, 2]).requires_grad_()
    (onward,) = torch.autograd.grad((network(at) * direction).sum(), at)
    jacobian = (
        torch.autograd.functional.jacobian(GaussianBlur(kernel=5, sigma=1.5), images[:1])
        .flatten(4)
        .flatten(0, 3)
    )
    torch.testing.assert_close(found.flatten(1), onward.flatten(1) @ jacobian)
    assert not torch.allclose(found, onward, atol=1e-3)


def test_each_stage_of_a_chain_of_wrappers_is_given_its_own_input(network):
    first, second = (
        BPDAWrapper(f, forwardsub=g) for f, g in ((torch.round, torch.sin), (torch.floor, torch.exp))
    )
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
    (found,) = torch.autograd.grad(second(first(x)).sum(), x)
    torch.testing.assert_close(found, torch.exp(torch.round(x)) * torch.cos(x))


@pytest.mark.parametrize("substitute", [None, nn.Upsample(scale_factor=2)], ids=["default", "named"])
def test_a_purifier_that_enlarges_gives_a_gradient_of_the_images_shape(substitute):
    images, victim, direction = random_images(2), RowByRow(32), torch.tensor([[0.0, 1, 0, 0, 0]])
    found = slope(BPDA(substitute=substitute).target(victim, Doubled(), [], seeds=[1, 2]), images, direction)
    onward = victim.weight[1].float().view(1, 3, 32, 32)
    like = images.clone().requires_grad_()
    enlarged = F.interpolate(like, scale_factor=2, mode="nearest" if substitute else "bilinear")
    (expected,) = torch.autograd.grad((enlarged * onward).sum(), like)
    assert found.shape == images.shape
    torch.testing.assert_close(found, expected)


EXACT = [
    Identity(),
    GaussianSmoothing(),
    Noise(sigma=0.01),
    Randomization(),
]


@pytest.mark.parametrize("purifier", EXACT, ids=lambda p: type(p).__name__)
def test_full_is_the_exact_gradient_of_the_whole_defense(purifier):
    """Against autograd, and against central differences in float64."""
    images = 0.3 + 0.4 * random_images(2, 32)
    with torch.no_grad():
        size = purifier(images, seeds=[1, 2]).shape[-1]
    linear = nn.Linear(3 * size * size, 4)
    nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(1))
    victim = nn.Sequential(nn.Flatten(), linear, nn.Tanh()).requires_grad_(False)
    linear.weight /= 30
    direction = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    drawn = []
    target = Full().target(victim, purifier, [], seeds=[1, 2])
    view, target.view = target.view, lambda rows, seeds: drawn.extend(seeds) or view(rows, seeds)
    found = slope(target, images, direction)
    asked = images.clone().requires_grad_()
    defended = victim(purifier(asked, seeds=drawn))
    torch.testing.assert_close(found, torch.autograd.grad((defended * direction).sum(), asked)[0])
    exactly, victim = images.double(), victim.double()
    for k in range(4):
        along = torch.randn(images.shape, generator=torch.Generator().manual_seed(k)).double()
        both = [
            (victim(purifier.purify(exactly + step * along, drawn, None)) * direction).sum()
            for step in (1e-5, -1e-5)
        ]
        assert (found * along).sum().item() == pytest.approx((both[0] - both[1]).item() / 2e-5, rel=1e-3)


class Texture(nn.Module):
    """Two classes by a coarse pattern, and more strongly by a fine one wherever it is seen at all."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = torch.arange(32).view(-1, 1), torch.arange(32).view(1, -1)
        self.fine = (1 - 2.0 * ((rows + columns) % 2)).expand(3, 32, 32)
        self.coarse = (1 - 2.0 * ((rows // 8 + columns // 8) % 2)).expand(3, 32, 32)

    def forward(self, images):
        coarse, fine = (((images - 0.5) * part).flatten(1).mean(1) for part in (self.coarse, self.fine))
        score = 20 * coarse + 200 * fine.sign() * F.relu(fine.abs() - 0.003)
        return torch.stack([-score, score], 1)


def test_jpeg_falls_to_bpda_and_not_to_the_blind_attack():
    """JPEG erases the fine pattern, which the blind attack aims at; BPDA sees what is left."""
    n, eps, victim, purifier = 40, 8 / 255, Texture(), JPEG(quality=25)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    side = (2.0 * labels - 1).view(-1, 1, 1, 1)
    smooth = F.interpolate(torch.rand(n, 3, 4, 4, generator=generator), size=32, mode="bicubic") * 0.3 + 0.35
    smooth = smooth - ((smooth - 0.5) * victim.coarse).mean((1, 2, 3), keepdim=True) * victim.coarse
    images = smooth + side * (0.02 * victim.coarse + 0.012 * victim.fine)
    attack, seeds = PGD(eps=eps, alpha=eps, steps=10, random_start=False), list(range(n))
    standing = {}
    for knowledge in (Blind(), BPDA()):
        adversarial = crafted(attack, knowledge, victim, purifier, images, labels)
        purified = purifier(adversarial, seeds=seeds)
        standing[type(knowledge).__name__] = [
            (victim(x).argmax(1) == labels).float().mean().item() for x in (adversarial, purified)
        ]
    assert (victim(purifier(images, seeds=seeds)).argmax(1) == labels).all()
    assert standing["Blind"][0] == 0, "the bare victim is not broken"
    assert standing["Blind"][1] > 0.9
    assert standing["BPDA"][1] < 0.1


class Rippled(nn.Module):
    """Linear but for fast ripples, which the mean over noise smooths away: the slope at one draw of it is
    that of the ripples, the slope of the mean that of the linear part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(3 * 16 * 16, generator=torch.Generator().manual_seed(0)).sign()

    def forward(self, images):
        flat = images.flatten(1) - 0.5
        score = flat @ self.weight + 0.02 * (200 * flat).cos().sum(1)
        return torch.stack([-score, score], 1)


def test_a_noise_purifier_falls_to_expectation_over_transformation():
    n, eps, victim, purifier = 32, 4 / 255, Rippled(), Noise(sigma=0.02)
    images = 0.2 + 0.6 * random_images(n)
    flat = images.flatten(1) - 0.5
    labels = torch.arange(n) % 2
    margin = (2.0 * labels - 1).view(-1, 1) * 6 - (flat @ victim.weight).view(
        -1, 1
    )  # the linear score is then 6
    images = (flat + margin * victim.weight / len(victim.weight) + 0.5).view_as(images)
    steps = {"alpha": eps / 4, "steps": 5, "random_start": False}
    standing = {}
    for name, attack, knowledge in (
        ("one draw", PGD(eps=eps, **steps), Full()),
        ("mean of logits", PGD(eps=eps, **steps), Full(eot=32)),
        ("mean of gradients", EOTPGD(eps=eps, draws=32, **steps), Full()),
    ):
        adversarial = crafted(attack, knowledge, victim, purifier, images, labels)
        draws = [purifier(adversarial, seeds=list(range(r * n, r * n + n))) for r in range(8)]
        standing[name] = torch.stack([victim(x).argmax(1) == labels for x in draws]).float().mean().item()
    assert standing["one draw"] > standing["mean of logits"] + 0.5, standing
    assert standing["one draw"] > standing["mean of gradients"] + 0.5, standing


def test_transfer_is_the_mean_of_the_others_and_the_victim_has_no_part(network):
    def refuses(*_, **__):
        raise AssertionError("a transfer attack knows neither victim nor purifier")

    images, others = random_images(2), [RowByRow(), RowByRow(classes=5)]
    others[1].weight.data *= -0.3
    target = Transfer().target(refuses, refuses, others, seeds=[1, 2])
    torch.testing.assert_close(target(images), (others[0](images) + others[1](images)) / 2)
    one = crafted(FGSM(), Transfer(), refuses, refuses, images, torch.tensor([0, 1]), others=others[:1])
    assert torch.equal(one, crafted(FGSM(), Blind(), others[0], None, images, torch.tensor([0, 1])))
    with pytest.raises(InputError, match=r"knowledge\.victims"):
        Transfer().target(network, None, [], seeds=[1])


@pytest.mark.parametrize("knowledge", [BPDA(), Score(), Decision()], ids=lambda k: type(k).__name__)
def test_a_purifier_that_trains_runs_inside_any_knowledge(small_trace, knowledge):
    """Though the attack wants no gradient, or another one, the purifier needs its own."""
    purifier, victim, images = DIP(trace=small_trace, steps=4), RowByRow(), random_images(2)
    given = []
    target = knowledge.target(victim, purifier, [], seeds=[1, 2])
    view, target.view = target.view, lambda rows, seeds: given.extend(seeds) or view(rows, seeds)
    answer = target(images.clone().requires_grad_())
    expected = victim(purifier(images, seeds=given))
    assert torch.equal(answer.argmax(1), expected.argmax(1))
    if not isinstance(knowledge, Decision):
        assert torch.equal(answer, expected)
    assert answer.requires_grad == isinstance(knowledge, BPDA)


NONE = type("NoGradient", (Identity,), {"gradient": "none"})()
SUITED = [  # attack, knowledge, purifier, what is said where it is refused
    (PGD(), Blind(), JPEG(), None),
    (PGD(), Transfer(), JPEG(), None),
    (PGD(), BPDA(), JPEG(), None),
    (PGD(), BPDA(), NONE, None),
    (PGD(), Full(), Identity(), None),
    (PGD(), Full(), Dynamic(purifier=Identity()), None),
    (PGD(), Full(), JPEG(), "gradient is exact"),
    (PGD(), Full(), Dynamic(purifier=JPEG()), "gradient is exact"),
    (PGD(), Full(), NONE, "gradient is exact"),
    (PGD(), Score(), Identity(), "needs a gradient, knowledge Score gives a score"),
    (PGD(), Decision(), Identity(), "needs a gradient, knowledge Decision gives a decision"),
    (Square(), Score(), JPEG(), None),
    (Square(), Blind(), JPEG(), None),
    (Square(), BPDA(), JPEG(), None),
    (Square(), Decision(), JPEG(), "needs a score, knowledge Decision gives a decision"),
    (HopSkipJump(), Decision(), JPEG(), None),
    (HopSkipJump(), Score(), JPEG(), None),
    (HopSkipJump(), Blind(), JPEG(), None),
    (Clean(), Decision(), JPEG(), None),
    (PGD(), BPDA(eot=2), Noise(), None),
    (PGD(), BPDA(eot=2), JPEG(), "draws nothing"),
    (PGD(), Full(eot=2), Identity(), "draws nothing"),
    (Square(), Score(eot=2), JPEG(), "draws nothing"),
    (HopSkipJump(), Decision(eot=2), JPEG(), "draws nothing"),
    (HopSkipJump(), Decision(eot=2), Noise(), None),
]


@pytest.mark.parametrize(("attack", "knowledge", "purifier", "refusal"), SUITED)
def test_what_cannot_be_run_is_refused_beforehand(attack, knowledge, purifier, refusal):
    if refusal is None:
        knowledge.check(attack, purifier)
    else:
        with pytest.raises(UnsuitedError, match=refusal):
            knowledge.check(attack, purifier)


@pytest.mark.parametrize("kind", [BPDA, Full, Score, Decision])
def test_at_least_one_draw_is_needed(kind):
    with pytest.raises(InputError, match="at least 1 draw"):
        kind(eot=0)
