"""A batch larger than memory is halved, and nothing else changes."""

import contextlib
import gc
import logging
import subprocess
import sys
import weakref

import pytest
import torch

from data.memory import memory_ran_out, within_memory


def squares(limit: int, error: Exception, seen: list[int]):
    def work(part: slice) -> list[int]:
        seen.append(part.stop - part.start)
        if part.stop - part.start > limit:
            raise error
        return [i * i for i in range(part.start, part.stop)]

    return work


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: you")],
    ids=lambda error: type(error).__name__,
)
def test_what_does_not_fit_is_halved_and_what_is_done_stays_done(error, caplog):
    sizes: list[int] = []
    with caplog.at_level(logging.WARNING):
        parts, batch = within_memory(squares(3, error, sizes), 11, 8)
    assert [i for part in parts for i in part] == [i * i for i in range(11)]
    assert (batch, sizes) == (2, [8, 4, 2, 2, 2, 2, 2, 1])
    assert "8 images at once: going on with 4" in caplog.text


def test_one_image_too_many_is_an_error():
    with pytest.raises(MemoryError):
        within_memory(squares(0, MemoryError(), []), 4, 4)


def test_other_errors_are_not_taken_for_it():
    sizes: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(squares(0, RuntimeError("shapes differ"), sizes), 4, 4)
    assert sizes == [4]
    assert not memory_ran_out(ValueError("no memory of it"))


LIMITED = """
import resource, sys, torch
torch.set_num_threads(1)
from data.memory import within_memory
from purifiers.networks.fcn import FCN
from purifiers.ride import RIDE, RIDETrace
images = torch.rand(32, 3, 96, 96, generator=torch.Generator().manual_seed(0))
ride = RIDE(trace=RIDETrace(network=FCN(filters=[16, 16, 16]), iterations=2), checkpoints=1)
few = ride(images[:8], seeds=range(8))
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 80 * 2**20, resource.RLIM_INFINITY))
parts, batch = within_memory(lambda part: ride(images[part], seeds=range(32)[part]), 32, 32)
assert torch.equal(torch.cat(parts)[:8], few)
print(batch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set the Linux way")
@pytest.mark.slow
def test_a_real_shortage_on_a_cpu():
    """PyTorch raises its own error under a limit that holds 8 or 16 of 32 images; results stay the same."""
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) in (8, 16)


@contextlib.contextmanager
def capture():
    """Raise an error at the end, as the capture of a CUDA graph does if something went wrong in it."""
    try:
        yield
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def test_memory_that_ends_in_a_graphs_capture_is_seen_through_what_the_capture_raises():
    """The end of the capture fails in turn, and only the context of that error gives the reason."""

    def work(part: slice) -> int:
        if part.stop - part.start > 2:
            with capture():
                raise torch.OutOfMemoryError("CUDA out of memory")
        return part.stop - part.start

    assert within_memory(work, 4, 4) == ([2, 2], 2)
    assert not memory_ran_out(RuntimeError("operation failed due to a previous error during capture"))


def test_memory_in_reference_cycles_is_given_back_before_the_next_attempt(monkeypatch):
    """The cache can only return memory that is not in use, so a later collection would be too late."""
    survivors, alive = [], []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self
            alive.append(weakref.ref(self))

    def work(part: slice) -> None:
        if part.stop - part.start > 1:
            Cycle()
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: survivors.append([ref() for ref in alive]))
    gc.disable()
    try:
        within_memory(work, 2, 2)
    finally:
        gc.enable()
    assert survivors == [[None]]
