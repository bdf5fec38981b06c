"""How long work will take, measured on one chunk before it starts."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from attacks.attack import Attack
from attacks.knowledge import Knowledge
from purifiers.purifier import purify_together
from runners.cells.cell import Crafting, Purifying
from runners.cells.components import Spec, build
from runners.store.store import key_of
from runners.work.bench import Bench

log = logging.getLogger(__name__)


class Estimator:
    """Seconds that a task will take here; each kind of task is timed once, in miniature."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.measured: dict[str, float] = {}

    def seconds(self, task: Crafting | Purifying) -> float:
        """Of one process."""
        crafting = task if isinstance(task, Crafting) else task.crafting
        per_image = self._craft(task) if isinstance(task, Crafting) else self._purify(task)
        return per_image * len(crafting.chunk)

    def _craft(self, task: Crafting) -> float:
        """Passes of the attack, each through all that its knowledge sees."""
        attack: Attack = build(task.attack)
        knowledge: Knowledge = build(task.knowledge)
        batch, seconds = len(task.chunk), 0.0
        for spec in task.others or (task.victim,):
            name = key_of({"pass": spec.identity, "batch": batch})
            both = self._once(name, batch, partial(self._pass, task, spec))
            seconds += (attack.forward + 2 * attack.backward) / 3 * both  # a backward pass is two forward
        if task.seen is not None:
            seconds += attack.forward * self._purifying(task, (task.seen,))
        return knowledge.eot * seconds

    def _pass(self, task: Crafting, spec: Spec) -> None:
        images = task.chunk.images.to(self.bench.device, copy=True).requires_grad_()
        labels = task.chunk.labels.to(self.bench.device)
        F.cross_entropy(self.bench.component(spec)(images), labels).backward()

    def _purify(self, task: Purifying) -> float:
        """Purifiers whose images are in the store are only scored, which is not counted."""
        lacking = [p for p in task.purifiers if not self.bench.store.has(task.purified(p))]
        return self._purifying(task.crafting, lacking) if lacking else 0.0

    def _purifying(self, crafting: Crafting, purifiers: Sequence[Spec]) -> float:
        batch = len(crafting.chunk)
        trials, factors = zip(*(self.bench.component(p).trial() for p in purifiers), strict=True)
        identities = [p.identity for p in purifiers]
        name = key_of({"purifiers": identities, "victim": crafting.victim.identity, "batch": batch})

        def once() -> None:
            images = crafting.chunk.images.to(self.bench.device)
            with self.bench.guarded(crafting.victim):
                victim = self.bench.component(crafting.victim)
                purify_together(trials, images, seeds=range(batch), victim=victim)

        return max(factors) * self._once(name, batch, once)

    def _once(self, name: str, batch: int, work: Callable[[], Any]) -> float:
        if name not in self.measured:
            try:
                seconds = self._timed(work)
                if seconds < 1:  # the first call pays for what later ones find ready
                    seconds = self._timed(work)
                self.measured[name] = seconds / batch
            except (Exception, SystemExit) as error:  # the task itself will fail, and say why
                log.debug("cannot be timed: %s", error)
                self.measured[name] = 0.0
        return self.measured[name]

    def _timed(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        if self.bench.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def total(seconds: Sequence[float], workers: int) -> float:
    """Wall seconds for tasks shared among processes: no less than the longest of them."""
    return max(sum(seconds) / workers, max(seconds, default=0.0))


def spoken(seconds: float) -> str:
    """For people: '40 s', '7 min', '3.2 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
