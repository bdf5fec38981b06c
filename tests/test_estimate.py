"""The time that is told, and refused where it is too long, before any work."""

import shutil
from dataclasses import replace

import pytest
import torch
from test_grid import CELLS, cell, run, same

from data.digits_photos import DigitsPhotos
from data.errors import InputError
from runners.cells.cell import Crafting, Purifying
from runners.cells.components import prepare
from runners.store.store import Store
from runners.work import estimate
from runners.work.bench import Bench
from runners.work.estimate import Estimator
from runners.work.schedule import _told


def test_what_is_only_to_be_scored_is_within_any_budget(tmp_path):
    expected, _ = run(tmp_path, CELLS[2:])
    shutil.rmtree(tmp_path / "records")
    results, said = run(tmp_path, CELLS[2:], budget_hours=1e-9)
    same(results, expected)
    assert "estimate" in said
    for stage in ("records", "purified"):
        shutil.rmtree(tmp_path / stage)
    with pytest.raises(InputError, match="above budget_hours=1e-09"):
        run(tmp_path, CELLS[2:], budget_hours=1e-9)


@pytest.fixture
def task(tmp_path):
    """Makes the purifying task of a cell of two images; and the bench to do it."""
    store = Store(tmp_path)
    bench = Bench(store, torch.device("cpu"), "float32")

    def make(*words: str, draws: int = 1, broken: str | None = None) -> tuple[Bench, Purifying]:
        of = cell(*words, purifier=broken)
        victim = prepare(of.configs["victim"], store)
        spec = prepare(of.configs["purifier"], store)
        chunk = DigitsPhotos().load("evaluation").take([0, 1])
        crafting = Crafting(chunk, victim, of.configs["attack"], of.knowledge, None, (), 0, "float32")
        return bench, Purifying(crafting, (spec,), draws)

    return make


@pytest.fixture
def ticking(monkeypatch):
    """Each piece of work that is timed takes a second an image of the two, by this clock."""
    monkeypatch.setattr(Estimator, "_timed", lambda self, work: (work(), 2.0)[1])


@pytest.mark.parametrize(
    ("words", "draws", "seconds"),
    [
        # An image's seconds: the record, the image, that of its 8-bit rounding, the victim's decision.
        (["attack=fgsm", "purifier=jpeg"], 1, 1 + 1 + 1 + 1),
        (["attack=clean", "purifier=jpeg"], 1, 1 + 1 + 1 + 1),  # the embedded images are no 8-bit images
        (["attack=fgsm", "purifier=randomization"], 10, 1 + 1 + 1 + 10 + 9),
        (["attack=fgsm", "purifier=randomization"], 6000, 1 + 1 + 1 + 6000 + 5999),
        (["attack=fgsm", "purifier=dip", "purifier.steps=12"], 1, 1 + 1 + 1),  # a fit is not done again
        (["attack=fgsm", "purifier=dip", "purifier.steps=24"], 3, 1 + 2 + 3 + 2 * 2),
    ],
)
def test_draws_rounding_and_scoring_are_priced(task, ticking, words, draws, seconds):
    bench, purifying = task(*words, draws=draws)
    assert Estimator(bench).seconds(purifying) == pytest.approx(2 * seconds)


def test_the_passes_of_an_attack_are_priced(task, ticking, monkeypatch):
    bench, purifying = task("attack=pgd", "attack.steps=5", "purifier=none")
    monkeypatch.setattr(Estimator, "_forward", lambda *parts: 1.0)
    monkeypatch.setattr(Estimator, "_backward", lambda *parts: 3.0)
    assert Estimator(bench).seconds(purifying.crafting) == pytest.approx(2 * (5 * 1 + 5 * 3))


def test_what_is_made_already_costs_only_its_record(task, ticking):
    bench, purifying = task("attack=clean", "purifier=jpeg")
    before = Estimator(bench).seconds(purifying)
    bench.do(purifying)
    assert Estimator(bench).seconds(purifying) == pytest.approx(2)
    assert before > 2


def test_work_whose_trial_fails_is_of_unknown_length_and_not_free(task, tmp_path):
    bench, purifying = task("attack=clean", broken="Raises")
    assert Estimator(bench).seconds(purifying) is None
    _, jpeg = task("attack=clean", "purifier=jpeg")
    assert Estimator(bench).seconds(replace(jpeg)) > 0


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        (0, "2 min"),
        (2, "2 min, and an unknown time for 2 chunks whose trial failed,"),
        (6, "unknown, since its trial failed,"),
    ],
)
def test_an_unknown_time_is_said(unknown, expected):
    assert _told(120.0, unknown, 6) == expected


def test_a_slow_first_call_is_not_taken_for_the_pace(task, monkeypatch):
    times = iter([0.0, estimate.SHORT - 0.1, 0.0, 0.2])  # a library is imported; then it is there
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(times))
    bench, purifying = task("attack=clean", "purifier=jpeg")
    assert Estimator(bench)._once({"work": 1}, purifying.crafting, lambda: None) == pytest.approx(0.1)
