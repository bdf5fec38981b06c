"""TaskQueue: which piece of work a process takes next, among all that share a store."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from runners.evaluation import failures
from runners.evaluation.cell import Crafting, Purifying
from runners.evaluation.failures import Failure
from runners.store.leases import DEATHS, DeadlyError
from runners.store.store import Store

log = logging.getLogger(__name__)

Task = Crafting | Purifying
T = TypeVar("T")
AGAIN = 2.0  # seconds until a task that another holds is looked at again, at first; doubled up to:
SELDOM = 30.0
GOLDEN = 0.6180339887498949


def begun_at(tasks: Sequence[T], shard: int) -> list[T]:
    """The same queue, in the order in which job number `shard` works through it.

    Multiples of the golden ratio spread the places at which jobs begin evenly, however many jobs there are.
    """
    start = int(len(tasks) * (shard * GOLDEN % 1))
    return [*tasks[start:], *tasks[:start]]


class TaskQueue:
    """Hands out tasks of one launch, each claimed; what others have done, or are doing, is left to them.

    Examples are crafted before anything else is done; images are purified once their examples are there. A
    task that fails, fails alone, and what needs it.

    Args:
        crafting, purifying: tasks in the order of their turn.
        launch: names this run and all its jobs. What failed in one of them is not tried again in another.
        done: is told of each task as it ends, with the reason where it failed.
        lingers: wait for what others hold; otherwise leave it to them, once nothing waits for it.
    """

    def __init__(
        self,
        crafting: Sequence[Crafting],
        purifying: Sequence[Purifying],
        *,
        store: Store,
        launch: str,
        done: Callable[[Task, str | None], None] = lambda task, reason: None,
        lingers: bool = True,
    ) -> None:
        self.store, self.launch, self.done, self.lingers = store, launch, done, lingers
        self.crafting = {task.key: task for task in crafting}
        self.purifying = {id(task): task for task in purifying}
        self.reasons: dict[str, str] = {}  # of failure, by the keys of what was not made
        self.running: dict[int, Task] = {}
        self._not_before: dict[int, tuple[float, float]] = {}  # when to look again, and how long to wait then

    def next(self) -> Task | None:
        """A task that is now ours, or None where there is none for now."""
        for task in self._waiting():
            if id(task) in self.running or self._dropped(task) or self._not_yet(task):
                continue
            if self._ended_elsewhere(task):
                continue
            try:
                mine = self.store.leases.take(task.key, _named(task), deaths=DEATHS)
            except DeadlyError as error:
                self._end(task, Failure(str(error), launch=self.launch))
                continue
            if not mine:
                self._later(task)
            elif not self._ended_elsewhere(task):  # while we took it
                self.running[id(task)] = task
                return task
        return None

    @property
    def left(self) -> bool:
        """Whether anything remains that this process should see to."""
        if self.running:
            return True
        if self.lingers:
            return bool(self.crafting or self.purifying)
        return any(id(task) not in self._not_before or self._blocked(task) for task in self._waiting())

    def finished(self, task: Task, failure: Failure | None) -> None:
        """A task of `next` has ended."""
        del self.running[id(task)]
        self._end(task, failure)

    def release(self) -> None:
        """Give up what is being done, for others to do."""
        for task in self.running.values():
            self.store.leases.release(task.key)
        self.running.clear()

    def pause(self) -> None:
        """Until it is worth asking `next` again."""
        times = [when for when, _ in self._not_before.values()]
        time.sleep(min(max(min(times, default=0) - time.monotonic(), 0.1), 1.0))

    def _end(self, task: Task, failure: Failure | None) -> None:
        if failure is None:
            failures.forget(self.store, task)
            self.store.leases.release(task.key)
            self._drop(task, None)
            return
        kept = Failure(failure.reason, failure.traceback, self.launch)
        for key in failures.lacking(self.store, task):
            self.reasons[key] = kept.reason
        failures.keep(self.store, task, kept)
        self.store.leases.release(task.key)
        self._drop(task, kept.reason)

    def _ended_elsewhere(self, task: Task) -> bool:
        """Whether another has done it, or has failed in this launch; then it is settled, and not ours."""
        reasons = []
        for key in failures.lacking(self.store, task):
            failure = failures.of(self.store, key)
            if failure is None or failure.launch != self.launch:
                return False
            self.reasons[key] = failure.reason
            reasons.append(failure.reason)
        self.store.leases.release(task.key)
        self._drop(task, reasons[0] if reasons else None)
        return True

    def _drop(self, task: Task, reason: str | None) -> None:
        self._not_before.pop(id(task), None)
        if isinstance(task, Crafting):
            del self.crafting[task.key]
            if reason is not None:  # nor can be purified what was not crafted
                for group in [g for g in self.purifying.values() if g.crafting.key == task.key]:
                    self.reasons |= dict.fromkeys(failures.lacking(self.store, group), reason)
                    self._drop(group, reason)
        else:
            del self.purifying[id(task)]
        self.done(task, reason)

    def _waiting(self) -> list[Task]:
        return [*self.crafting.values(), *self.purifying.values()]

    def _dropped(self, task: Task) -> bool:
        """Whether it was given up while we walked along: what it purifies could not be crafted."""
        return isinstance(task, Purifying) and id(task) not in self.purifying

    def _blocked(self, task: Task) -> bool:
        return isinstance(task, Purifying) and task.crafting.key in self.crafting

    def _not_yet(self, task: Task) -> bool:
        return self._blocked(task) or self._not_before.get(id(task), (0.0, 0.0))[0] > time.monotonic()

    def _later(self, task: Task) -> None:
        _, wait = self._not_before.get(id(task), (0.0, AGAIN))
        self._not_before[id(task)] = (time.monotonic() + wait, min(2 * wait, SELDOM))


def _named(task: Task) -> str:
    crafting = task if isinstance(task, Crafting) else task.crafting
    parts = [f"{crafting.chunk.ids[0]} to {crafting.chunk.ids[-1]}"]
    if isinstance(task, Purifying):
        parts.append(", ".join(spec.config["_target_"].rpartition(".")[2] for spec in task.purifiers))
    else:
        parts.append(crafting.attack["_target_"].rpartition(".")[2])
    return ": ".join(reversed(parts))
