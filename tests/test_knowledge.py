"""The knowledge of an attacker, the worth of a defense against it, and cells that cannot be run."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Noise, RowByRow, crafted, random_images
from torch import nn

from attacks.attack import Clean
from attacks.from_torchattacks import EOTPGD, FGSM, PGD
from attacks.knowledge import BPDA, Blind, Decision, Full, Score, Transfer, UnsuitedError
from attacks.queries import HopSkipJump
from attacks.square import Square
from data.errors import InputError
from purifiers.dip import DIP
from purifiers.dynamic import Dynamic
from purifiers.identity import Identity
from purifiers.jpeg import JPEG


class Texture(nn.Module):
    """A classifier of two classes by a coarse pattern and, more strongly, by a fine one if it is visible."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = torch.arange(32).view(-1, 1), torch.arange(32).view(1, -1)
        self.fine = (1 - 2.0 * ((rows + columns) % 2)).expand(3, 32, 32)
        self.coarse = (1 - 2.0 * ((rows // 8 + columns // 8) % 2)).expand(3, 32, 32)

    def forward(self, images):
        coarse, fine = (((images - 0.5) * part).flatten(1).mean(1) for part in (self.coarse, self.fine))
        score = 20 * coarse + 200 * fine.sign() * F.relu(fine.abs() - 0.003)
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize(("quality", "eps"), [(25, 8 / 255), (75, 6 / 255)])
def test_jpeg_falls_to_bpda_and_not_to_the_blind_attack(quality, eps):
    """JPEG erases the fine pattern, at which the blind attack aims; BPDA sees what is left."""
    n, victim, purifier = 40, Texture(), JPEG(quality=quality)
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
    """A linear classifier with fast ripples, which the mean over noise smooths away.

    The slope at one draw of the noise is that of the ripples; the slope of the mean is that of the linear
    part.
    """

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
    from_one = crafted(FGSM(), Transfer(), refuses, refuses, images, torch.tensor([0, 1]), others=others[:1])
    assert torch.equal(from_one, crafted(FGSM(), Blind(), others[0], None, images, torch.tensor([0, 1])))
    with pytest.raises(InputError, match=r"knowledge\.victims"):
        Transfer().target(network, None, [], seeds=[1])


@pytest.mark.parametrize("knowledge", [BPDA(), Score(), Decision()], ids=lambda k: type(k).__name__)
def test_a_purifier_that_trains_runs_inside_any_knowledge(small_trace, knowledge):
    """The purifier needs its own gradient even if the attack wants none, or another one."""
    purifier, victim, images = DIP(trace=small_trace, steps=4), RowByRow(), random_images(2)
    used_seeds = []
    target = knowledge.target(victim, purifier, [], seeds=[1, 2])
    view, target.view = target.view, lambda rows, seeds: used_seeds.extend(seeds) or view(rows, seeds)
    answer = target(images.clone().requires_grad_())
    expected = victim(purifier(images, seeds=used_seeds))
    assert torch.equal(answer.argmax(1), expected.argmax(1))
    if not isinstance(knowledge, Decision):
        assert torch.equal(answer, expected)
    assert answer.requires_grad == isinstance(knowledge, BPDA)


NONE = type("NoGradient", (Identity,), {"gradient": "none"})()
SUITED = [  # attack, knowledge, purifier, and the message if they are refused
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
