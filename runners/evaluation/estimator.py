"""Estimates how long work will take, from trials on one chunk of each kind before it starts."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from attacks.attack import Attack, Clean
from attacks.knowledge import Knowledge
from data.images import rounded
from data.memory import within_memory
from purifiers.purifier import TRIAL_STEPS, Purifier, PurifierError, purify_together
from runners.evaluation.component import Component
from runners.evaluation.estimate import Estimate
from runners.evaluation.probe import Probe, probe
from runners.evaluation.records import to_parquet
from runners.evaluation.schema import rows_of
from runners.evaluation.scored import Scored
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting, Purifying, Task
from runners.store.artifact import file_of, key_of

log = logging.getLogger(__name__)

SHORT = 3.0  # seconds after which an attack is stopped; a shorter trial is repeated


class Estimator:
    """Estimates the seconds that tasks will take here; each kind of work is timed once, in a short trial."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.measured: dict[str, float] = {}  # seconds per image; NaN if the trial failed
        self.budgets: dict[str, None] = {}  # what adaptive attacks report about their budgets
        self.at_most = False  # whether an attack may take less time, since it stops early

    def estimate(
        self, crafting: Sequence[Crafting], purifying: Sequence[Purifying], workers: int
    ) -> Estimate:
        """Estimate how long these tasks take in `workers` processes; all crafting comes first."""
        seconds = {task.key: self.seconds(task) for task in (*crafting, *purifying)}
        known = {key: value for key, value in seconds.items() if value is not None}
        expected, parts = 0.0, Counter[str]()
        for task in (*crafting, *purifying):
            parts[task.part] += known.get(task.key, 0.0)
        for tasks in (crafting, purifying):
            lengths = [known[task.key] for task in tasks if task.key in known]
            expected += max(sum(lengths) / workers, max(lengths, default=0.0))  # at least the longest task
        return Estimate(known, len(seconds), expected, self.at_most, parts)

    def seconds(self, task: Task) -> float | None:
        """Return the seconds that the task takes in one process, or None if its trial failed."""
        crafting = task if isinstance(task, Crafting) else task.crafting
        per_image = self._craft(task) if isinstance(task, Crafting) else self._purify(task)
        return None if math.isnan(per_image) else per_image * len(crafting.chunk)

    def unmade(self, task: Purifying) -> list[Component]:
        """Return the purifiers whose images the store lacks; those of the others are only scored."""
        return [spec for spec in task.purifiers if not self.worker.store.has(task.purified(spec))]

    def _craft(self, task: Crafting) -> float:
        """Return the seconds per image of the attack and of storing its result.

        The attack is started and stopped after a moment. The passes that it declares but has not taken are
        added at its recent pace.
        """
        attack: Attack = task.attack.build().of_images(task.chunk.ids)
        knowledge: Knowledge = task.knowledge.object
        short, factor = None, 1.0
        if task.purifier is not None:
            short, factor = self.worker.load(task.purifier).shortened(steps=knowledge.trial_steps)

        def cost(forward: float, backward: float) -> float:
            """Return the seconds of these passes alone, without the attack's own work between them."""
            answers = sum(
                forward * self._forward(task, spec) + backward * self._backward(task, spec)
                for spec in task.surrogates or (task.victim,)
            )
            return answers + (forward * self._purifying(task, (task.purifier,)) / factor if short else 0.0)

        def per_image() -> float:
            trial = self._begun(task, attack, short)
            if trial.ended and trial.seconds < SHORT:  # the first call also prepares what later ones use
                trial = self._begun(task, attack, short)
            if attack.budget_told:
                name = type(short).__name__ if short else "the victim"
                self.budgets[f"{type(attack).__name__} on {name}: {attack.budget_told}"] = None
            seconds, forward = trial.seconds, sum(f for f, _ in trial.done)
            if not trial.ended:
                if not attack.forward:
                    raise ValueError("the attack does not declare how many passes it takes")
                left = trial.left(attack.forward * knowledge.eot, attack.backward * knowledge.eot)
                pace = trial.recent_seconds / cost(*map(sum, zip(*trial.recent, strict=True)))
                seconds, forward = seconds + pace * cost(*left), forward + left[0]
                self.at_most |= attack.stops_early
            if factor > 1:  # the fits of the trial were shorter by this factor
                seconds += (1 - 1 / factor) * forward * self._purifying(task, (task.purifier,))
            return seconds / len(task.chunk)

        made_of = {
            name: part for name, part in task.artifact.inputs.items() if name not in ("images", "seed")
        }
        return self._known({"crafting": made_of}, task, per_image) + self._storing(task)

    def _begun(self, task: Crafting, attack: Attack, seen: Purifier | None) -> Probe:
        chunk, seeds = task.chunk.to(self.worker.device), task.seeds("craft")
        with self.worker.guarded(*task.classifiers):
            target = self.worker.target(task, "attacked", purifier=seen)
            return probe(attack, target, chunk.images, chunk.labels, seeds, moment=SHORT)

    def _purify(self, task: Purifying) -> float:
        """Return the seconds per image of all that `Worker.purify` does: the purified images, those of the
        examples' 8-bit rounding, further draws and the victim's decisions on them, and the records."""
        crafting, unmade = task.crafting, self.unmade(task)
        seconds = len(task.purifiers) * self._scoring(crafting)
        if unmade:
            seconds += self._purifying(crafting, unmade)
        for spec in unmade:
            extra = task.draws - 1 + self._rounded(crafting, spec)
            seconds += task.draws * self._forward(crafting, crafting.victim)
            seconds += extra * self._purifying(crafting, (spec,)) if extra else 0.0
        return seconds

    def _rounded(self, crafting: Crafting, spec: Component) -> bool:
        """Return whether the purifier is also applied to the 8-bit rounding of the examples."""
        if self.worker.load(spec).per_image_optimization:
            return False
        stored = self.worker.store.get_tensors(crafting.artifact)
        if stored is None and not isinstance(crafting.attack.object, Clean):
            return True  # an attack's examples are seldom 8-bit images
        images = crafting.chunk.images if stored is None else stored["images"]
        return not torch.equal(rounded(images), images)

    def _forward(self, crafting: Crafting, spec: Component) -> float:
        """Return the seconds per image of a classifier's answer without a gradient."""

        def once() -> None:
            with torch.no_grad():
                self.worker.load(spec)(crafting.chunk.images.to(self.worker.device))

        return self._once({"forward": spec.identity}, crafting, once)

    def _backward(self, crafting: Crafting, spec: Component) -> float:
        """Return the seconds per image that the gradient adds to an answer."""

        def once() -> None:
            images = crafting.chunk.images.to(self.worker.device, copy=True).requires_grad_()
            labels = crafting.chunk.labels.to(self.worker.device)
            F.cross_entropy(self.worker.load(spec)(images), labels).backward()

        both = self._once({"gradient": spec.identity}, crafting, once)
        return max(both - self._forward(crafting, spec), 0.0)

    def _purifying(self, crafting: Crafting, purifiers: Sequence[Component]) -> float:
        seconds, factor = self._trial(crafting, purifiers, TRIAL_STEPS)
        if self.worker.device.type != "cuda" or factor == 1:
            return factor * seconds
        # On CUDA the first steps of a fit warm up and capture a graph, and take longer than the later ones.
        longer, factor_of_longer = self._trial(crafting, purifiers, 2 * TRIAL_STEPS)
        if factor_of_longer == 1:
            return longer
        steps = (factor - 1) / (factor / factor_of_longer - 1)  # those left, in units of those added
        return seconds + steps * max(longer - seconds, 0.0)

    def _trial(self, crafting: Crafting, purifiers: Sequence[Component], steps: int) -> tuple[float, float]:
        """Return the seconds per image of copies shortened to `steps` steps, and the factor to full fits."""
        loaded = [self.worker.load(purifier) for purifier in purifiers]
        trials, factors = zip(*(purifier.shortened(steps=steps) for purifier in loaded), strict=True)

        def once() -> None:
            images = crafting.chunk.images.to(self.worker.device)
            with self.worker.guarded(crafting.victim):
                victim = self.worker.load(crafting.victim)
                parts, _ = within_memory(
                    lambda part: purify_together(
                        trials, images[part], seeds=range(len(images))[part], victim=victim
                    ),
                    len(images),
                    len(images),
                )
            if broken := [r for results in parts for r in results if isinstance(r, PurifierError)]:
                raise broken[0]

        identities = [purifier.identity for purifier in purifiers]
        what = {"purifiers": identities, "victim": crafting.victim.identity, "steps": steps}
        return self._once(what, crafting, once), max(factors)

    def _storing(self, crafting: Crafting) -> float:
        """Return the seconds per image of packing the images of a chunk."""
        content = crafting.chunk.images.numpy().tobytes()
        return self._once({"storing": True}, crafting, lambda: file_of({}, content, pack=True))

    def _scoring(self, crafting: Crafting) -> float:
        """Return the seconds per image of scoring, as if the attack and the purifier had changed nothing."""
        victim, device = self.worker.load(crafting.victim), self.worker.device

        def once() -> None:
            chunk = crafting.chunk.to(device)
            unchanged, passes = {"images": chunk.images}, torch.zeros(len(chunk), 4)
            crafted = {"seconds": torch.tensor(0.0), "passes": passes, "paths": torch.zeros(0, 3)}
            purified = {"seconds": torch.tensor(0.0), "batch": torch.tensor(1), "of_8_bit": chunk.images}
            decided = {"decided": torch.zeros(1, len(chunk), dtype=torch.int64)}
            scored = Scored(
                victim,
                chunk,
                unchanged | crafted,
                unchanged | purified | decided,
                precision=crafting.precision,
                keys=("", "", ""),
                seeds=[0] * len(chunk),
            )
            to_parquet(rows_of(scored))

        return self._once({"scoring": crafting.victim.identity}, crafting, once)

    def _once(self, what: Mapping[str, Any], crafting: Crafting, work: Callable[[], Any]) -> float:
        """Return the seconds per image of `work` on chunks like this one, or NaN if it fails."""

        def per_image() -> float:
            seconds = self._timed(work)
            if seconds < SHORT:  # the first call also prepares what later ones use
                seconds = self._timed(work)
            return seconds / len(crafting.chunk)

        return self._known(what, crafting, per_image)

    def _known(self, what: Mapping[str, Any], crafting: Crafting, measure: Callable[[], float]) -> float:
        """Return what `measure` gives for a chunk like this one, measured only once; NaN if it fails."""
        chunk = crafting.chunk
        name = key_of({**what, "batch": len(chunk), "shape": list(chunk.shape)})
        if name not in self.measured:
            try:
                self.measured[name] = measure()
            except (Exception, SystemExit) as error:  # the task itself will fail and give the reason
                log.debug("cannot be timed: %s", error)
                self.measured[name] = math.nan
        return self.measured[name]

    def _timed(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        self.worker.finish()
        return time.perf_counter() - start
