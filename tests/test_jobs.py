"""Several jobs that share the work of a run: Hydra's multirun over `shard`, signals and failures."""

import os
import signal

import pytest
from test_grid import CELLS, cell, same
from test_grid import run as evaluated

from runners import evaluate
from runners.evaluation import workers as pool
from runners.evaluator import UNFINISHED
from runners.exits import SIGNALS, EndedError, ended_by_signals
from runners.store.failures import Failure
from runners.store.manifest import manifests
from runners.store.store import Store


@pytest.fixture
def sent(command, tmp_path, monkeypatch):
    """Return a function that evaluates a cell with these words; tasks of jobs are done in this process."""
    monkeypatch.setattr(pool, "_is_of_joblib", lambda: True)
    folders = [f"store={tmp_path}/store", f"records={tmp_path}/records", f"hydra.sweep.dir={tmp_path}/sweep"]
    small = ["n=2", "chunk=1", "attack=clean", "purifier=none", *folders]
    return lambda *words: command(evaluate.main, "evaluate", *small, *words)


@pytest.fixture
def tried(monkeypatch):
    """Return a list to which the key of each attempted task is added."""
    tasks, attempt = [], pool._attempt

    def noted(worker, task) -> Failure | None:
        tasks.append(task.key)
        return attempt(worker, task)

    monkeypatch.setattr(pool, "_attempt", noted)
    return tasks


def test_jobs_fill_the_store_and_the_same_command_without_them_renders(sent, tried, tmp_path):
    status, out, err = sent("shard=range(2)", "-m")
    assert status == 0, err
    assert len(tried) == len(set(tried)) == 4, "two chunks, each crafted and purified by one of the jobs"
    assert "accuracy" not in out
    assert not list((tmp_path / "records").glob("*.parquet"))
    (manifest,) = manifests(Store(tmp_path / "store"))
    assert not [word for word in manifest.words if "shard" in word]
    status, out, _ = sent()
    assert status == 0
    assert "nothing to compute" in out
    assert len(list((tmp_path / "records").glob("*.parquet"))) == 1


def test_what_failed_in_one_job_is_not_tried_in_another_but_in_the_next_multirun(sent, tried, tmp_path):
    broken = "attack._target_=tests.broken.ExitingAttack"
    status, _, err = sent(broken, "shard=range(3)", "-m")
    assert status == 1
    assert err.count("error: 1 of 1 cells failed. First: ") == 1, err
    assert "it asked the whole process to end" in err
    assert len(tried) == len(set(tried)) == 2, "two chunks"
    status, _, _ = sent(broken, "shard=range(3)", f"hydra.sweep.dir={tmp_path}/next", "-m")
    assert status == 1
    assert len(tried) == 4, "both chunks are tried once more"


def test_a_job_without_a_multirun_is_one_job_too(sent, tried, tmp_path):
    """Scripts may start their jobs themselves."""
    status, _, err = sent("shard=7")
    assert status == 0, err
    assert len(tried) == 4
    assert not list((tmp_path / "records").glob("*.parquet"))


def test_without_workers_the_results_are_what_the_store_holds(tmp_path):
    bad, good = cell("attack=clean", purifier="Raises"), CELLS[0]
    (first, whole), _ = evaluated(tmp_path, [bad, good])
    (failed, read), output = evaluated(tmp_path, [bad, good], workers=0)
    assert "estimate" not in output
    same([read], [whole])
    assert "ZeroDivisionError: on purpose" in failed.failed
    assert failed.failed == first.failed
    (missing,), output = evaluated(tmp_path, [CELLS[1]], workers=0)
    assert "estimate" not in output
    assert missing.failed == UNFINISHED


def test_without_workers_nothing_is_trained_or_probed(tmp_path):
    untrained = cell("attack=clean", "purifier=comdefend", "purifier.weights.steps=2")
    (result,), _ = evaluated(tmp_path, [untrained], workers=0)
    assert result.failed.startswith("not finished: the weights of ComDefend are not in the store")
    attacked = cell("attack=fgsm", "purifier=none")
    evaluated(tmp_path, [attacked], audit="off")
    (result,), _ = evaluated(tmp_path, [attacked], workers=0, audit="full")
    assert "workers=0 computes nothing" in result.provenance["flags"]["probe_failed"]
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_a_process_after_it_has_cleaned_up(number):
    done = []

    @ended_by_signals()
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # a second signal changes nothing
            done.append("cleaned up")

    before = signal.signal(number, lambda number, frame: done.append("as before"))
    try:
        with pytest.raises(EndedError, match=f"asked to end by {number.name}"):
            work()
        assert done == ["cleaned up", "as before"]
        os.kill(os.getpid(), number)
        assert done[2:] == ["as before"], "the old handler is not restored"
    finally:
        signal.signal(number, before)


def test_a_signal_ends_the_command_and_its_claims(sent, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_attempt", lambda worker, task: os.kill(os.getpid(), signal.SIGTERM))
    status, _, err = sent()
    assert status == 143
    assert "stopped; finished work is kept, and the same command continues from there" in err
    assert not list((tmp_path / "store" / "claims").iterdir())


def test_a_cluster_that_is_not_there_is_one_line_and_status_2(sent, monkeypatch):
    monkeypatch.setenv("PATH", "")
    status, _, err = sent("hydra/launcher=submitit_slurm", "shard=range(2)", "-m")
    assert status == 2
    sends, error = err.splitlines()
    assert sends.startswith("sending jobs (hydra/launcher=submitit_slurm) and waiting for them; ")
    assert error == 'error: hydra/launcher: Could not detect "srun", are you indeed on a slurm cluster?'
