"""The devices that a run takes, and what its processes do with them. No GPU is needed."""

import concurrent.futures
import types

import pytest
import torch
from hydra import compose, initialize_config_dir

from data.errors import InputError
from runners.evaluate import settings_of
from runners.evaluation import devices
from runners.evaluation import workers as pool
from runners.evaluation.devices import configure_torch, devices_of
from runners.places import CONFIGS
from runners.store.failures import Failure

CUDA = [torch.device("cuda", i) for i in range(4)]


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that pretends that PyTorch sees so many GPUs, or gives a reason why it sees none."""

    def pretend(count: int, problem: str = "Found no NVIDIA driver on your system") -> None:
        def init() -> None:
            if not count:
                raise RuntimeError(problem)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "init", init)

    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    return pretend


@pytest.mark.parametrize(("count", "asked", "shard", "local", "expected"), [
    (0, "auto", None, False, ["cpu"]),
    (4, "cpu", None, False, ["cpu"]),
    (4, "auto", None, False, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
    (4, "cuda", None, False, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
    (4, "cuda:1", None, False, ["cuda:1"]),
    (4, "auto", 6, True, ["cuda:2"]),
    (4, "cuda:3", 6, True, ["cuda:3"]),
    (4, "auto", 6, False, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
])  # fmt: skip
def test_a_run_takes_these_devices(gpus, monkeypatch, count, asked, shard, local, expected):
    gpus(count)
    if local:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    assert list(map(str, devices_of(asked, shard=shard))) == expected


OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"


@pytest.mark.parametrize(("count", "asked", "problem", "message"), [
    (0, "cuda", "Found no NVIDIA driver", "PyTorch sees none here"),
    (2, "cuda:2", "", "expected cuda:0 to cuda:1, got cuda:2"),
    (0, "auto", OLD, r"found version 12020.* is too old for PyTorch .*update the driver.*or set device=cpu"),
    (0, "cuda", OLD, "too old"),
    (2, "tpu", "", "expected auto, cpu, cuda or cuda:N, got 'tpu'"),
    (2, "cpu:1", "", "got 'cpu:1'"),
])  # fmt: skip
def test_a_device_that_is_not_here_is_named(gpus, count, asked, problem, message):
    gpus(count, problem)
    with pytest.raises(InputError, match=message):
        devices_of(asked)


def test_a_local_job_whose_gpus_the_launcher_hides_fails_at_once(gpus, monkeypatch, tmp_path):
    gpus(0)
    monkeypatch.setattr(devices, "NVIDIA", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices_of("auto") == [torch.device("cpu")], "a user who hides the GPUs wants the CPU"
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    with pytest.raises(InputError, match=r"hides this host's GPUs: set hydra.launcher.gpus_per_node"):
        devices_of("auto", shard=0)
    assert devices_of("cpu", shard=0) == [torch.device("cpu")]


def test_a_process_makes_its_device_the_current_one(gpus, monkeypatch):
    gpus(2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert configure_torch("cuda:1", tf32=False) == torch.device("cuda:1")
    assert configure_torch(torch.device("cuda:0"), tf32=False) == torch.device("cuda:0")
    assert list(map(str, current)) == ["cuda:1", "cuda:0"]


def test_a_process_for_each_gpu():
    assert pool.worker_count("auto", CUDA) == 4
    assert pool.worker_count("auto", CUDA[:1]) == 1
    assert pool.worker_count(3, CUDA) == 3


class Executor(concurrent.futures.Executor):
    """An executor that does each task at once in this process, and lists the executors that were made."""

    made: list["Executor"]

    def __init__(self, workers, *, mp_context, initializer, initargs) -> None:
        self.workers, self.done, self._processes = workers, [], {}
        self.place = initargs[1]
        Executor.made.append(self)

    def submit(self, serve, message):
        future = concurrent.futures.Future()
        self.done.append(message)
        future.set_result(pool._serve(message))
        return future

    def shutdown(self, *, cancel_futures) -> None:
        pass


class Turns:
    """A queue whose tasks are numbers."""

    def __init__(self, count: int) -> None:
        self.waiting, self.running, self.outcomes = list(range(count)), {}, {}

    @property
    def left(self) -> int:
        return len(self.waiting) + len(self.running)

    def next(self):
        if not self.waiting:
            return None
        task = self.waiting.pop(0)
        self.running[task] = task
        return task

    def finished(self, task, failure) -> None:
        del self.running[task]
        self.outcomes[task] = failure

    def release(self) -> None:
        pass


@pytest.fixture
def processes(monkeypatch):
    """Pretend processes on pretended GPUs, and return their worker; task 1 leaves its device broken."""
    Executor.made = []
    broken = []

    def attempt(worker, task):
        if task == 1:
            broken.append(len(Executor.made))
            return Failure("an illegal memory access")
        return Failure("every call fails") if broken and broken[-1] == len(Executor.made) else None

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Executor)
    monkeypatch.setattr(pool, "_attempt", attempt)
    monkeypatch.setattr(pool, "_worker", types.SimpleNamespace(device=CUDA[0]))
    monkeypatch.setattr(pool, "is_broken", lambda device: bool(broken) and broken[-1] == len(Executor.made))
    released = []
    return types.SimpleNamespace(
        store=None, device=CUDA[0], precision="float32", keeping=None, chunk_seconds=None,
        release=lambda: released.append(len(Executor.made)), released=released,
    )  # fmt: skip


def test_processes_share_the_devices_by_index(processes):
    turns = Turns(6)
    pool.run(turns, worker=processes, workers=6, devices=CUDA)
    assert [executor.place for executor in Executor.made] == [f"cuda:{i}" for i in (0, 1, 2, 3, 0, 1)]
    assert processes.released == [0], "this process releases its GPU memory before others start"


@pytest.mark.parametrize("workers", [1, 0])
def test_a_process_whose_device_is_broken_is_replaced(processes, workers):
    """The task that broke the device keeps its own reason, and the tasks after it are done."""
    turns = Turns(4)
    pool.run(turns, worker=processes, workers=workers, devices=CUDA[:1])
    assert {task: failure and failure.reason for task, failure in turns.outcomes.items()} == {
        0: None, 1: "an illegal memory access", 2: None, 3: None,
    }  # fmt: skip
    assert len(Executor.made) == 1 + (workers > 0)


@pytest.mark.parametrize(("error", "broken"), [
    (None, False), (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
    (torch.OutOfMemoryError("CUDA out of memory"), False),
])  # fmt: skip
def test_a_device_is_broken_when_every_call_fails(monkeypatch, error, broken):
    def synchronize(device):
        if error is not None:
            raise error

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)
    assert pool.is_broken(CUDA[1]) is broken
    assert pool.is_broken(torch.device("cpu")) is False


@pytest.mark.parametrize(("count", "asked", "chunk"), [(0, "auto", 8), (2, "auto", 256), (2, "cpu", 8)])
def test_the_size_of_a_chunk_is_the_devices(gpus, count, asked, chunk):
    gpus(count)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("evaluate", [f"device={asked}"])
        assert settings_of(config).chunk == chunk
        assert settings_of(compose("evaluate", ["chunk=5"])).chunk == 5
