"""Attacks that run image by image in step, or once for all images and decide row by row.

Each image gets what it would get alone, and nothing is left behind.
"""

import random
import threading

import numpy as np
import pytest
import torch
from conftest import ATTACKS, Noise, RowByRow, answering, class_of, random_images, small_attack
from torch import nn

from attacks.attack import Attack, AttackError
from attacks.knowledge import Blind
from attacks.lockstep import lockstep
from attacks.target import Target

NAMES = ATTACKS
COUPLED = [name for name in NAMES if class_of("attack", name).batch_coupled]
BY_ROWS = [name for name in NAMES if class_of("attack", name).by_rows]
SEEDS = [21, 2**62 + 22, 23, 24]


def crafted(attack: Attack, purifier, images, labels, seeds):
    target = answering(attack).target(RowByRow(), purifier, [], seeds=seeds)
    return attack(target, images, labels, seeds=seeds)


def test_the_attacks_that_couple_are_those_that_we_know_of():
    assert {"cw", "difgsm", "hopskipjump"} <= set(COUPLED)
    assert {"apgd", "apgd-dlr", "autoattack", "square", "square-l2"} <= set(BY_ROWS)
    assert not set(COUPLED) & set(BY_ROWS)


@pytest.mark.parametrize("name", COUPLED + BY_ROWS)
def test_in_step_or_by_rows_is_alone_bit_for_bit_in_whatever_order(name):
    images = random_images(4)
    labels = RowByRow()(images).argmax(1)
    changes = {} if name == "hopskipjump" else {"eps": 0.02, "alpha": 0.005, "lr": 0.5}
    attack = small_attack(name, **changes)
    together = crafted(attack, Noise(), images, labels, SEEDS)
    assert not torch.equal(together.images, images), "the attack changed nothing"
    order = [2, 0, 3, 1]
    reordered = crafted(attack, Noise(), images[order], labels[order], [SEEDS[i] for i in order])
    assert torch.equal(reordered.images, together.images[order])
    for i in (0, 3):
        alone = crafted(attack, Noise(), images[i : i + 1], labels[i : i + 1], SEEDS[i : i + 1])
        assert torch.equal(alone.images[0], together.images[i])
        assert alone.paths == together.paths[i : i + 1]


@pytest.mark.parametrize("name", COUPLED + BY_ROWS)
def test_other_seeds_give_other_draws(name):
    images = random_images(1)
    labels = RowByRow()(images).argmax(1)
    attack = small_attack(name, eps=0.02, alpha=0.005)
    first, second = Noise(), Noise()
    crafted(attack, first, images, labels, [1])
    crafted(attack, second, images, labels, [2])
    assert not set(first.seen) & set(second.seen)


def threads() -> list[str]:
    """Return the names of all threads but the one that tqdm starts with its first bar (ART's) and keeps."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name != "tqdm_monitor")


@pytest.mark.parametrize("name", NAMES)
def test_the_worlds_random_numbers_are_left_as_they_were(name):
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate(), threads()
    images = random_images(2)
    crafted(small_attack(name), Noise(), images, RowByRow()(images).argmax(1), SEEDS[:2])
    assert torch.equal(torch.get_rng_state(), before[0])
    for now, then in zip(np.random.get_state(), before[1], strict=True):
        np.testing.assert_array_equal(now, then)
    assert random.getstate() == before[2]
    assert threads() == before[3]


@pytest.mark.parametrize("name", NAMES)
def test_the_worlds_random_numbers_do_not_matter(name):
    images = random_images(2)
    labels, results = RowByRow()(images).argmax(1), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        results.append(crafted(small_attack(name), Noise(), images, labels, SEEDS[:2]))
    assert torch.equal(results[0].images, results[1].images)
    assert results[0].paths == results[1].paths


class Reseeds(Attack):
    """An attack that seeds all generators before every question, as libraries do, and draws from them."""

    batch_coupled = True
    forward = 3

    def craft(self, model, images, labels):
        self.drawn = getattr(self, "drawn", [])
        for _ in range(3):
            torch.manual_seed(0)
            np.random.seed(0)
            model(images)
            self.drawn.append(torch.rand(1).item())
        return images


def test_a_library_that_reseeds_disturbs_neither_the_purifier_nor_the_images_draws():
    attack, purifier = Reseeds(), Noise()
    crafted(attack, purifier, random_images(3), torch.zeros(3).long(), SEEDS[:3])
    assert len(set(purifier.seen)) == 9, "two draws coincide"
    assert len(set(attack.drawn)) == 9, "two draws coincide"


class StopsError(Exception):
    pass


class Asks(Attack):
    """An attack that asks five times for logits and their gradient; image 1 may raise in its third round."""

    batch_coupled = True

    def __init__(self, *, raises: bool = False) -> None:
        self.raises, self.ended = raises, 0
        self.forward = self.backward = 5

    def craft(self, model, images, labels):
        try:
            for step in range(5):
                if self.raises and step == 2 and int(labels) == 1:
                    raise StopsError
                asked = images.clone().requires_grad_()
                model(asked).sum().backward()
            return images
        finally:
            self.ended += 1


class Breaks(nn.Module):
    """A classifier that raises an error in its third forward or backward pass."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.passes = where, {"forward": 0, "backward": 0}

    def forward(self, images):
        self._step("forward")
        logits = images.flatten(1)[:, :3] * 2
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._step("backward"))
        return logits

    def _step(self, where):
        self.passes[where] += 1
        if where == self.where and self.passes[where] == 3:
            raise StopsError


@pytest.mark.parametrize("where", ["forward", "backward", "attack"])
def test_an_error_ends_all_threads_and_is_raised(where):
    attack, before = Asks(raises=where == "attack"), threading.active_count()
    victim = Breaks(where)
    target = Target(lambda rows, seeds: victim(rows), seeds=SEEDS)
    with pytest.raises(StopsError):
        attack(target, random_images(4), torch.arange(4), seeds=SEEDS)
    assert attack.ended == 4, "an attack was not unwound"
    assert threading.active_count() == before
    assert victim.passes["forward"] <= 3


def test_images_are_asked_about_together():
    victim = Breaks("")
    target = Target(lambda rows, seeds: victim(rows), seeds=SEEDS)
    Asks()(target, random_images(4), torch.arange(4), seeds=SEEDS)
    assert victim.passes == {"forward": 5, "backward": 5}
    assert [count.backward for count in target.counts] == [5, 5, 5, 5]


def test_images_that_ask_differently_many_rows_each_get_their_own():
    """They also get their own gradients, though some ask for them late and some never."""
    images, victim = random_images(3), RowByRow()
    target = Target(lambda rows, seeds: victim(rows), seeds=SEEDS[:3])

    def work(model, i):
        inputs = images[i : i + 1].repeat(i + 1, 1, 1, 1).mul(torch.rand(i + 1, 1, 1, 1)).requires_grad_()
        logits = model(inputs)
        for _ in range(i):
            model(images[:1])
        gradient = torch.autograd.grad(logits[:, i].sum(), inputs)[0] if i != 1 else None
        return inputs.detach(), logits.detach(), gradient

    for i, (inputs, logits, gradient) in enumerate(lockstep(work, target, SEEDS[:3])):
        assert len(inputs) == i + 1
        assert torch.equal(logits, victim(inputs))
        if i != 1:
            expected = victim.weight[i].float().view(1, *images.shape[1:]).expand(i + 1, -1, -1, -1)
            assert torch.equal(gradient, expected)
    assert [(count.queries, count.backward) for count in target.counts] == [(1, 1), (3, 0), (5, 3)]


def test_a_second_gradient_of_one_answer_is_refused():
    """The graph of the first round is gone when all images have had their gradient."""
    before = threading.active_count()
    target = Target(lambda rows, seeds: RowByRow()(rows), seeds=SEEDS[:2])

    def work(model, i):
        inputs = random_images(1).requires_grad_()
        logits = model(inputs)
        return [torch.autograd.grad(logits[0, c], inputs, retain_graph=True)[0] for c in range(2)]

    with pytest.raises(RuntimeError, match="expected one gradient of an answer"):
        lockstep(work, target, SEEDS[:2])
    assert threading.active_count() == before


def test_one_image_that_fails_fails_the_attack():
    """Image 1 cannot begin, and the results of the others are not taken for those of all."""
    attack = small_attack("hopskipjump")
    target = Target(lambda rows, seeds: torch.eye(5)[[2] * len(rows)], seeds=SEEDS[:2])
    with pytest.raises(AttackError, match="did not begin"):
        attack(target, random_images(2), torch.tensor([1, 2]), seeds=SEEDS[:2])


def test_results_are_in_order_and_nothing_need_be_asked():
    target = Target(lambda rows, seeds: rows.flatten(1), seeds=SEEDS)
    assert lockstep(lambda model, i: i * i, target, SEEDS) == [0, 1, 4, 9]
    bare_target = Blind().target(RowByRow(), None, [], seeds=[])
    assert lockstep(lambda model, i: i, bare_target, []) == []
