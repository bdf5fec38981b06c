"""The work itself, as one process does it: craft a chunk, purify and score a chunk."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attacks.attack import Attack, Crafted
from attacks.knowledge import Knowledge
from attacks.target import AttackError, Target
from data.images import rounded
from data.memory import free, memory_ran_out, within_memory
from purifiers.purifier import Purifier, PurifierError, purify_together
from runners.evaluation import metrics
from runners.evaluation.cell import Crafting, Purifying
from runners.evaluation.component import Spec, build, seed_of
from runners.evaluation.guard import UNCHANGED, Guard, change
from runners.evaluation.keeping import Keeping
from runners.evaluation.records import to_parquet
from runners.evaluation.schema import rows_of
from runners.evaluation.scored import Scored
from runners.store.store import Store, key_of

log = logging.getLogger(__name__)


@dataclass
class Worker:
    """What a process needs to work: the store, the device, and victims and purifiers once loaded."""

    store: Store
    device: torch.device
    precision: str
    keeping: Keeping = field(default_factory=Keeping)
    components: dict[str, Any] = field(default_factory=dict)
    fitting: dict[str, int] = field(default_factory=dict)  # how many images of a task memory holds

    def __post_init__(self) -> None:
        self.guard = Guard(self.device)

    def release(self) -> None:
        """Let go of victims and purifiers, and give back the memory that they and earlier work held."""
        self.components.clear()
        self.guard.loaded.clear()
        free()

    def do(self, task: Crafting | Purifying) -> None:
        """Make what the task names, and only what the store lacks."""
        if isinstance(task, Crafting):
            self.adversarial(task)
        else:
            self.purify(task)

    def component(self, spec: Spec) -> Any:
        """The victim or purifier; a victim on this device."""
        key = key_of(spec.identity)  # not the weights alone: a normalisation may differ
        if key not in self.components:
            component = spec.load(self.store)
            if isinstance(component, nn.Module):
                self.guard.watch(key, component.to(self.device))
            self.components[key] = component
        return self.components[key]

    def guarded(self, *victims: Spec) -> AbstractContextManager[list[str]]:
        """Where attacks and purifiers run; see `Guard.over`. A changed victim is loaded again when needed."""
        for spec in victims:
            self.component(spec)
        return self.guard.over([key_of(spec.identity) for spec in victims], self.components)

    def adversarial(self, task: Crafting) -> dict[str, Tensor]:
        """Adversarial examples and the seconds that each took; from the store, or made."""
        stored = self.store.get_tensors(task.recipe)
        if stored is None:
            attack: Attack = build(task.attack)
            seeds = [seed_of(task.seed, image_id, "craft") for image_id in task.chunk.ids]
            images, labels = task.chunk.images.to(self.device), task.chunk.labels.to(self.device)
            start = time.perf_counter()
            with self.guarded(task.victim, *task.others) as changed:
                made, target = self._crafted(task, attack, images, labels, seeds)
                self._finish()
                seconds = (time.perf_counter() - start) / len(images)
            if changed:
                raise AttackError(f"expected an attack that leaves {UNCHANGED}, got {change(changed)}")
            stored = {
                "images": made.images.cpu(),
                "seconds": torch.tensor(seconds),
                "passes": torch.tensor([[c.queries, c.forward, c.backward, c.zero] for c in target.counts]),
                "paths": torch.tensor(
                    [[i, *point] for i, path in enumerate(made.paths) for point in path], dtype=torch.float64
                ),
            }
            for name, told in (("notes", made.notes), ("member_seconds", made.seconds)):
                if told:
                    stored[name] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
            self.store.put_tensors(task.recipe, stored, pack=True)
        return stored

    def _crafted(
        self, task: Crafting, attack: Attack, images: Tensor, labels: Tensor, seeds: Sequence[int]
    ) -> tuple[Crafted, Target]:
        """What the attack makes, and what it asked.

        Questions that memory cannot answer at once are split where they are asked. Where a gradient needs
        too much, the attack begins again with a target that holds one batch at a time, and half as many rows
        each time. Its answers do not depend on that, since every row has draws of its own.
        """
        batch, recompute = len(images), False
        while True:
            target = self.target(task, "attacked", batch=batch, recompute=recompute)
            try:
                return attack(target, images, labels, seeds=seeds), target
            except (MemoryError, RuntimeError) as error:
                if not memory_ran_out(error) or (batch == 1 and recompute):
                    raise
                batch, recompute = max(1, batch // 2), True
                log.warning("out of memory in an attack: beginning again with gradients of %d rows", batch)
            free()

    def target(
        self,
        task: Crafting,
        stage: str,
        *,
        seen: Purifier | None = None,
        batch: int | None = None,
        recompute: bool = False,
    ) -> Target:
        """What the attack of this task sees; `stage` names the defense's draws, unless they are known.

        `seen` stands in for the purifier that the task names; see Target for `batch` and `recompute`.
        """
        knowledge: Knowledge = build(task.knowledge)
        stage = "purify" if knowledge.known_draw else stage
        return knowledge.target(
            self.component(task.victim),
            seen or (self.component(task.seen) if task.seen is not None else None),
            [self.component(other) for other in task.others],
            seeds=[seed_of(task.seed, image_id, stage) for image_id in task.chunk.ids],
            batch=batch or len(task.chunk),
            recompute=recompute,
            device=self.device,
        )

    def purify(self, task: Purifying) -> None:
        """Purified images and records of every purifier of the task."""
        unscored = [p for p in task.purifiers if self.store.get(task.records(p)) is None]
        wanted = task.purifiers if task.images else unscored
        purified = {key_of(task.purified(p)): self.store.get_tensors(task.purified(p)) for p in wanted}
        lacking = [p for p in wanted if purified[key_of(task.purified(p))] is None]
        adversarial = self.adversarial(task.crafting)
        chunk = task.crafting.chunk
        attacked = adversarial["images"].to(self.device)
        seeds = [seed_of(task.crafting.seed, image_id, "purify") for image_id in chunk.ids]
        if not self.store.path(task.crafting.clean).exists():
            self.store.put_tensors(task.crafting.clean, {"images": chunk.images}, pack=True)
        broken: list[PurifierError] = []
        fresh = [
            [seed_of(task.crafting.seed, image_id, "purify", draw) for image_id in chunk.ids]
            for draw in range(1, task.draws)
        ]
        for spec, made in self._purified(lacking, attacked, [seeds, *fresh], task.crafting.victim):
            if isinstance(made, PurifierError):
                broken.append(made)
                continue
            if self._keeps(made):
                self.store.put_tensors(task.purified(spec), made, pack=True)
            purified[key_of(task.purified(spec))] = made
        for spec in unscored:
            made = purified[key_of(task.purified(spec))]
            if made is None:
                continue
            scored = Scored(
                self.component(task.crafting.victim),
                chunk.to(self.device),
                {name: tensor.to(self.device) for name, tensor in adversarial.items()},
                {name: tensor.to(self.device) for name, tensor in made.items()},
                precision=task.crafting.precision,
                keys=tuple(map(key_of, (task.crafting.clean, task.crafting.recipe, task.purified(spec)))),
                seeds=seeds,
            )
            self.store.put(task.records(spec), to_parquet(rows_of(scored)))
        if broken:  # only now: what the others made is kept
            raise broken[0]

    def _keeps(self, made: dict[str, Tensor]) -> bool:
        """Whether the images go into the store, where everything that was made with them has its records."""
        count, size = len(made["images"]), made["images"].nbytes
        held = size + (made["of_8_bit"].nbytes if "of_8_bit" in made else 0)
        return self.keeping.keeps(made["seconds"].item(), size // count, held=held // count)

    def _purified(
        self, specs: Sequence[Spec], attacked: Tensor, draws: Sequence[Sequence[int]], victim: Spec
    ) -> Iterator[tuple[Spec, dict[str, Tensor] | PurifierError]]:
        """What each purifier makes of the images, or why it does not; and of their 8-bit rounding, unless it
        fits a network to each image, which would double the cost. Of further draws only the decision."""
        if not specs:
            return
        seeds, *fresh = draws
        purifiers = [self.component(spec) for spec in specs]
        start = time.perf_counter()
        results, batch = self._batches(specs, purifiers, attacked, seeds, victim)
        self._finish()
        seconds = torch.tensor((time.perf_counter() - start) / len(attacked))
        eight_bit = rounded(attacked)
        for spec, purifier, result in zip(specs, purifiers, results, strict=True):
            if isinstance(result, PurifierError):
                yield spec, result
                continue
            made = {"images": result.cpu(), "seconds": seconds, "batch": torch.tensor(batch)}
            if torch.equal(eight_bit, attacked):
                made["of_8_bit"] = made["images"].clone()
            elif not purifier.fits:
                again = self._batches([spec], [purifier], eight_bit, seeds, victim)[0][0]
                if isinstance(again, PurifierError):
                    yield spec, again
                    continue
                made["of_8_bit"] = again.cpu()
            further = [self._batches([spec], [purifier], attacked, other, victim)[0][0] for other in fresh]
            if errors := [one for one in further if isinstance(one, PurifierError)]:
                yield spec, errors[0]
                continue
            network = self.component(victim)
            decided = [metrics.in_batches(network, images).argmax(1) for images in [result, *further]]
            yield spec, made | {"decided": torch.stack(decided).cpu()}

    def _batches(
        self,
        specs: Sequence[Spec],
        purifiers: Sequence[Purifier],
        images: Tensor,
        seeds: Sequence[int],
        victim: Spec,
    ) -> tuple[list[Tensor | PurifierError], int]:
        """Each purifier's result or error, and how many images at once memory held."""
        name = key_of({"purifiers": [spec.identity for spec in specs]})
        with self.guarded(victim) as changed:
            network = self.component(victim)
            parts, batch = within_memory(
                lambda part: purify_together(purifiers, images[part], seeds=seeds[part], victim=network),
                len(images),
                min(len(images), self.fitting.get(name, len(images))),
            )
        if changed:
            came = change(changed)
            return [PurifierError(p, "state", expected=UNCHANGED, came=came) for p in purifiers], batch
        if batch < len(images):
            self.fitting[name] = batch
        return [whole(of_one) for of_one in zip(*parts, strict=True)], batch

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def whole(parts: Sequence[Tensor | PurifierError]) -> Tensor | PurifierError:
    """One purifier's results, joined; the first error where there is one."""
    broken = [part for part in parts if isinstance(part, PurifierError)]
    return broken[0] if broken else torch.cat(list(parts))
