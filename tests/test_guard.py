"""What attacks and purifiers do to the victim and to the process does not reach other cells."""

import os
import time
from contextlib import suppress

import pytest
import torch
from test_grid import cell, run, same

from data.digits_photos import DigitsPhotos
from runners import evaluate
from runners.evaluation.component import Component
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting
from runners.evaluation.time_limit import TimeLimitError, limited
from runners.evaluation.weights import load_or_train
from runners.exits import no_silent_exit
from runners.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def undisturbed(store):
    results, _ = run(store, [cell("attack=fgsm", "purifier=jpeg")], n=4)
    return results


LATE = [
    ("LateTraining", "got a change of the victim (mode of it"),
    ("LateWeights", "got a change of the victim (network."),
    ("LateDtype", "ZeroDivisionError: after it"),
    ("LateDraw", "got a change of torch's global generator"),
    ("LateExit", "it asked the whole process to end (SystemExit: 0)"),
]


@pytest.mark.parametrize(("purifier", "reason"), LATE, ids=[name for name, _ in LATE])
def test_what_a_purifier_changes_late_fails_its_cell_and_no_other(store, undisturbed, purifier, reason):
    for stage in ("records", "purified"):
        for path in (store / stage).rglob("*.*"):
            path.unlink()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    late, sound = cell("attack=fgsm", purifier=purifier), cell("attack=fgsm", "purifier=jpeg")
    (bad, good), _ = run(store, [late, sound], n=4)
    assert bad.records is None
    assert reason in bad.failed
    same([good], undisturbed)
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (dtype, threads)


EXITS = ["Exits", "HardExit", "LateHardExit"]


@pytest.mark.parametrize("purifier", EXITS)
def test_a_purifier_cannot_end_the_command_in_silence(
    store, undisturbed, monkeypatch, tmp_path, command, purifier
):
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("the process would have ended"))
    words = ["n=2", f"store={store}", f"records={tmp_path}", "workers=1", "attack=clean"]
    status, _, err = command(
        evaluate.main, "evaluate", *words, "purifier=none", f"purifier._target_=tests.broken.{purifier}"
    )
    assert status == 1
    assert "it asked the whole process to end (SystemExit: 0)" in err


@pytest.mark.parametrize(
    ("word", "status", "said"),
    [
        ("purifier._target_=tests.broken.ExitsWhenMade", 2, "asked the whole process to end"),
        ("attack._target_=tests.broken.ExitingAttack", 1, "it asked the whole process to end"),
    ],
)
def test_nor_can_one_that_is_made_nor_an_attack(
    store, undisturbed, monkeypatch, tmp_path, command, word, status, said
):
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("the process would have ended"))
    words = ["n=2", f"store={store}", f"records={tmp_path}", "workers=1", "attack=clean"]
    ended, _, err = command(evaluate.main, "evaluate", *words, "purifier=none", word)
    assert ended == status
    assert said in err


def test_an_exit_outside_of_any_cell_is_status_1(monkeypatch, command):
    monkeypatch.setattr(evaluate, "settings_of", lambda config: os._exit(0))
    with no_silent_exit():  # keeps this process alive if the command does not
        status, _, err = command(evaluate.main, "evaluate", "n=2")
    assert status == 1
    assert "a component asked the whole process to end (SystemExit: 0)" in err


def test_a_network_that_is_loaded_when_the_attack_asks_it_changes_nothing(tmp_path):
    """A process that has not built the purifier yet builds it then, which draws initial weights."""
    attacked_cell = cell("attack=pgd", "attack.steps=1", "knowledge=bpda", "purifier=comdefend")
    store = Store(tmp_path)
    victim, purifier = (load_or_train(attacked_cell.configs[part], store) for part in ("victim", "purifier"))
    chunk = DigitsPhotos().load("evaluation").take([0, 1])
    attack, knowledge = Component(attacked_cell.configs["attack"]), Component(attacked_cell.knowledge)
    task = Crafting(chunk, victim, attack, knowledge, purifier, (), 0, "float32")
    examples = Worker(store, torch.device("cpu"), "float32").adversarial(task)
    assert examples["images"].shape == chunk.images.shape


def swallowing(sleeps: int) -> None:
    for _ in range(sleeps):
        with suppress(Exception):
            time.sleep(20)


@pytest.mark.parametrize("sleeps", [1, 2])
def test_code_that_swallows_all_errors_does_not_escape_the_time_limit(sleeps):
    begin = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"chunk_seconds=0\.1"), limited(0.1):
        swallowing(sleeps)
    assert time.monotonic() - begin < 20
