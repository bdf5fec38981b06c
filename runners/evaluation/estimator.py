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

SHORT = 3.0  # seconds after which an attack is stopped; a shorter trial is timed again


class Estimator:
    """Seconds that a task will take here; each kind of work is timed once, in miniature."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.measured: dict[str, float] = {}  # seconds an image; NaN where the trial failed
        self.budgets: dict[str, None] = {}  # what attacks that adapt themselves tell of their budgets
        self.at_most = False  # whether an attack may take less time than was told, since it stops early

    def estimate(
        self, crafting: Sequence[Crafting], purifying: Sequence[Purifying], workers: int
    ) -> Estimate:
        """How long these tasks take if so many processes share them, all crafting before all purifying."""
        seconds = {task.key: self.seconds(task) for task in (*crafting, *purifying)}
        known = {key: found for key, found in seconds.items() if found is not None}
        expected, parts = 0.0, Counter[str]()
        for task in (*crafting, *purifying):
            parts[task.part] += known.get(task.key, 0.0)
        for tasks in (crafting, purifying):
            found = [known[task.key] for task in tasks if task.key in known]
            expected += max(sum(found) / workers, max(found, default=0.0))  # no less than the longest
        return Estimate(known, len(seconds), expected, self.at_most, parts)

    def seconds(self, task: Task) -> float | None:
        """Of one process; None where a trial failed, so that it is not known."""
        crafting = task if isinstance(task, Crafting) else task.crafting
        per_image = self._craft(task) if isinstance(task, Crafting) else self._purify(task)
        return None if math.isnan(per_image) else per_image * len(crafting.chunk)

    def unmade(self, task: Purifying) -> list[Component]:
        """The purifiers whose images the store lacks; those of the others are only scored."""
        return [spec for spec in task.purifiers if not self.worker.store.has(task.purified(spec))]

    def _craft(self, task: Crafting) -> float:
        """The attack itself, begun on these images and stopped after a moment, and the storing of its result.
        What is left after the moment is as many passes as the attack declares, at the pace that it had."""
        attack: Attack = task.attack.build().of_images(task.chunk.ids)
        knowledge: Knowledge = task.knowledge.object
        seen, factor = None, 1.0
        if task.purifier is not None:
            seen, factor = self.worker.load(task.purifier).shortened(steps=knowledge.trial_steps)

        def cost(forward: float, backward: float) -> float:
            """Seconds of passes alone, without the attack's own work between them."""
            answers = sum(
                forward * self._forward(task, spec) + backward * self._backward(task, spec)
                for spec in task.surrogates or (task.victim,)
            )
            return answers + (forward * self._purifying(task, (task.purifier,)) / factor if seen else 0.0)

        def per_image() -> float:
            begun = self._begun(task, attack, seen)
            if begun.ended and begun.seconds < SHORT:  # the first call pays for what later ones find ready
                begun = self._begun(task, attack, seen)
            if attack.budget_told:
                name = type(seen).__name__ if seen else "the victim"
                self.budgets[f"{type(attack).__name__} on {name}: {attack.budget_told}"] = None
            seconds, forward = begun.seconds, sum(f for f, _ in begun.done)
            if not begun.ended:
                if not attack.forward:
                    raise ValueError("the attack does not declare how many passes it takes")
                left = begun.left(attack.forward * knowledge.eot, attack.backward * knowledge.eot)
                pace = begun.recent_seconds / cost(*map(sum, zip(*begun.recent, strict=True)))
                seconds, forward = seconds + pace * cost(*left), forward + left[0]
                self.at_most |= attack.stops_early
            if factor > 1:  # the trial's fits were so much shorter
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
        """All that `Worker.purify` does: the purified images, those of the examples' 8-bit rounding, further
        draws and the victim's decisions on them, and the records."""
        crafting, unmade = task.crafting, self.unmade(task)
        seconds = len(task.purifiers) * self._scoring(crafting)
        if unmade:
            seconds += self._purifying(crafting, unmade)
        for spec in unmade:
            again = task.draws - 1 + self._rounded(crafting, spec)
            seconds += task.draws * self._forward(crafting, crafting.victim)
            seconds += again * self._purifying(crafting, (spec,)) if again else 0.0
        return seconds

    def _rounded(self, crafting: Crafting, spec: Component) -> bool:
        """Whether the purifier is asked for the 8-bit rounding of the examples too."""
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
        steps = (factor - 1) / (factor / factor_of_longer - 1)  # left, in units of what was added
        return seconds + steps * max(longer - seconds, 0.0)

    def _trial(self, crafting: Crafting, purifiers: Sequence[Component], steps: int) -> tuple[float, float]:
        """Seconds an image of copies of at most so many steps, and the factor to all their steps."""
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
            if broken := [one for made in parts for one in made if isinstance(one, PurifierError)]:
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
            unchanged, nothing = {"images": chunk.images}, torch.zeros(len(chunk), 4)
            crafted = {"seconds": torch.tensor(0.0), "passes": nothing, "paths": torch.zeros(0, 3)}
            made = {"seconds": torch.tensor(0.0), "batch": torch.tensor(1), "of_8_bit": chunk.images}
            decided = {"decided": torch.zeros(1, len(chunk), dtype=torch.int64)}
            scored = Scored(
                victim,
                chunk,
                unchanged | crafted,
                unchanged | made | decided,
                precision=crafting.precision,
                keys=("", "", ""),
                seeds=[0] * len(chunk),
            )
            to_parquet(rows_of(scored))

        return self._once({"scoring": crafting.victim.identity}, crafting, once)

    def _once(self, what: Mapping[str, Any], crafting: Crafting, work: Callable[[], Any]) -> float:
        """Seconds an image of `work` on chunks like this one; NaN where it fails."""

        def per_image() -> float:
            seconds = self._timed(work)
            if seconds < SHORT:  # the first call pays for what later ones find ready
                seconds = self._timed(work)
            return seconds / len(crafting.chunk)

        return self._known(what, crafting, per_image)

    def _known(self, what: Mapping[str, Any], crafting: Crafting, measure: Callable[[], float]) -> float:
        """What was measured on a chunk like this one, or is measured now; NaN where that fails."""
        chunk = crafting.chunk
        name = key_of({**what, "batch": len(chunk), "shape": list(chunk.shape)})
        if name not in self.measured:
            try:
                self.measured[name] = measure()
            except (Exception, SystemExit) as error:  # the task itself will fail, and say why
                log.debug("cannot be timed: %s", error)
                self.measured[name] = math.nan
        return self.measured[name]

    def _timed(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        self.worker.finish()
        return time.perf_counter() - start
