"""Does tasks on this machine: in this process, or in several that share the store."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as wait_for_handle
from pathlib import Path
from typing import Any

from data.errors import InputError
from runners.evaluation.failures import DIED, Failure, configs_of, reason_of
from runners.evaluation.keeping import Keeping
from runners.evaluation.queue import Task, TaskQueue
from runners.evaluation.stages import Worker, configure_torch
from runners.exits import no_silent_exit
from runners.store.store import Store

log = logging.getLogger(__name__)
_leave = os._exit  # while a task runs, `os._exit` raises SystemExit

POLL = 0.5  # seconds between looks at what others have done
_bench: Worker | None = None


def worker_count(asked: int | str, device: str) -> int:
    """How many processes: one on a GPU, as many as there are cores on a CPU, or as asked; one in a job of
    joblib, which has as many jobs as it may use cores."""
    if _is_of_joblib():
        return 1
    if asked == "auto":
        if device == "cuda":
            return 1
        if allotted := os.environ.get("SLURM_CPUS_PER_TASK"):  # not every cluster binds processes to cores
            return int(allotted)
        known = hasattr(os, "sched_getaffinity")  # not everywhere
        return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return int(asked)


def _is_of_joblib() -> bool:
    """Whether joblib has started this process, which then cannot start processes by multiprocessing."""
    return multiprocessing.get_start_method(allow_none=True) == "loky"


def run(turns: TaskQueue, *, worker: Worker, workers: int) -> None:
    """Do all tasks that `turns` gives, in `workers` processes of their own, or here where that is 0 and in
    joblib's jobs.

    A task that raises, or whose process dies, fails alone; the others go on.
    """
    try:
        here = workers == 0 or _is_of_joblib()
        if here:
            _run_here(turns, worker)
        while not here and turns.left:
            for task in _run_pool(turns, worker, workers):  # one of them killed its process: each alone
                try:
                    with _processes(worker, 1) as executor:
                        turns.finished(task, _served(executor.submit(_serve, pickle.dumps(task))))
                except BrokenProcessPool:
                    turns.finished(task, Failure(DIED))
    finally:
        turns.release()


def _run_here(turns: TaskQueue, worker: Worker) -> None:
    while turns.left:
        task = turns.next()
        if task is not None:
            turns.finished(task, _attempt(worker, task))
        elif turns.left:
            turns.pause()


def _run_pool(turns: TaskQueue, worker: Worker, workers: int) -> list[Task]:
    """Run tasks in fresh processes until all have ended or a process dies.

    Returns those that were running when a process died.
    """
    running: dict[Future[Any], Task] = {}
    try:
        with _processes(worker, workers) as executor:
            while turns.left:
                # No more in flight than there are processes: if one dies, few tasks are suspected.
                while len(running) < workers and (task := turns.next()) is not None:
                    running[executor.submit(_serve, pickle.dumps(task))] = task
                if not running:
                    if turns.left:
                        turns.pause()
                    continue
                for future in wait(running, timeout=POLL, return_when=FIRST_COMPLETED)[0]:
                    failure = _served(future)
                    turns.finished(running.pop(future), failure)
    except BrokenProcessPool:
        return list(turns.running.values())
    return []


@contextmanager
def _processes(worker: Worker, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes. They are killed when an exception ends the block, so that no task outlives it."""
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(worker.store, worker.device.type, worker.precision, worker.keeping),
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


def _served(future: Future[Any]) -> Failure | None:
    """What became of a task, with what was said in its process."""
    failure, warnings = future.result()
    for name, text in warnings:
        logging.getLogger(name).warning(text)
    return failure


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


def _begin(store: Store, device: str, precision: str, keeping: Keeping) -> None:
    global _bench
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(asked, signal.SIG_IGN)  # a cluster asks every process to end; the parent decides
    with suppress(
        OSError
    ):  # where memory ends, the kernel is to kill a worker, whose task fails, not the parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    parent = multiprocessing.parent_process()
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    _bench = Worker(store, configure_torch(device, tf32=precision == "tf32"), precision, keeping)


def _die_with(sentinel: int) -> None:
    """A killed parent must not leave its workers behind."""
    wait_for_handle([sentinel])
    _leave(1)


def _serve(message: bytes) -> tuple[Failure | None, list[tuple[str, str]]]:
    heard = _Heard(logging.WARNING)
    logging.getLogger().addHandler(heard)
    try:
        with no_silent_exit():
            return _attempt(_bench, pickle.loads(message)), heard.heard
    finally:
        logging.getLogger().removeHandler(heard)


class _Heard(logging.Handler):
    """Warnings of a worker, to be said by its parent."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.heard: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((record.name, record.getMessage()))
