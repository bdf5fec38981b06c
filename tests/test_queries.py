"""Attacks that ask for answers only: known distances, budgets, and a second library."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import SquareAttack
from art.estimators.classification import PyTorchClassifier
from conftest import random_images
from torch import nn

from attacks.attack import AttackError
from attacks.knowledge import Decision, Score
from attacks.queries import HopSkipJump
from attacks.square import Square
from data.errors import InputError
from purifiers.identity import Identity
from runners.evaluation.metrics import wilson


def ask(attack, victim, images, labels, *, knowledge=Decision):
    seeds = list(range(len(images)))
    target = knowledge().target(victim, Identity(), [], seeds=seeds)
    return attack(target, images, labels, seeds=seeds), target


def smallest(victim, images, norm):
    """Return the known distance to the boundary."""
    dual = victim.weight.norm() if norm == "l2" else victim.weight.abs().sum()
    return victim.margin(images).abs() / dual


@pytest.mark.parametrize(("norm", "factors"), [("l2", (3.5, 1.15)), ("linf", (4.5, 1.35))])
def test_hopskipjump_approaches_the_known_distance_with_queries(linear, norm, factors):
    victim, data = linear
    picked, ends = data.take(list(range(6))), []
    shortest = smallest(victim, picked.images, norm)
    for queries, factor in zip((200, 2000), factors, strict=True):
        result, target = ask(HopSkipJump(queries=queries, norm=norm), victim, picked.images, picked.labels)
        ends.append(torch.tensor([path[-1][1] for path in result.paths]))
        assert (ends[-1] >= shortest * (1 - 1e-4)).all(), "an example is nearer than the known minimum"
        assert (ends[-1] <= shortest * factor).all(), f"{ends[-1] / shortest}"
        assert (victim(result.images).argmax(1) != picked.labels).all()
        order = 2 if norm == "l2" else float("inf")
        sizes = (result.images - picked.images).flatten(1).norm(order, dim=1)
        torch.testing.assert_close(sizes, ends[-1])
        for path, count in zip(result.paths, target.counts, strict=True):
            queries_taken, distances = zip(*path, strict=True)
            assert list(queries_taken) == sorted(set(queries_taken))
            assert list(distances) == sorted(set(distances), reverse=True)
            assert queries_taken[-1] <= count.queries <= queries
    assert (ends[1] < 0.6 * ends[0]).all(), "more queries hardly bring the examples nearer"


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("first", [100, 300])
def test_a_run_with_fewer_queries_is_the_beginning_of_a_longer_one(linear, norm, first):
    victim, data = linear
    picked = data.take([0, 1, 2])
    runs = {
        queries: ask(
            HopSkipJump(queries=queries, norm=norm, first_evaluations=first),
            victim,
            picked.images,
            picked.labels,
        )[0]
        for queries in (200, 1000)
    }
    for short, long in zip(runs[200].paths, runs[1000].paths, strict=True):
        assert short == [point for point in long if point[0] <= 200]
        assert len(short) > 5
        assert len(long) > len(short)


def test_within_a_radius_the_nearest_is_the_result_else_the_image_itself(linear):
    victim, data = linear
    picked = data.take(list(range(6)))
    free = ask(HopSkipJump(queries=400), victim, picked.images, picked.labels)[0]
    ends = torch.tensor([path[-1][1] for path in free.paths])
    eps = ends.median().item()
    bound = ask(HopSkipJump(queries=400, eps=eps), victim, picked.images, picked.labels)[0]
    assert bound.paths == free.paths
    for i in range(6):
        expected = free.images[i] if ends[i] <= eps else picked.images[i]
        assert torch.equal(bound.images[i], expected)


def test_an_image_that_is_misclassified_is_its_own_adversarial_example_at_once(linear):
    victim, data = linear
    wrong_labels = 1 - data.labels[:3]
    result, target = ask(HopSkipJump(queries=300), victim, data.images[:3], wrong_labels)
    assert result.paths == [[(1, 0.0)]] * 3
    assert torch.equal(result.images, data.images[:3])
    assert [count.queries for count in target.counts] == [1, 1, 1]
    result, target = ask(Square(queries=300), victim, data.images[:3], wrong_labels, knowledge=Score)
    assert torch.equal(result.images, data.images[:3])
    assert [count.queries for count in target.counts] == [1, 1, 1]


class Constant(nn.Module):
    def forward(self, images):
        return torch.eye(3)[[1] * len(images)]


@pytest.mark.parametrize(
    "settings", [{"queries": 500}, {"queries": 20}, {"queries": 500, "eps": 1.0}], ids=str
)
def test_an_attack_that_cannot_begin_says_nothing_about_robustness(settings):
    with pytest.raises(AttackError, match="none of 100 images of noise is misclassified"):
        ask(HopSkipJump(**settings), Constant(), random_images(2), torch.tensor([1, 1]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("queries", [1, 2, 37])
def test_square_uses_its_budget_and_no_more(norm, queries):
    images = random_images(2)
    result, target = ask(
        Square(eps=0.01, norm=norm, queries=queries),
        Constant(),
        images,
        torch.tensor([1, 1]),
        knowledge=Score,
    )
    assert [count.queries for count in target.counts] == [queries, queries]
    assert (
        (result.images - images).flatten(1).norm(2 if norm == "l2" else torch.inf, dim=1) <= 0.01 + 1e-6
    ).all()


def test_square_hands_out_the_smallest_margin_that_it_saw(linear):
    """This is not the last image, nor the clean one if nothing falls."""
    victim, data = linear
    picked, answers = data.take([0, 1, 2, 3]), []

    def watched(images):
        answers.append((images, victim(images)))
        return answers[-1][1]

    attacked, _ = ask(Square(eps=1e-4, queries=60), watched, picked.images, picked.labels, knowledge=Score)
    images, logits = (torch.cat(part) for part in zip(*answers, strict=True))
    for i in range(4):
        of_image = (images - picked.images[i]).flatten(1).abs().amax(1) <= 1.1e-4
        assert of_image.sum() == 60
        label = picked.labels[i]
        margins = logits[of_image, label] - logits[of_image, 1 - label]
        result = victim(attacked.images[i : i + 1])[0]
        assert torch.isclose(result[label] - result[1 - label], margins.min(), atol=1e-5)
        assert margins.min() > 0, "this test could not fail"


def test_square_agrees_with_arts(network):
    """With the same images, radius and number of queries, neither library leaves clearly more standing."""
    images, n, eps, queries = random_images(32, seed=5), 32, 6 / 255, 60
    labels = network(images).argmax(1)
    ours = ask(Square(eps=eps, queries=queries), network, images, labels, knowledge=Score)[0].images
    classifier = PyTorchClassifier(
        model=network, loss=nn.CrossEntropyLoss(), input_shape=(3, 16, 16), nb_classes=10, clip_values=(0, 1)
    )
    before = np.random.get_state()
    np.random.seed(0)
    attack = SquareAttack(
        classifier, norm=np.inf, eps=eps, max_iter=queries, p_init=0.8, nb_restarts=1, verbose=False
    )
    theirs = torch.from_numpy(attack.generate(images.numpy(), nn.functional.one_hot(labels, 10).numpy()))
    np.random.set_state(before)
    standing = [int((network(adversarial).argmax(1) == labels).sum()) for adversarial in (ours, theirs)]
    assert 4 < standing[0] < n - 4, "this test could not fail"
    for count, other_count in (standing, standing[::-1]):
        low, high = wilson(other_count, n)
        assert low <= count / n <= high, f"{standing} of {n}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Square(queries=0),
        lambda: Square(p_init=0.0),
        lambda: Square(eps=2.0),
        lambda: HopSkipJump(queries=0),
        lambda: HopSkipJump(starts=0),
        lambda: HopSkipJump(eps=-1.0),
        lambda: HopSkipJump(eps=2.0, norm="linf"),
    ],
)
def test_impossible_parameters(make):
    with pytest.raises(InputError, match="expected"):
        make()
