"""The processes of a run, each of which is forked from one that has imported everything."""

import os
import signal
from multiprocessing.forkserver import _forkserver

import pytest
import torch

from runners.evaluation import workers
from runners.evaluation.keeping import Keeping
from runners.evaluation.stages import Worker
from runners.store.store import Store


@pytest.fixture
def process(tmp_path):
    cpu = torch.device("cpu")
    process = workers._Process(Worker(Store(tmp_path), cpu, "float32", Keeping()), cpu)
    yield process
    process.stop(kill=True)


def test_a_process_has_the_environment_of_its_own_start(process, monkeypatch):
    for value in ("first", "second"):
        monkeypatch.setenv("PURIFYBENCH_TEST", value)
        assert process.submit(os.getenv, "PURIFYBENCH_TEST").result() == value
        process.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_all_processes_is_left_to_the_parent(process, number):
    """Slurm sends its signals to every process of a job."""
    pid = process.submit(os.getpid).result()
    assert pid != os.getpid()
    for target in (pid, _forkserver._forkserver_pid):
        os.kill(target, number)
    assert process.submit(os.getpid).result() == pid
    process.stop()
    assert process.submit(os.getpid).result() not in (pid, os.getpid())
