"""The estimate of a run's time, which is told before any work, and refused if it is too long."""

import shutil
import types
from dataclasses import replace

import pytest
import torch
from test_grid import CELLS, cell, run, same

from attacks.target import Target
from data.digits_photos import DigitsPhotos
from data.errors import InputError
from runners.evaluation import estimator, probe
from runners.evaluation.component import Component
from runners.evaluation.estimate import Estimate
from runners.evaluation.estimator import Estimator
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting, Purifying
from runners.evaluation.weights import load_or_train
from runners.store.store import Store


def test_what_is_only_to_be_scored_is_within_any_budget(tmp_path):
    expected, _ = run(tmp_path, CELLS[2:4], estimated=True)
    shutil.rmtree(tmp_path / "records")
    results, output = run(tmp_path, CELLS[2:4], estimated=True, budget_hours=1e-9)
    same(results, expected)
    assert "estimate" in output
    for stage in ("records", "purified"):
        shutil.rmtree(tmp_path / stage)
    with pytest.raises(InputError, match="above budget_hours=1e-09"):
        run(tmp_path, CELLS[2:4], estimated=True, budget_hours=1e-9)


def attacker(of) -> tuple[Component, Component]:
    """Return the attack of a cell and its knowledge."""
    return Component(of.configs["attack"]), Component(of.knowledge)


@pytest.fixture
def task(tmp_path):
    """Return a function that makes the purifying task of a cell of two images, and the worker to do it."""
    store = Store(tmp_path)
    worker = Worker(store, torch.device("cpu"), "float32")

    def make(*words: str, draws: int = 1, broken: str | None = None) -> tuple[Worker, Purifying]:
        own_cell = cell(*words, purifier=broken)
        victim = load_or_train(own_cell.configs["victim"], store)
        spec = load_or_train(own_cell.configs["purifier"], store)
        chunk = DigitsPhotos().load("evaluation").take([0, 1])
        crafting = Crafting(chunk, victim, *attacker(own_cell), None, (), 0, "float32")
        return worker, Purifying(crafting, (spec,), draws)

    return make


@pytest.fixture
def ticking(monkeypatch):
    """Let each piece of work that is timed take two seconds: one for each of its two images."""
    monkeypatch.setattr(Estimator, "_timed", lambda self, work: (work(), 2.0)[1])


@pytest.mark.parametrize(
    ("words", "draws", "seconds"),
    [
        # Seconds per image: for the record, the image, its 8-bit rounding and the victim's decision.
        (["attack=fgsm", "purifier=jpeg"], 1, 1 + 1 + 1 + 1),
        (["attack=clean", "purifier=jpeg"], 1, 1 + 1 + 1 + 1),  # the embedded images are no 8-bit images
        (["attack=fgsm", "purifier=randomization"], 10, 1 + 1 + 1 + 10 + 9),
        (["attack=fgsm", "purifier=randomization"], 6000, 1 + 1 + 1 + 6000 + 5999),
        (["attack=fgsm", "purifier=dip", "purifier.steps=12"], 1, 1 + 1 + 1),  # a fit is not done again
        (["attack=fgsm", "purifier=dip", "purifier.steps=24"], 3, 1 + 2 + 3 + 2 * 2),
    ],
)
def test_draws_rounding_and_scoring_are_priced(task, ticking, words, draws, seconds):
    worker, purifying = task(*words, draws=draws)
    assert Estimator(worker).seconds(purifying) == pytest.approx(2 * seconds)


class Clock:
    """A clock on which time passes only when the work says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Return a clock on which each pass of an image through the defense takes a second.

    What an attack does by itself between two questions takes half a second, and all else takes no time.
    """
    clock, ask = Clock(), Target.ask
    monkeypatch.setattr(estimator, "time", clock)
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr(Estimator, "_forward", lambda *parts: 1.0)
    monkeypatch.setattr(Estimator, "_backward", lambda *parts: 0.0)

    def asked(target: Target, images: torch.Tensor, owners: list[int]) -> torch.Tensor:
        answer = ask(target, images, owners)
        clock.now += 1.5 * len(owners) * target.eot
        return answer

    monkeypatch.setattr(Target, "ask", asked)
    return clock


@pytest.mark.parametrize(
    ("words", "seconds", "at_most"),
    [
        (["attack=fgsm"], 2 * 1.5, False),  # it ends within the trial
        (["attack=pgd", "attack.steps=50"], 2 * 50 * 1.5, False),
        (["attack=ddn", "attack.steps=30"], 2 * 31 * 1.5, False),
        (["attack=cw", "attack.steps=40"], 2 * 40 * 1.5, False),
        (
            ["attack=apgd", "attack.steps=9", "attack.restarts=3", "attack.eps=1e-6"],
            2 * (1 + 3 * 10) * 1.5,
            True,  # a restart leaves out what has fallen
        ),
        (["attack=square", "attack.queries=70", "attack.eps=1e-6"], 2 * 70 * 1.5, True),  # no image falls
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_attack_is_priced_with_its_own_work_between_its_passes(task, clock, words, seconds, at_most):
    worker, purifying = task(*words, "purifier=none")
    estimator = Estimator(worker)
    assert estimator.seconds(purifying.crafting) == pytest.approx(seconds)
    assert estimator.at_most == at_most
    assert clock.now < 20  # the trial is short, however long the attack is


def test_images_about_which_an_attack_asks_no_more_are_done(task, clock):
    done = [(40, 0), (8, 0)]
    begun = probe.Probe(seconds=60.0, ended=False, done=done, recent=[(20, 0), (0, 0)], recent_seconds=30.0)
    assert begun.left(100, 0) == (60, 0)


def test_a_fit_under_attack_is_priced_at_its_full_length(task, clock):
    """The attack is tried on 12 steps of a fit of 24; each pass takes as long again for the other 12."""
    words = ["attack=pgd", "attack.steps=3", "knowledge=bpda"]
    worker, _ = task("purifier=none")
    fit_cell = cell(*words, "purifier=dip", "purifier.steps=24")
    store = worker.store
    victim, known_purifier = (load_or_train(fit_cell.configs[part], store) for part in ("victim", "purifier"))
    chunk = DigitsPhotos().load("evaluation").take([0, 1])
    crafting = Crafting(chunk, victim, *attacker(fit_cell), known_purifier, (), 0, "float32")
    estimator = Estimator(worker)
    estimator._purifying = lambda *parts: 4.0
    assert estimator.seconds(crafting) == pytest.approx(2 * 3 * (1.5 + 2.0))


def test_what_is_made_already_costs_only_its_record(task, ticking):
    worker, purifying = task("attack=clean", "purifier=jpeg")
    before = Estimator(worker).seconds(purifying)
    worker.do(purifying)
    assert Estimator(worker).seconds(purifying) == pytest.approx(2)
    assert before > 2


def test_work_whose_trial_fails_is_of_unknown_length_and_not_free(task, tmp_path):
    worker, purifying = task("attack=clean", broken="Raises")
    assert Estimator(worker).seconds(purifying) is None
    _, jpeg = task("attack=clean", "purifier=jpeg")
    assert Estimator(worker).seconds(replace(jpeg)) > 0


@pytest.mark.parametrize(
    ("unknown", "at_most", "expected"),
    [
        (0, False, "2 min"),
        (0, True, "at most 2 min"),
        (2, False, "2 min, and an unknown time for 2 chunks whose trial failed"),
        (2, True, "at most 2 min, and an unknown time for 2 chunks whose trial failed"),
        (6, True, "an unknown time, since the trial failed"),
    ],
)
def test_an_unknown_time_and_an_upper_bound_are_said(unknown, at_most, expected):
    seconds = {str(i): 20.0 for i in range(6 - unknown)}
    assert Estimate(seconds, 6, 120.0, at_most).text == expected


def test_a_slow_first_call_is_not_taken_for_the_pace(task, monkeypatch):
    times = iter([0.0, estimator.SHORT - 0.1, 0.0, 0.2])  # the first call imports a library
    monkeypatch.setattr(estimator.time, "perf_counter", lambda: next(times))
    worker, purifying = task("attack=clean", "purifier=jpeg")
    assert Estimator(worker)._once({"work": 1}, purifying.crafting, lambda: None) == pytest.approx(0.1)


@pytest.mark.parametrize(("device", "steps", "seconds"), [
    ("cuda", 1000, 2 + 1000 * 0.01),
    ("cuda", 18, 2 + 18 * 0.01),
    ("cuda", 5, 2 + 5 * 0.01),
    ("cpu", 1000, 1000 / 12 * (2 + 12 * 0.01)),
])  # fmt: skip
def test_on_cuda_only_replayed_steps_are_multiplied(monkeypatch, device, steps, seconds):
    """The first steps of a fit take two seconds longer there, but once, and not once in twelve steps."""

    def trial(self, crafting, purifiers, most):
        return 2 + 0.01 * min(steps, most), steps / min(steps, most)

    monkeypatch.setattr(Estimator, "_trial", trial)
    estimator = Estimator(types.SimpleNamespace(device=torch.device(device)))
    assert estimator._purifying(None, []) == pytest.approx(seconds)


def test_a_trial_that_does_not_fit_into_memory_is_halved_as_the_run_would_be(task, monkeypatch):
    worker, purifying = task("attack=clean", "purifier=dip", "purifier.steps=12")
    sizes, together = [], estimator.purify_together

    def short(purifiers, images, **words):
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return together(purifiers, images, **words)

    monkeypatch.setattr(estimator, "purify_together", short)
    assert Estimator(worker).seconds(purifying) is not None
    assert sizes[:3] == [2, 1, 1]


@pytest.mark.parametrize(
    ("expected", "parts", "longest"),
    [
        (
            7200.0,
            {"A on DIP": 3600.0, "B": 60.0, "C": 7200.0, "D": 1.0},
            "longest: C 2.0 h, A on DIP 60 min, B 60 s",
        ),
        (7200.0, {"A on DIP": 3600.0}, ""),  # there is nothing to choose from
        (60.0, {"A on DIP": 30.0, "B": 60.0}, ""),
    ],
)
def test_long_work_names_what_takes_longest(expected, parts, longest):
    long = Estimate({"": expected}, 1, expected, parts=parts)
    assert long.longest == longest
    with pytest.raises(InputError) as error:
        long.check(types.SimpleNamespace(budget_hours=1e-3, n=8))
    assert str(error.value).endswith(f" ({longest})" if longest else "raise budget_hours")
