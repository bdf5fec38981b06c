"""Runs tasks on this machine: in this process, or in several that share the store."""

import logging
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_handle
from typing import Any

from data.errors import InputError
from runners.cell import Crafting, Purifying
from runners.store import Store
from runners.work import Bench, settle

log = logging.getLogger(__name__)

Task = Crafting | Purifying
_bench: Bench | None = None


def worker_count(asked: int | str, device: str) -> int:
    """How many processes: one on a GPU, as many as there are cores on a CPU, or as asked."""
    if asked == "auto":
        if device == "cuda":
            return 1
        known = hasattr(os, "sched_getaffinity")  # not everywhere
        return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    if not isinstance(asked, int) or asked < 1:
        raise InputError(f"workers: expected auto or at least 1, got {asked!r}")
    return asked


def run(
    tasks: Sequence[Task],
    *,
    bench: Bench,
    workers: int,
    done: Callable[[Task, str | None], None],
) -> None:
    """Do all tasks. `done` is told each as it ends, with the reason where it failed.

    A task that raises, or whose process dies, fails alone; the others go on.
    """
    if min(workers, len(tasks)) <= 1:
        for task in tasks:
            done(task, _attempt(bench, task))
        return
    waiting = list(tasks)
    while waiting:
        waiting, suspects = _run_pool(waiting, bench, min(workers, len(waiting)), done)
        for task in suspects:  # one of them killed its process: each alone, it is seen which
            if any(_run_pool([task], bench, 1, done)):
                done(task, "its process died (killed, or out of memory)")


def _run_pool(
    tasks: list[Task], bench: Bench, workers: int, done: Callable[[Task, str | None], None]
) -> tuple[list[Task], list[Task]]:
    """Run tasks in fresh processes until all have ended or a process dies.

    Returns the tasks not begun, and those that were running when a process died.
    """
    waiting = list(reversed(tasks))
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(bench.store, bench.device.type, bench.precision),
    )
    running: dict[Future[Any], Task] = {}
    try:
        while waiting or running:
            # No more in flight than there are processes: if one dies, few tasks are suspected.
            while waiting and len(running) < workers:
                running[executor.submit(_serve, pickle.dumps(waiting[-1]))] = waiting[-1]
                waiting.pop()
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                error, warnings = future.result()
                for name, text in warnings:
                    logging.getLogger(name).warning(text)
                done(running.pop(future), error)
    except BrokenProcessPool:
        return list(reversed(waiting)), list(running.values())
    except BaseException:
        for process in list(executor._processes.values()):
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
    return [], []


def _attempt(bench: Bench, task: Task) -> str | None:
    """Do a task; the reason where it failed. Bad input and an unusable store end the run."""
    try:
        bench.do(task)
    except InputError:
        raise
    except Exception as error:
        log.debug("task failed", exc_info=True)
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return None


def _begin(store: Store, device: str, precision: str) -> None:
    global _bench
    parent = multiprocessing.parent_process()
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    _bench = Bench(store, settle(device, tf32=precision == "tf32"), precision)


def _die_with(sentinel: int) -> None:
    """A killed parent must not leave its workers behind."""
    wait_for_handle([sentinel])
    os._exit(1)


def _serve(message: bytes) -> tuple[str | None, list[tuple[str, str]]]:
    heard = _Heard(logging.WARNING)
    logging.getLogger().addHandler(heard)
    try:
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
