"""The processes of a run on this machine: each has a worker, and all share the store."""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as wait_for_handle
from pathlib import Path
from typing import Any

import torch

from data.errors import InputError
from data.memory import memory_ran_out
from runners.evaluation.devices import configure_torch
from runners.evaluation.failures import reason_of
from runners.evaluation.keeping import Keeping
from runners.evaluation.queue import TaskQueue
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Task
from runners.exits import no_silent_exit
from runners.store.failures import Failure
from runners.store.store import Store

log = logging.getLogger(__name__)
_leave = os._exit  # while a task runs, `os._exit` raises SystemExit

DIED = "its process died (killed, or out of memory)"
POLL = 0.5  # seconds between checks of what others have done
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # from clusters: the parent reacts
# One process imports everything and only forks the others, so that each of them starts in a moment.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_worker: Worker | None = None


def worker_count(asked: int | str, devices: Sequence[torch.device]) -> int:
    """Return how many processes to use: one per GPU or CPU core, or as many as are asked for. A job of
    joblib uses one, because joblib starts as many jobs as it may use cores."""
    if _is_of_joblib():
        return 1
    if asked == "auto":
        if devices[0].type == "cuda":
            return len(devices)
        if allotted := os.environ.get("SLURM_CPUS_PER_TASK"):  # not every cluster binds processes to cores
            return int(allotted)
        has_affinity = hasattr(os, "sched_getaffinity")  # not on every system
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return int(asked)


def _is_of_joblib() -> bool:
    """Return whether joblib started this process, which then cannot start processes by multiprocessing."""
    return multiprocessing.get_start_method(allow_none=True) == "loky"


def run(queue: TaskQueue, *, worker: Worker, workers: int, devices: Sequence[torch.device]) -> None:
    """Do all tasks of the queue in `workers` processes that share the devices.

    They are done in this process if `workers` is 0, and in jobs of joblib. If a task raises or its process
    dies, only this task fails.
    """
    try:
        if workers == 0 or _is_of_joblib():
            _run_here(queue, worker)
        if queue.left:
            if worker.device.type == "cuda":
                worker.release()  # frees memory of the device for the others
            _run_processes(queue, worker, max(workers, 1), devices)
    finally:
        queue.release()


def _run_here(queue: TaskQueue, worker: Worker) -> None:
    """Do tasks in this process until all have ended or it can no longer use its device."""
    while queue.left:
        task = queue.next()
        if task is not None:
            failure = _attempt(worker, task)
            queue.finished(task, failure)
            if failure is not None and is_broken(worker.device) and not _is_of_joblib():
                return
        elif queue.left:
            queue.pause()


def _run_processes(queue: TaskQueue, worker: Worker, workers: int, devices: Sequence[torch.device]) -> None:
    """Do tasks in processes, which get the devices in turn. Each process has its own executor, so that a
    process that dies fails only the task that it was given."""
    idle = [_Process(worker, devices[i % len(devices)]) for i in reversed(range(workers))]
    running: dict[Future[Any], tuple[Task, _Process]] = {}
    try:
        while queue.left:
            while idle and (task := queue.next()) is not None:
                process = idle.pop()
                running[process.submit(_serve, pickle.dumps(task))] = task, process
            if not running:
                if queue.left:
                    queue.pause()
                continue
            for future in wait(running, timeout=POLL, return_when=FIRST_COMPLETED)[0]:
                task, process = running.pop(future)
                try:
                    failure, broken, warnings = future.result()
                except BrokenProcessPool:
                    failure, broken, warnings = Failure(DIED), True, []
                if broken:
                    process.stop()
                for name, text in warnings:
                    logging.getLogger(name).warning(text)
                idle.append(process)
                queue.finished(task, failure)
    finally:
        for _, process in running.values():  # after an exception, no task goes on
            process.stop(kill=True)
        for process in idle:
            process.stop()


class _Process:
    """A process with a worker. It starts with its first task, and again after it was stopped or has died."""

    def __init__(self, worker: Worker, device: torch.device) -> None:
        self.started_with = (
            worker.store,
            str(device),
            worker.precision,
            worker.keeping,
            worker.chunk_seconds,
        )
        self.executor: ProcessPoolExecutor | None = None

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function in the process."""
        if self.executor is not None:
            with suppress(BrokenProcessPool):  # it died while it was idle
                return self.executor.submit(call, *arguments)
        CONTEXT.set_forkserver_preload([__name__])
        self.executor = ProcessPoolExecutor(
            1, mp_context=CONTEXT, initializer=_begin, initargs=(*self.started_with, dict(os.environ))
        )
        with _signals_blocked():
            return self.executor.submit(call, *arguments)

    def stop(self, *, kill: bool = False) -> None:
        """End the process, immediately if its task must not continue."""
        if self.executor is None:
            return
        if kill:
            for process in list(self.executor._processes.values()):
                process.kill()
        self.executor.shutdown(cancel_futures=True)
        self.executor = None


def is_broken(device: torch.device) -> bool:
    """Return whether this process can no longer use the device. After some errors in a kernel, every later
    call of the process to CUDA fails."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device)
    except RuntimeError as error:
        return not memory_ran_out(error)
    return False


def _attempt(worker: Worker, task: Task) -> Failure | None:
    """Do a task, and return its failure or None. Bad input and an unusable store end the run."""
    try:
        worker.do(task)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        log.debug("task failed", exc_info=True)
        return Failure(reason_of(error, task.configs), traceback.format_exc())
    return None


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that a cluster sends to every process. Processes that are started meanwhile
    inherit the mask of this thread, so that these signals do not end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(
    store: Store,
    device: str,
    precision: str,
    keeping: Keeping,
    chunk_seconds: float | None,
    environment: dict[str, str],
) -> None:
    global _worker
    os.environ.clear()  # the forking process has an earlier environment
    os.environ.update(environment)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # if memory runs out, the kernel kills this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    parent = multiprocessing.parent_process()
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    chosen = configure_torch(torch.device(device), tf32=precision == "tf32")
    _worker = Worker(store, chosen, precision, keeping, chunk_seconds=chunk_seconds)


def _die_with(sentinel: int) -> None:
    """End this process when its parent is killed."""
    wait_for_handle([sentinel])
    _leave(1)


def _serve(message: bytes) -> tuple[Failure | None, bool, list[tuple[str, str]]]:
    """Do a task in a process of its own. Returns its failure, whether the process can no longer use its
    device, and the warnings that the parent repeats."""
    warnings = _Warnings(logging.WARNING)
    logging.getLogger().addHandler(warnings)
    try:
        with no_silent_exit():
            failure = _attempt(_worker, pickle.loads(message))
            return failure, failure is not None and is_broken(_worker.device), warnings.found
    finally:
        logging.getLogger().removeHandler(warnings)


class _Warnings(logging.Handler):
    """Collects the log messages of a process."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.found: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.name, record.getMessage()))
