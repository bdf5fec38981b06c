"""Does tasks on this machine: in this process, or in several that share the store."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as wait_for_handle
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from data.errors import InputError
from data.memory import memory_ran_out
from runners.evaluation.devices import configure_torch
from runners.evaluation.failures import DIED, Failure, configs_of, reason_of
from runners.evaluation.keeping import Keeping
from runners.evaluation.queue import Task, TaskQueue
from runners.evaluation.stages import Worker
from runners.exits import no_silent_exit
from runners.store.store import Store

log = logging.getLogger(__name__)
_leave = os._exit  # while a task runs, `os._exit` raises SystemExit

POLL = 0.5  # seconds between looks at what others have done
_bench: Worker | None = None


def worker_count(asked: int | str, devices: Sequence[torch.device]) -> int:
    """How many processes: one a GPU, as many as there are cores on a CPU, or as asked; one in a job of
    joblib, which has as many jobs as it may use cores."""
    if _is_of_joblib():
        return 1
    if asked == "auto":
        if devices[0].type == "cuda":
            return len(devices)
        if allotted := os.environ.get("SLURM_CPUS_PER_TASK"):  # not every cluster binds processes to cores
            return int(allotted)
        known = hasattr(os, "sched_getaffinity")  # not everywhere
        return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return int(asked)


def _is_of_joblib() -> bool:
    """Whether joblib has started this process, which then cannot start processes by multiprocessing."""
    return multiprocessing.get_start_method(allow_none=True) == "loky"


def run(turns: TaskQueue, *, worker: Worker, workers: int, devices: Sequence[torch.device]) -> None:
    """Do all tasks that `turns` gives, in `workers` processes that share the devices, or here where that is 0
    and in joblib's jobs.

    A task that raises, or whose process dies, fails alone; the others go on.
    """
    try:
        if workers == 0 or _is_of_joblib():
            _run_here(turns, worker)
        if turns.left and worker.device.type == "cuda":
            worker.release()  # what this process holds of a device its workers cannot have
        workers = max(workers, 1)
        while turns.left:
            for task in _run_pool(
                turns, worker, workers, devices
            ):  # one of them killed its process: each alone
                try:
                    with _processes(worker, 1, devices) as executor:
                        failure, _ = _served(executor.submit(_serve, pickle.dumps(task)))
                        turns.finished(task, failure)
                except BrokenProcessPool:
                    turns.finished(task, Failure(DIED))
    finally:
        turns.release()


def _run_here(turns: TaskQueue, worker: Worker) -> None:
    """Run tasks in this process, until all have ended or it can use its device no more."""
    while turns.left:
        task = turns.next()
        if task is not None:
            failure = _attempt(worker, task)
            turns.finished(task, failure)
            if failure is not None and is_broken(worker.device) and not _is_of_joblib():
                return
        elif turns.left:
            turns.pause()


def _run_pool(turns: TaskQueue, worker: Worker, workers: int, devices: Sequence[torch.device]) -> list[Task]:
    """Run tasks in fresh processes until all have ended, a process dies, or one can use its device no more.

    Returns those that were running when a process died.
    """
    running: dict[Future[Any], Task] = {}
    broken = False
    try:
        with _processes(worker, workers, devices) as executor:
            while running or (turns.left and not broken):
                # No more in flight than there are processes: if one dies, few tasks are suspected.
                while not broken and len(running) < workers and (task := turns.next()) is not None:
                    running[executor.submit(_serve, pickle.dumps(task))] = task
                if not running:
                    if turns.left:
                        turns.pause()
                    continue
                for future in wait(running, timeout=POLL, return_when=FIRST_COMPLETED)[0]:
                    failure, lost = _served(future)
                    broken |= lost
                    turns.finished(running.pop(future), failure)
    except BrokenProcessPool:
        return list(turns.running.values())
    return []


@contextmanager
def _processes(
    worker: Worker, workers: int, devices: Sequence[torch.device]
) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, each with the next of the devices. They are killed when an exception ends the block,
    so that no task outlives it."""
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for i in range(workers):
        places.put(str(devices[i % len(devices)]))
    executor = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_begin,
        initargs=(worker.store, places, worker.precision, worker.keeping),
    )
    try:
        yield executor
    except BrokenProcessPool:
        raise
    except BaseException:
        for process in list(executor._processes.values()):
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _served(future: Future[Any]) -> tuple[Failure | None, bool]:
    """What became of a task, and whether its process can use its device no more; says what was said there."""
    failure, broken, warnings = future.result()
    for name, text in warnings:
        logging.getLogger(name).warning(text)
    return failure, broken


def is_broken(device: torch.device) -> bool:
    """Whether this process can use the device no more: after some errors in a kernel, every call fails that
    a process makes to CUDA."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device)
    except RuntimeError as error:
        return not memory_ran_out(error)
    return False


def _attempt(worker: Worker, task: Task) -> Failure | None:
    """Do a task; the failure if it did. Bad input and an unusable store end the run."""
    try:
        worker.do(task)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        log.debug("task failed", exc_info=True)
        return Failure(reason_of(error, configs_of(task)), traceback.format_exc())
    return None


def _begin(store: Store, places: SimpleQueue, precision: str, keeping: Keeping) -> None:
    global _bench
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(asked, signal.SIG_IGN)  # a cluster asks every process to end; the parent decides
    with suppress(
        OSError
    ):  # where memory ends, the kernel is to kill a worker, whose task fails, not the parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    parent = multiprocessing.parent_process()
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    device = configure_torch(torch.device(places.get()), tf32=precision == "tf32")
    _bench = Worker(store, device, precision, keeping)


def _die_with(sentinel: int) -> None:
    """A killed parent must not leave its workers behind."""
    wait_for_handle([sentinel])
    _leave(1)


def _serve(message: bytes) -> tuple[Failure | None, bool, list[tuple[str, str]]]:
    heard = _Heard(logging.WARNING)
    logging.getLogger().addHandler(heard)
    try:
        with no_silent_exit():
            failure = _attempt(_bench, pickle.loads(message))
            return failure, failure is not None and is_broken(_bench.device), heard.heard
    finally:
        logging.getLogger().removeHandler(heard)


class _Heard(logging.Handler):
    """Warnings of a worker, to be said by its parent."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.heard: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((record.name, record.getMessage()))
