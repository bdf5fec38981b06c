"""The queue of a run: the order in which processes that share a store take tasks."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import uuid4

from runners.evaluation.tasks import Crafting, Purifying, Task
from runners.store.failures import Failure, failure_artifact, failure_of, keep_failure
from runners.store.leases import DEATHS, DeadlyError
from runners.store.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
AGAIN = 2.0  # seconds until a task that another process holds is tried again; doubled up to:
SELDOM = 30.0
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Launch:
    """One run of a command, or one job of several that share the work of a run.

    Args:
        name: the same for all jobs of a run. A chunk that failed in one job is not tried again in another.
        shard: the job's number, which sets where in the queue it begins. A job does not wait for tasks that
            other jobs hold. If None, this run waits for the others and ends when everything is done.
    """

    name: str = field(default_factory=lambda: uuid4().hex)
    shard: int | None = None

    def ordered(self, tasks: Sequence[T]) -> list[T]:
        """Return the same tasks in the order in which this job works through them.

        Multiples of the golden ratio spread the places at which jobs begin evenly, however many there are.
        """
        start = int(len(tasks) * ((self.shard or 0) * GOLDEN % 1))
        return [*tasks[start:], *tasks[:start]]


class TaskQueue:
    """Hands out the tasks of a launch, each with a lease.

    All examples are crafted first, and images are purified once their examples exist. What other processes
    have done or are doing is left to them. If a task fails, only the tasks that need its result fail with it.

    Args:
        tasks: in the order in which they are handed out, except that all crafting comes first.
        done: called for each task when it ends, with the reason if it failed.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        store: Store,
        launch: Launch,
        done: Callable[[Task, str | None], None] = lambda task, reason: None,
    ) -> None:
        self.store, self.launch, self.done = store, launch, done
        self.waiting = {task.key: task for task in sorted(tasks, key=lambda t: isinstance(t, Purifying))}
        self.running: dict[str, Task] = {}
        self.reasons: dict[str, str] = {}  # why results could not be made, by their keys
        self._not_before: dict[str, tuple[float, float]] = {}  # when to try again, and how long to wait then

    def next(self) -> Task | None:
        """Return a task that this process has leased, or None if there is none at the moment."""
        for key, task in list(self.waiting.items()):
            if key not in self.waiting or self._blocked(task) or self._resting(key):
                continue
            if self._ended_elsewhere(task):
                continue
            try:
                leased = self.store.leases.take(key, task.label, deaths=DEATHS)
            except DeadlyError as error:
                self._end(task, Failure(str(error)))
                continue
            if not leased:
                _, wait = self._not_before.get(key, (0.0, AGAIN))
                self._not_before[key] = (time.monotonic() + wait, min(2 * wait, SELDOM))
            elif not self._ended_elsewhere(task):  # not done by others meanwhile
                self.running[key] = self.waiting.pop(key)
                return task
        return None

    @property
    def left(self) -> bool:
        """Whether there is work left for this process."""
        if self.running or self.launch.shard is None:
            return bool(self.running or self.waiting)
        return any(key not in self._not_before or self._blocked(t) for key, t in self.waiting.items())

    @property
    def stage(self) -> str:
        tasks = [*self.waiting.values(), *self.running.values()]
        return "crafting" if any(isinstance(task, Crafting) for task in tasks) else "purifying"

    def finished(self, task: Task, failure: Failure | None) -> None:
        """Record that a task that `next` returned has ended."""
        del self.running[task.key]
        self._end(task, failure)

    def release(self) -> None:
        """Release the leases of unfinished tasks, so that other processes can do them."""
        for key in self.running:
            self.store.leases.release(key)
        self.running.clear()

    def pause(self) -> None:
        """Wait until `next` may return a task again."""
        soonest = min((when for when, _ in self._not_before.values()), default=0)
        time.sleep(min(max(soonest - time.monotonic(), 0.1), 1.0))

    def _end(self, task: Task, failure: Failure | None) -> None:
        if failure is None:
            for key in task.results:
                self.store.remove(failure_artifact(key))
        else:
            failure = Failure(failure.reason, failure.traceback, self.launch.name)
            missing = task.missing(self.store)
            for key in missing:
                self.reasons[key] = failure.reason
                keep_failure(self.store, key, failure, images=task.images)
            failure = failure if missing else None  # another process has done the task meanwhile
        self.store.leases.release(task.key)
        self._drop(task, None if failure is None else failure.reason)

    def _ended_elsewhere(self, task: Task) -> bool:
        """Return whether another process has done the task or failed at it in this launch; if so, drop it."""
        reasons = {}
        for key in task.missing(self.store):
            failure = failure_of(self.store, key)
            if failure is None or failure.launch != self.launch.name:
                return False
            reasons[key] = failure.reason
        self.reasons |= reasons
        self.store.leases.release(task.key)
        self._drop(task, next(iter(reasons.values()), None))
        return True

    def _drop(self, task: Task, reason: str | None) -> None:
        """Remove a task that has ended; if crafting failed, also remove the tasks that need its examples."""
        self.waiting.pop(task.key, None)
        self._not_before.pop(task.key, None)
        if isinstance(task, Crafting) and reason is not None:
            for other in [t for t in self.waiting.values() if isinstance(t, Purifying)]:
                if other.crafting.key == task.key:
                    self.reasons |= dict.fromkeys(other.missing(self.store), reason)
                    self._drop(other, reason)
        self.done(task, reason)

    def _blocked(self, task: Task) -> bool:
        """Return whether the task needs examples that are not crafted yet."""
        if isinstance(task, Crafting):
            return False
        return task.crafting.key in self.waiting or task.crafting.key in self.running

    def _resting(self, key: str) -> bool:
        return self._not_before.get(key, (0.0, 0.0))[0] > time.monotonic()
