"""A defense as an attack sees it: every row is counted, every draw is new, and the budget is the limit."""

import types
from collections import Counter
from contextlib import suppress

import pytest
import torch
from conftest import ATTACKS, Noise, RowByRow, answering, random_images, small_attack
from torch import nn

from attacks.attack import Attack
from attacks.knowledge import Blind, Decision, Full, Score
from attacks.target import AttackError, BudgetSpentError, Target, draw_seed
from purifiers.identity import Identity
from runners.evaluation.stages import Worker
from runners.store.store import Store

N = 3
SEEDS = [11, 12, 13]
OWNERS = {draw_seed(seed, draw): i for i, seed in enumerate(SEEDS) for draw in range(3000)}
NAMES = ATTACKS


class Counted(nn.Module):
    """A classifier that counts the rows that it evaluated, and those to which a gradient came back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows, self.gradients = model, 0, 0

    def forward(self, images):
        self.rows += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._note)
        return logits

    def _note(self, gradient):
        self.gradients += int(gradient.flatten(1).any(1).sum())


def standing(images):
    """Return a classifier and labels for which no attack of a small budget ends early."""
    victim = RowByRow(images.shape[-1])
    return victim, victim(images).argmax(1)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"adaptive"}))  # it looks at parts of the defense too
def test_counts_are_the_rows_that_were_evaluated(name):
    images, purifier = random_images(N), Noise(sigma=1e-4)
    victim, labels = standing(images)
    victim, attack = Counted(victim), small_attack(name, eps=1e-3, alpha=1e-4)
    target = answering(attack).target(victim, purifier, [], seeds=SEEDS)
    attack(target, images, labels, seeds=[1, 2, 3])
    owned = Counter(OWNERS[seed] for seed in purifier.seen)
    assert [count.forward for count in target.counts] == [owned[i] for i in range(N)]
    assert [count.queries for count in target.counts] == [owned[i] for i in range(N)]
    assert sum(count.forward for count in target.counts) == victim.rows
    assert sum(count.backward for count in target.counts) == victim.gradients
    assert len(set(purifier.seen)) == len(purifier.seen), "a draw was given twice"
    assert not target.owner_of, "each of millions of draws is kept, though nobody asks whose it was"
    forward = max(count.forward for count in target.counts)
    backward = max(count.backward for count in target.counts)
    assert forward <= attack.forward, "more than the attack declares"
    assert backward <= attack.backward, "more than the attack declares"
    assert forward <= (attack.queries or forward)
    assert (forward > 0) == (attack.needs is not None)
    assert (backward > 0) == (attack.needs == "gradient")


@pytest.mark.parametrize("name", ["fgsm", "pgd", "eotpgd", "bim", "mifgsm", "difgsm", "cw", "ddn", "apgd"])
def test_declared_passes_are_those_of_an_image_that_stands(name):
    images = random_images(2)
    victim, labels = standing(images)
    attack = small_attack(name, eps=1e-3, alpha=1e-4, steps=7)
    target = Blind().target(victim, None, [], seeds=SEEDS[:2])
    attack(target, images, labels, seeds=[1, 2])
    assert (target.counts[0].forward, target.counts[0].backward) == (attack.forward, attack.backward)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("steps", "classes"), [(1, 10), (4, 10), (7, 12), (2, 5)])
def test_autoattack_declares_what_ten_classes_take(norm, steps, classes):
    """More classes take as much, fewer take less; for an image that stands nothing is confirmed."""
    images, victim = random_images(1), RowByRow(classes=classes)
    attack = small_attack("autoattack", eps=1e-3, norm=norm, steps=steps)
    target = Blind().target(victim, None, [], seeds=[1])
    attack(target, images, victim(images).argmax(1), seeds=[1])
    counted, declared = target.counts[0], (attack.forward - 4, attack.backward)
    assert ((counted.forward, counted.backward) == declared) == (classes >= 10)
    assert counted.forward <= declared[0]
    assert counted.backward <= declared[1]


class Greedy(Attack):
    """An attack that asks `rows` rows at a time, more often than any budget here allows."""

    needs = "score"
    batch_coupled = True

    def __init__(self, *, queries: int, rows: int) -> None:
        self.queries, self.rows, self.forward = queries, rows, queries

    def craft(self, model, images, labels):
        with suppress(BudgetSpentError):
            for _ in range(50):
                model(images.repeat(self.rows, 1, 1, 1))
        return images


@pytest.mark.parametrize(("queries", "rows", "asked"), [(7, 1, 7), (7, 7, 7), (7, 3, 6), (7, 8, 0)])
def test_one_query_more_than_the_budget_is_refused(queries, rows, asked):
    images, victim = random_images(2), Counted(RowByRow())
    target = Score().target(victim, Noise(), [], seeds=SEEDS[:2])
    Greedy(queries=queries, rows=rows)(target, images, torch.zeros(2).long(), seeds=[1, 2])
    assert [count.queries for count in target.counts] == [asked, asked]
    assert victim.rows == 2 * asked


def test_a_refused_question_asks_nothing():
    victim = Counted(RowByRow())
    target = Blind().target(victim, None, [], seeds=SEEDS)
    target.budget = 2
    target.ask(random_images(3), [0, 0, 1])
    with pytest.raises(BudgetSpentError):
        target.ask(random_images(2), [1, 0])
    assert [count.queries for count in target.counts] == [2, 1, 0]
    assert victim.rows == 3
    target.ask(random_images(1), [1])


def test_a_budget_is_of_queries_however_many_draws_each_takes():
    images, purifier = random_images(2), Noise()
    target = Score(eot=4).target(RowByRow(), purifier, [], seeds=SEEDS[:2])
    Greedy(queries=5, rows=1)(target, images, torch.zeros(2).long(), seeds=[1, 2])
    assert [(count.queries, count.forward) for count in target.counts] == [(5, 20), (5, 20)]
    assert len(set(purifier.seen)) == 40


def test_a_decision_of_several_draws_is_that_of_most():
    """One draw is far surer than the two that decide otherwise, but decisions do not show it."""
    target = Decision(eot=3).target(RowByRow(), Noise(), [], seeds=SEEDS[:1])
    draws = iter([[90.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    target.view = lambda rows, seeds: torch.tensor([next(draws) for _ in rows])
    assert target.ask(random_images(1), [0]).tolist() == [[0, 1, 0]]


def test_an_answer_is_the_mean_of_its_draws_and_so_is_its_gradient():
    images, victim, purifier = random_images(2), RowByRow(), Noise()
    target = Full(eot=3).target(victim, purifier, [], seeds=[5, 6])
    inputs = images.clone().requires_grad_()
    logits = target(inputs)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), inputs)
    expected, slopes = torch.zeros(2, 5), torch.zeros_like(images)
    for draw in range(3):
        same_inputs = images.clone().requires_grad_()
        part = victim(purifier(same_inputs, seeds=[draw_seed(5, draw), draw_seed(6, draw)]))
        slopes += torch.autograd.grad(part[:, 1].sum(), same_inputs)[0] / 3
        expected += part.detach() / 3
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradient, slopes)
    assert [count.backward for count in target.counts] == [3, 3]


def test_an_image_draws_the_same_whoever_is_asked_beside_it():
    images, victim = random_images(3), RowByRow()
    together = Score(eot=2).target(victim, Noise(), [], seeds=SEEDS)
    alone = Score(eot=2).target(victim, Noise(), [], seeds=SEEDS[1:2])
    for owners in ([0, 1, 2], [2, 1], [1, 1, 0]):
        answer = together.ask(images[owners], owners)
        of_one = [row for row, owner in enumerate(owners) if owner == 1]
        assert torch.equal(answer[of_one], alone.ask(images[[1] * len(of_one)], [0] * len(of_one)))


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_size_of_the_parts_changes_nothing(batch):
    images, owners = random_images(5), [0, 0, 1, 2, 1]
    whole = Score(eot=3).target(RowByRow(), Noise(), [], seeds=SEEDS)
    parts = Score(eot=3).target(RowByRow(), Noise(), [], seeds=SEEDS, batch=batch)
    assert torch.equal(whole.ask(images, owners), parts.ask(images, owners))


def test_a_decision_tells_the_class_alone_and_neither_it_nor_a_score_has_a_gradient():
    images, victim = random_images(3).requires_grad_(), RowByRow()
    decided = Decision().target(victim, Noise(sigma=1e-6), [], seeds=SEEDS)(images)
    assert torch.equal(decided.argmax(1), victim(images).argmax(1))
    assert torch.equal(decided.sort(1).values, torch.eye(5)[-1].expand(3, 5))
    scored = Score().target(victim, Noise(), [], seeds=SEEDS)(images)
    assert not decided.requires_grad
    assert not scored.requires_grad
    assert Full().target(victim, Noise(), [], seeds=SEEDS)(images).requires_grad


class Picks(Attack):
    """An attack that goes on with some of the images, as the attacks of many libraries do."""

    def craft(self, model, images, labels):
        model(images[1:])
        return images


def test_an_attack_that_picks_among_its_images_must_say_so():
    target = Target(lambda rows, drawn: RowByRow()(rows), seeds=SEEDS)
    with pytest.raises(ValueError, match=r"expected all 3 images .* got 2 rows.*batch_coupled = True"):
        Picks()(target, random_images(3), torch.zeros(3).long(), seeds=SEEDS)


def test_what_leaves_the_range_by_rounding_is_clipped_and_what_leaves_it_is_refused():
    images = random_images(1)
    images[0, 0, 0, :4] = torch.tensor([1 + 2e-7, -3e-8, 0.0, 1.0])
    inputs = images.clone().requires_grad_()
    answer = Full().target(RowByRow(), Identity(), [], seeds=[1])(inputs)
    assert torch.equal(answer, RowByRow()(images.clamp(0, 1)))
    (gradient,) = torch.autograd.grad(answer[:, 0].sum(), inputs)
    assert torch.equal(gradient.flatten(), RowByRow().weight[0].float())
    for value in (1 + 1e-5, -1e-5, float("nan")):
        images[0, 0, 0, 0] = value
        with pytest.raises(AttackError, match="expected questions about images in"):
            Full().target(RowByRow(), Identity(), [], seeds=[1])(images)


@pytest.mark.parametrize("name", ["fgsm", "mifgsm"])
def test_a_gradient_that_is_no_number_is_no_robustness(name):
    """The sign of NaN is 0, so a pixel that never moves would look robust."""
    target = Target(
        lambda rows, seeds: rows.flatten(1)[:, :3] + (rows * 0).sum(1).flatten(1)[:, :3].sqrt(), seeds=SEEDS
    )
    with pytest.raises(AttackError, match="a finite gradient"):
        small_attack(name, eps=0.1, alpha=0.1)(target, random_images(N), torch.zeros(N).long(), seeds=SEEDS)


@pytest.mark.parametrize("gives", ["gradient", "score", "decision"])
def test_an_answer_that_is_no_number_is_refused(gives):
    target = Target(lambda rows, seeds: rows.flatten(1)[:, :3].log() * 0, seeds=SEEDS, gives=gives)
    with pytest.raises(AttackError, match="finite logits"):
        target(torch.zeros(N, 3, 4, 4))


class Short(nn.Module):
    """A classifier that runs out of memory above `limit` rows, at once or only when a gradient comes back."""

    def __init__(self, limit: int, *, in_backward: bool) -> None:
        super().__init__()
        self.network, self.limit, self.in_backward = RowByRow(), limit, in_backward
        self.asked: list[int] = []

    def forward(self, images):
        self.asked.append(len(images))
        logits = self.network(images)
        if self.in_backward and logits.requires_grad:
            logits.register_hook(lambda gradient: self.check(len(gradient)))
        elif not self.in_backward:
            self.check(len(images))
        return logits

    def check(self, rows: int) -> None:
        if rows > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("gives", ["decision", "score", "gradient"])
def test_questions_that_memory_cannot_answer_at_once_are_split(gives):
    """The answers stay the same to the bit, and every row is counted once."""
    images, victim = random_images(6), Short(2, in_backward=False)
    answers = []
    for model in (victim.network, victim):
        target = Target(lambda x, seeds, model=model: model(x), seeds=range(6), gives=gives)
        answers.append(target(images.clone().requires_grad_()))
        assert [count.forward for count in target.counts] == [1] * 6
    assert torch.equal(*answers)
    assert (victim.asked, target.batch) == ([6, 3, 1, 1, 1, 1, 1, 1], 1)
    target(images)
    assert victim.asked[8:] == [1] * 6, "the batch that fits is kept"


def test_a_gradient_is_computed_anew_batch_by_batch():
    """Memory holds only what one batch needs; values, gradients and counts are those of the whole."""
    images, victim = random_images(6), Short(2, in_backward=True)
    gradients = []
    for batch, recompute in ((6, False), (2, True)):
        model = victim if recompute else victim.network
        target = Target(
            lambda x, seeds, model=model: model(x), seeds=range(6), batch=batch, recompute=recompute
        )
        rows = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(target(rows).square().sum(), rows)[0])
        assert [(count.forward, count.backward) for count in target.counts] == [(1, 1)] * 6
    assert torch.equal(*gradients)
    assert victim.asked == [2] * 6, "each batch runs once for its answers and once for their gradient"


def test_an_attack_whose_gradient_needs_too_much_memory_begins_again(tmp_path, caplog):
    """Its examples and its counts are those of an attack with enough memory."""
    images, victim = random_images(6), Short(2, in_backward=True)
    labels, attack = victim.network(images).argmax(1), small_attack("pgd")
    results, task = [], types.SimpleNamespace(key="a" * 64)
    for model in (victim.network, victim):
        asked = []

        def target(task, stage, *, batch, recompute, model=model, asked=asked) -> Target:
            asked.append((batch, recompute))
            return Target(lambda x, seeds: model(x), seeds=range(6), batch=batch, recompute=recompute)

        worker = types.SimpleNamespace(target=target, store=Store(tmp_path))
        crafted, last = Worker._crafted(worker, task, attack, images, labels, list(range(6)))
        results.append((crafted.images, [(count.forward, count.backward) for count in last.counts]))
    assert asked == [(6, False), (3, True), (1, True)]
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert "it starts again with gradients of 3 rows" in caplog.text
    victim.limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        Worker._crafted(worker, task, attack, images, labels, list(range(6)))
