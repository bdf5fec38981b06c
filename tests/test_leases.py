import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data.errors import InputError
from runners.store import leases
from runners.store.leases import DeadlyError, Holder, Leases, myself


def held_by(folder: Path, holder: Holder, *, age: float = 0.0, generation: int = 0) -> Path:
    """Write a claim on x as another process would leave it, and return its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"x.{generation}"
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age,) * 2)
    return path


def ended() -> Holder:
    """Return a process of this machine that has ended, as a holder of claims."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return replace(myself("x"), pid=child.pid, born="1")


ELSEWHERE = Holder(host="far", place="another machine", pid=1)
STALE = leases.STALE + 60


def test_what_one_holds_no_other_can_take(tmp_path):
    ours, theirs = Leases(tmp_path), Leases(tmp_path)
    assert ours.take("x", "a chunk")
    assert not theirs.take("x", "a chunk")
    assert theirs.take("y", "another")
    ours.release("x")
    assert theirs.take("x", "a chunk")
    assert theirs.alive()["x"].pid == os.getpid()
    theirs.release("x")
    theirs.release("y")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("holder", "age", "dead"),
    [
        (ELSEWHERE, 0, False),
        (ELSEWHERE, leases.STALE - 60, False),
        (ELSEWHERE, STALE, True),
        (ELSEWHERE, -3600, False),
        (Holder(), 0, False),
        (Holder(), STALE, True),
        (ended(), 0, True),
        (replace(myself("x"), born="1"), 0, True),
        (myself("x"), STALE, True),
        (myself("x"), 0, False),
    ],
    ids=["far and fresh", "far and quiet", "far and silent", "far, of the future", "being written",
         "half written", "ended here", "its pid is another's now", "here and stopped", "here and alive"],
)  # fmt: skip
def test_a_claim_is_taken_over_when_its_holder_is_gone(tmp_path, holder, age, dead):
    path = held_by(tmp_path, holder, age=age)
    own_leases = Leases(tmp_path)
    assert ("x" not in own_leases.alive()) == dead
    assert own_leases.take("x", "a chunk") == dead
    own_leases.release("x")
    assert path.exists() == (not dead)


def test_a_claim_of_the_future_is_dead_once_nobody_renews_it(tmp_path, monkeypatch):
    """After a clock was set back, a claim's age says nothing, but that it never changes does."""
    path = held_by(tmp_path, ELSEWHERE, age=-3600)
    own_leases = Leases(tmp_path)
    assert not own_leases.take("x", "a chunk")
    monkeypatch.setattr(leases, "STALE", 0.05)
    time.sleep(0.1)
    os.utime(path, (time.time() + 7200,) * 2)
    assert not own_leases.take("x", "a chunk"), "it was renewed"
    time.sleep(0.1)
    assert own_leases.take("x", "a chunk")


def test_a_living_claim_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.02)
    own_leases = Leases(tmp_path)
    own_leases.take("x", "a chunk")
    path = tmp_path / "x.0"
    os.utime(path, (0, 0))
    for _ in range(100):
        time.sleep(0.02)
        if path.stat().st_mtime > 0:
            break
    assert path.stat().st_mtime > 0


def test_a_task_over_which_several_died_is_deadly(tmp_path):
    for generation in range(leases.DEATHS):
        held_by(tmp_path, ended(), generation=generation)
    with pytest.raises(DeadlyError, match="3 processes died"):
        Leases(tmp_path).take("x", "a chunk", deaths=leases.DEATHS)
    assert Leases(tmp_path).clear() == {"x"}
    assert Leases(tmp_path).take("x", "a chunk", deaths=leases.DEATHS)


def test_clearing_leaves_the_living(tmp_path):
    held_by(tmp_path, ended(), generation=0)
    held_by(tmp_path, ELSEWHERE, generation=1)
    assert Leases(tmp_path).clear() == set()
    assert not Leases(tmp_path).take("x", "a chunk")


def test_who_was_taken_over_removes_nothing(tmp_path):
    sleeper = Leases(tmp_path)
    sleeper.take("x", "a chunk")
    taker = held_by(tmp_path, ELSEWHERE, generation=1)
    sleeper.release("x")
    assert taker.exists()
    assert not Leases(tmp_path).take("x", "a chunk")


def _take(folder: str, start, won) -> None:
    own_leases = Leases(Path(folder))
    start.wait()
    for i in range(50):
        if own_leases.take(str(i), "a chunk"):
            won.put((i, os.getpid()))
    start.wait()


def test_of_several_that_race_each_claim_has_one_winner(tmp_path):
    dead = json.dumps(asdict(ended()))
    for i in range(25):  # half of them to be taken over
        (tmp_path / f"{i}.0").write_text(dead)
    context = multiprocessing.get_context("fork")
    start, won = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_take, args=(str(tmp_path), start, won)) for _ in range(4)]
    for racer in racers:
        racer.start()
    winners = sorted(won.get(timeout=30)[0] for _ in range(50))
    for racer in racers:
        racer.join()
    assert winners == list(range(50))
    assert won.empty()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "claims").write_text("a file")
    with pytest.raises(InputError, match="finished work is kept"):
        Leases(tmp_path / "claims").take("x", "a chunk")
