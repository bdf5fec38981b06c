"""The work that one process does: crafting examples for a chunk, and purifying and scoring it."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from attacks.attack import Attack, Crafted
from attacks.knowledge import Knowledge
from attacks.target import AttackError, Target
from data.images import rounded
from data.memory import free, memory_ran_out, within_memory
from purifiers.purifier import Purifier, PurifierError, purify_together
from runners.evaluation import metrics
from runners.evaluation.component import Component
from runners.evaluation.guard import UNCHANGED, change
from runners.evaluation.keeping import Keeping
from runners.evaluation.loaded_components import LoadedComponents
from runners.evaluation.records import to_parquet
from runners.evaluation.schema import rows_of
from runners.evaluation.scored import Scored, finite
from runners.evaluation.task_progress import reached_by, reported
from runners.evaluation.tasks import Crafting, Purifying, Task

log = logging.getLogger(__name__)


@dataclass
class Worker(LoadedComponents):
    """Does tasks in one process, with the victims and purifiers that it has loaded so far."""

    precision: str
    keeping: Keeping = field(default_factory=Keeping)
    fitting: dict[str, int] = field(default_factory=dict)  # how many images memory holds, by purifiers

    def do(self, task: Task) -> None:
        """Make the results of the task that the store lacks."""
        if isinstance(task, Crafting):
            self.adversarial(task)
        else:
            self.purify(task)

    def adversarial(self, task: Crafting) -> dict[str, Tensor]:
        """Return the adversarial examples and the seconds per image, from the store or made now."""
        stored = self.store.get_tensors(task.artifact)
        if stored is None:
            attack: Attack = task.attack.build().of_images(task.chunk.ids)
            seeds = task.seeds("craft")
            chunk = task.chunk.to(self.device)
            start = time.perf_counter()
            with self.guarded(*task.classifiers) as changed:
                crafted, target = self._crafted(task, attack, chunk.images, chunk.labels, seeds)
                self.finish()
                seconds = (time.perf_counter() - start) / len(chunk)
            if changed:
                raise AttackError(f"expected an attack that leaves {UNCHANGED}, got {change(changed)}")
            stored = {
                "images": crafted.images.cpu(),
                "seconds": torch.tensor(seconds),
                "passes": torch.tensor([[c.queries, c.forward, c.backward, c.zero] for c in target.counts]),
                "paths": torch.tensor(
                    [[i, *point] for i, path in enumerate(crafted.paths) for point in path],
                    dtype=torch.float64,
                ),
            }
            for name, notes in (("notes", crafted.notes), ("member_seconds", crafted.seconds)):
                if notes:
                    stored[name] = torch.tensor(list(json.dumps(notes).encode()), dtype=torch.uint8)
            self.store.put_tensors(task.artifact, stored, pack=True)
        return stored

    def _crafted(
        self, task: Crafting, attack: Attack, images: Tensor, labels: Tensor, seeds: Sequence[int]
    ) -> tuple[Crafted, Target]:
        """Run the attack; return its examples and the target that it asked.

        The target splits queries that memory cannot answer at once. If a gradient needs too much memory, the
        attack starts again with a target that holds one batch at a time, with half as many rows each time.
        Its results do not depend on that, since every row has random draws of its own.
        """
        batch, recompute = len(images), False
        while True:
            target = self.target(task, "attacked", batch=batch, recompute=recompute)
            try:
                with reported(self.store, task.key, partial(reached_by, attack, target)):
                    return attack(target, images, labels, seeds=seeds), target
            except (MemoryError, RuntimeError) as error:
                if not memory_ran_out(error) or (batch == 1 and recompute):
                    raise
                batch, recompute = max(1, batch // 2), True
                log.warning("out of memory in an attack: it starts again with gradients of %d rows", batch)
            free()

    def target(
        self,
        task: Crafting,
        stage: str,
        *,
        purifier: Purifier | None = None,
        batch: int | None = None,
        recompute: bool = False,
    ) -> Target:
        """Return the target of the attack of this task.

        Args:
            stage: names the defense's draws, unless the attacker knows the draw that is scored.
            purifier: replaces the purifier that the task names.
            batch, recompute: as in Target.
        """
        knowledge: Knowledge = task.knowledge.object
        stage = "purify" if knowledge.known_draw else stage
        return knowledge.target(
            self.load(task.victim),
            purifier or (self.load(task.purifier) if task.purifier is not None else None),
            [self.load(other) for other in task.surrogates],
            seeds=task.seeds(stage),
            batch=batch or len(task.chunk),
            recompute=recompute,
            device=self.device,
        )

    def purify(self, task: Purifying) -> None:
        """Purify and score the images with every purifier of the task, and store the results."""
        crafting, chunk = task.crafting, task.crafting.chunk
        unscored = [p for p in task.purifiers if self.store.get(task.records(p)) is None]
        wanted = task.purifiers if task.keep_images else unscored
        purified = {p.key: self.store.get_tensors(task.purified(p)) for p in wanted}
        adversarial = self.adversarial(crafting)
        attacked = adversarial["images"].to(self.device)
        draws = [crafting.seeds("purify", draw) for draw in range(task.draws)]
        if not self.store.path(crafting.clean).exists():
            self.store.put_tensors(crafting.clean, {"images": chunk.images}, pack=True)
        broken: list[PurifierError] = []
        lacking = [p for p in wanted if purified[p.key] is None]
        for purifier, result in self._purified(lacking, attacked, draws, crafting.victim):
            if isinstance(result, PurifierError):
                broken.append(result)
                continue
            if self._keeps(result):
                self.store.put_tensors(task.purified(purifier), result, pack=True)
            purified[purifier.key] = result
        for purifier in unscored:
            if (result := purified[purifier.key]) is None:
                continue
            scored = Scored(
                self.load(crafting.victim),
                chunk.to(self.device),
                {name: tensor.to(self.device) for name, tensor in adversarial.items()},
                {name: tensor.to(self.device) for name, tensor in result.items()},
                precision=crafting.precision,
                keys=(crafting.clean.key, crafting.key, task.purified(purifier).key),
                seeds=draws[0],
            )
            self.store.put(task.records(purifier), to_parquet(rows_of(scored)))
        if broken:  # raised last, so that the other results are kept
            raise broken[0]

    def _keeps(self, purified: dict[str, Tensor]) -> bool:
        """Return whether the purified images go into the store; their records go there in any case."""
        count, size = len(purified["images"]), purified["images"].nbytes
        total = size + (purified["of_8_bit"].nbytes if "of_8_bit" in purified else 0)
        return self.keeping.keeps(purified["seconds"].item(), size // count, held=total // count)

    def _purified(
        self, specs: Sequence[Component], attacked: Tensor, draws: Sequence[Sequence[int]], victim: Component
    ) -> Iterator[tuple[Component, dict[str, Tensor] | PurifierError]]:
        """Yield each purifier with its purified images, or with its error.

        The 8-bit roundings are purified too. If the purifier fits a network to each image, which would double
        the cost, only those images have a result that the rounding leaves as they are. For further draws,
        only the victim's decisions are kept.
        """
        if not specs:
            return
        seeds, *fresh = draws
        purifiers = [self.load(spec) for spec in specs]
        start = time.perf_counter()
        results, batch = self._batches(specs, purifiers, attacked, seeds, victim)
        self.finish()
        seconds = torch.tensor((time.perf_counter() - start) / len(attacked))
        eight_bit = rounded(attacked)
        unchanged = (eight_bit == attacked).flatten(1).all(1)
        for spec, purifier, result in zip(specs, purifiers, results, strict=True):
            if isinstance(result, PurifierError):
                yield spec, result
                continue
            tensors = {"images": result.cpu(), "seconds": seconds, "batch": torch.tensor(batch)}
            if unchanged.all():
                tensors["of_8_bit"] = tensors["images"].clone()
            elif not purifier.per_image_optimization:
                result_8_bit = self._batches([spec], [purifier], eight_bit, seeds, victim)[0][0]
                if isinstance(result_8_bit, PurifierError):
                    yield spec, result_8_bit
                    continue
                tensors["of_8_bit"] = result_8_bit.cpu()
            elif unchanged.any():
                tensors |= {"of_8_bit": tensors["images"].clone(), "has_8_bit": unchanged.cpu()}
            further = [self._batches([spec], [purifier], attacked, other, victim)[0][0] for other in fresh]
            if errors := [draw for draw in further if isinstance(draw, PurifierError)]:
                yield spec, errors[0]
                continue
            network = self.load(victim)
            logits = torch.stack([metrics.in_batches(network, images) for images in [result, *further]])
            yield spec, tensors | {"decided": finite(logits, "purified").argmax(2).cpu()}

    def _batches(
        self,
        specs: Sequence[Component],
        purifiers: Sequence[Purifier],
        images: Tensor,
        seeds: Sequence[int],
        victim: Component,
    ) -> tuple[list[Tensor | PurifierError], int]:
        """Return each purifier's result or error, and how many images memory held at once."""
        name = " ".join(spec.key for spec in specs)
        with self.guarded(victim) as changed:
            network = self.load(victim)
            parts, batch = within_memory(
                lambda part: purify_together(purifiers, images[part], seeds=seeds[part], victim=network),
                len(images),
                min(len(images), self.fitting.get(name, len(images))),
            )
        if changed:
            description = change(changed)
            return [PurifierError(p, "state", expected=UNCHANGED, came=description) for p in purifiers], batch
        if batch < len(images):
            self.fitting[name] = batch
        return [whole(results) for results in zip(*parts, strict=True)], batch

    def finish(self) -> None:
        """Wait until the device has finished its work, so that seconds can be measured."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def whole(parts: Sequence[Tensor | PurifierError]) -> Tensor | PurifierError:
    """Return the joined results of one purifier, or the first error if there is one."""
    broken = [part for part in parts if isinstance(part, PurifierError)]
    return broken[0] if broken else torch.cat(list(parts))
