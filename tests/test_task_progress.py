"""The progress of a task, as its process reports it and as the process that draws the bar reads it."""

import io
import time

import pytest
import torch
from conftest import RowByRow
from rich.console import Console

from attacks.adaptive import Adaptive
from attacks.auto_attack import AutoAttack
from attacks.knowledge import Full
from attacks.open_defense import Everything
from attacks.target import Counts
from purifiers.identity import Identity
from runners.evaluation import progress, task_progress
from runners.evaluation.progress import Bar
from runners.evaluation.task_progress import Reached, reached_by, reached_of, reported
from runners.store.store import Store


@pytest.mark.parametrize(
    ("taken", "eot", "expected"),
    [
        ([(0, 0), (0, 0)], 1, 0.0),
        ([(30, 15), (30, 15)], 1, 0.5),
        ([(30, 15), (2, 1)], 1, 0.5),  # the second has fallen early
        ([(60, 30), (60, 30)], 2, 0.5),
        ([(99, 99)], 1, 1.0),
    ],
)
def test_the_share_is_that_of_the_declared_passes_of_an_image_that_still_stands(taken, eot, expected):
    attack = AutoAttack()
    attack.forward, attack.backward = 60, 30
    target = Full().target(RowByRow(), Identity(), [], seeds=range(len(taken)))
    target.eot = eot
    target.counts = [Counts(forward=forward, backward=backward) for forward, backward in taken]
    assert reached_by(attack, target) == Reached(expected, "")


def test_a_report_can_be_read_while_the_task_runs_and_is_removed_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(task_progress, "EVERY", 0.001)
    store, report = Store(tmp_path), Reached(0.25, "Square on 3 images")
    with reported(store, "a" * 64, lambda: report):
        deadline = time.monotonic() + 20
        while reached_of(store, "a" * 64) == Reached() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert reached_of(store, "a" * 64) == report
    assert reached_of(store, "a" * 64) == Reached()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_looks_at_a_long_step(terminal, monkeypatch):
    monkeypatch.setattr(progress, "LOOK", 0.001)
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with Bar(console, "crafting", look=lambda bar: bar.update(completed=0.5, description="half")) as bar:
        bar.update(completed=0)
        deadline = time.monotonic() + 20
        while not bar.line().startswith("half: 50 %") and time.monotonic() < deadline:
            time.sleep(0.001)
        assert bar.line().startswith("half: 50 %")


@pytest.mark.parametrize(
    ("attack", "knowledge", "expected"),
    [
        (AutoAttack(steps=1, queries_of_square=1), Full(), "Square on 2 images"),
        (Adaptive(budget=60), Everything(), "member 4 of 4: Square on 2 images"),
    ],
)
def test_an_ensemble_says_which_member_attacks_how_many_images(attack, knowledge, expected, monkeypatch):
    images, victim = torch.full((2, 3, 8, 8), 0.5), Unmoved()
    target = knowledge.target(victim, Identity(), [], seeds=[0, 1], batch=2)
    attack(target, images, torch.zeros(2, dtype=torch.int64), seeds=[0, 1])
    assert attack.activity == expected
    assert reached_by(attack, target).activity == expected


class Unmoved(torch.nn.Module):
    """A classifier with a gradient that answers class 0 whatever it sees."""

    def forward(self, images):
        return images.mean((1, 2, 3)).unsqueeze(1) * 1e-6 + torch.eye(10)[0]
