"""Estimates along a fit, surrogates, and searches that go on after a first success."""

import pytest
import torch
from conftest import Noise, RowByRow, inner_images, rows_of
from test_unrolled import NETWORK, TwoClasses

from attacks import square
from attacks.apgd import APGD
from attacks.fit_knowledge import AlongFit, Surrogate
from attacks.from_torchattacks import PGD
from attacks.knowledge import BPDA, Full, UnsuitedError
from attacks.losses import LOSSES
from attacks.square import Square
from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.dip import DIP, DIPTrace
from purifiers.jpeg import JPEG
from purifiers.median import Median

TRACE = DIPTrace(network=NETWORK)
SEEDS = [1, 2]


def slope(target, images, direction):
    inputs = images.clone().requires_grad_()
    logits = target(inputs)
    return torch.autograd.grad((logits * direction).sum(), inputs)[0], logits.detach()


def test_the_gradient_along_a_fit_is_the_mean_of_the_victims_at_its_reconstructions():
    victim, images, purifier = RowByRow(), inner_images(2), DIP(trace=TRACE, steps=9)
    direction, iterates = torch.tensor([[1.0, -1, 0, 2, 0]]), {}
    knowledge = AlongFit(points=4, known_draw=True)
    gradient, logits = slope(knowledge.target(victim, purifier, [], seeds=SEEDS), images, direction)
    assert torch.equal(logits, victim(purifier(images, seeds=SEEDS)))
    purifier.trace.stream(images, SEEDS, 9, lambda step, made: iterates.update({step: made}))
    expected = torch.zeros_like(images)
    for step in (2, 4, 6, 8):
        reconstruction = iterates[step].clone().requires_grad_()
        expected += torch.autograd.grad((victim(reconstruction) * direction).sum(), reconstruction)[0] / 4
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("similarity", [-1, 1], ids=["crossings", "none"])
def test_crossings_of_ddip_are_aimed_at_and_its_result_where_there_are_none(similarity):
    purifier = DDIP(trace=TRACE, steps=8, maps=8, warmup=0, similarity=similarity)
    victim, images = TwoClasses(), inner_images(2)
    knowledge = AlongFit(of="crossings", points=3, known_draw=True)
    gradient, logits = slope(
        knowledge.target(victim, purifier, [], seeds=SEEDS), images, torch.tensor([[1.0, 0]])
    )
    assert torch.equal(logits, victim(purifier(images, seeds=SEEDS, victim=victim)))
    assert gradient.flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("knowledge", "purifier", "said"),
    [
        (AlongFit(), JPEG(), "knowledge.of=iterates: expected a purifier that reads a trace, got JPEG"),
        (
            AlongFit(of="crossings"),
            DIP(trace=TRACE, steps=9),
            "images on decision boundaries off its trace, got DIP",
        ),
        (
            AlongFit(of="crossings"),
            DDIP(trace=TRACE, steps=9, crossings=None),
            "images on decision boundaries off its trace, got DDIP",
        ),
        (Surrogate(steps=9), DIP(trace=TRACE, steps=9), "expected a purifier of more than 9 steps, got DIP"),
        (Surrogate(steps=9), JPEG(), "expected a purifier of more than 9 steps, got JPEG"),
    ],
)
def test_what_has_no_trace_no_crossings_or_no_fewer_steps_is_refused(knowledge, purifier, said):
    with pytest.raises(UnsuitedError, match=said):
        knowledge.check(PGD(), purifier)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AlongFit(points=0),
        lambda: AlongFit(of="all"),
        Surrogate,
        lambda: Surrogate(steps=2, purifier=JPEG()),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(InputError, match="knowledge"):
        make()


@pytest.mark.parametrize(
    ("knowledge", "cheaper"),
    [(Surrogate(steps=3), DIP(trace=TRACE, steps=3)), (Surrogate(purifier=Median()), Median())],
    ids=["fewer steps", "another purifier"],
)
def test_a_surrogate_is_attacked_in_the_place_of_the_defense(knowledge, cheaper):
    victim, images, purifier = RowByRow(), inner_images(2), DIP(trace=TRACE, steps=9)
    knowledge.check(PGD(), purifier)
    direction = torch.tensor([[1.0, 0, 0, -1, 0]])
    ours = slope(knowledge.target(victim, purifier, [], seeds=SEEDS), images, direction)
    expected = slope(BPDA().target(victim, cheaper, [], seeds=SEEDS), images, direction)
    for first, second in zip(ours, expected, strict=True):
        assert torch.equal(first, second)


def test_square_goes_on_after_an_image_has_fallen():
    victim, images, queries = RowByRow(), inner_images(3), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: queries.append(len(x)) or victim(x), 3)
    result = square.random_search(rows, images, labels, eps=0.05, norm="linf", queries=40, early_stop=False)
    assert queries == [3] * 40
    assert result.found.fell.all()
    stopped = square.random_search(rows_of(victim, 3), images, labels, eps=0.05, norm="linf", queries=40)
    assert (result.margins < stopped.margins).all()
    torch.testing.assert_close(result.margins, -LOSSES["cw"](victim(result.found.images), labels))


@pytest.mark.parametrize(
    "attack", [Square(queries=150, early_stop=False), APGD(steps=3, restarts=2, early_stop=False)]
)
def test_without_an_early_stop_images_that_seem_to_have_fallen_are_attacked_too(attack):
    """A stochastic defense may be wrong about an image by chance in its first answer."""
    victim, images = RowByRow(), inner_images(2)
    labels = victim(images).argmin(1)
    target = Full(eot=2).target(victim, Noise(sigma=1e-3), [], seeds=SEEDS)
    adversarial = attack(target, images, labels, seeds=SEEDS).images
    assert all(count.forward == 2 * attack.forward for count in target.counts)
    assert (LOSSES["cw"](victim(adversarial), labels) > LOSSES["cw"](victim(images), labels)).all()
    assert not attack.stops_early
