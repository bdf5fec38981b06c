"""Audits of finished cells, which run a few cheap probes of each cell and then raise its flags.

"cheap" spends at most a tenth of the cell's own passes on its probes, so it looks at few images if the cell
has few. "full" takes up to 64 images, and also attacks with twice the steps and without a bound.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.attack import Attack
from attacks.knowledge import Knowledge
from attacks.target import AttackError, Target
from data.errors import InputError
from purifiers.purifier import Purifier
from runners.evaluation.cell import Cell
from runners.evaluation.component import Config, build
from runners.evaluation.failures import one_line
from runners.evaluation.guard import change
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting, Purifying
from runners.store.artifact import Artifact, key_of
from runners.validity import flags
from runners.validity.evidence import Evidence, Flag

log = logging.getLogger(__name__)

Probe = Callable[[Worker, Crafting, Tensor], Tensor]  # from adversarial images to what is seen of each
Level = Literal["off", "cheap", "full"]
MOST = 64  # the most images of a probe
SHARE = 0.1  # share of a cell's passes for the two cheap probes together
VERSION = 1
Finished = tuple[Cell, pd.DataFrame, list[Purifying]]  # a cell, its records, its tasks


def audit(
    worker: Worker, cells: Sequence[Finished], level: Level, *, split: str, compute: bool = True
) -> list[list[Flag]]:
    """Return the flags of each cell: those of its own records and probes, and those of its row.

    The victim's published accuracy is one of evaluation images, so on another `split` it tells nothing: the
    tuning split of ImageNet is of images that the victim was trained on. Unless `compute`, only the results
    of probes that the store holds are read, and the others count as failed.
    """
    if level == "off":
        return [[] for _ in cells]
    evidence = [_evidence(worker, *cell, level, split, compute) for cell in cells]
    raised = [flags.of_cell(entry) for entry in evidence]
    rows: dict[str, list[int]] = {}
    for i, (cell, *_) in enumerate(cells):
        row = {part: cell.configs[part] for part in ("dataset", "victim", "purifier")}
        rows.setdefault(key_of(row), []).append(i)
    for row in rows.values():
        for i, more in zip(row, flags.of_row([evidence[i] for i in row]), strict=True):
            raised[i] += more
    return raised


def _evidence(
    worker: Worker,
    cell: Cell,
    records: pd.DataFrame,
    tasks: list[Purifying],
    level: Level,
    split: str,
    compute: bool,
) -> Evidence:
    published = (cell.configs["victim"].get("published") or {}).get(cell.names["dataset"])
    plan = [task.crafting for task in tasks]
    attack: Attack = plan[0].attack.build()
    knowledge: Knowledge = plan[0].knowledge.object
    purifier: Purifier = worker.load(tasks[0].purifiers[0])
    probes, failed_probes = {}, {}
    for name, (probe, passes) in _probes(attack, knowledge, purifier, level).items():
        affordable = int(SHARE / 2 * len(records) * (attack.forward + attack.backward) / passes)
        count = min(MOST, len(records), affordable if level == "cheap" else MOST)
        if count > 0:
            try:
                probes[name] = _seen(worker, name, probe, plan, count, compute)
            except (Exception, SystemExit) as error:  # the cell is done, whatever a probe does
                failed_probes[name] = one_line(error)
                log.warning("%s: the probe %s failed, so its flag is unknown: %s", cell.label, name, error)
    return Evidence(
        cell=cell,
        records=records,
        attack=attack,
        knowledge=knowledge,
        purifier=purifier,
        published=published if split == "evaluation" else None,
        probes=probes,
        failed_probes=failed_probes,
    )


def _probes(
    attack: Attack, knowledge: Knowledge, purifier: Purifier, level: Level
) -> dict[str, tuple[Probe, int]]:
    """Return the probes that suit this attack, and the passes that each takes for an image."""
    if attack.needs is None or attack.eps is None:
        return {}
    chosen: dict[str, tuple[Probe, int]] = {"noise": (noise, 2 * knowledge.eot)}
    if attack.needs == "gradient" and knowledge.uses_purifier and purifier.stochastic:
        chosen["eot"] = halves, 4 * knowledge.eot * getattr(attack, "draws", 1)
    if level == "full":
        for changes in (twice, unbounded):
            if changes(attack):
                chosen[changes.__name__] = partial(again, changes=changes), 4 * attack.forward
    return chosen


def _seen(worker: Worker, name: str, probe: Probe, plan: list[Crafting], count: int, compute: bool) -> Tensor:
    """Return the result of a probe on the first images, from the store if it is there."""
    origins = [crafting.key for crafting in plan]
    artifact = Artifact("probe", {"probe": name, "version": VERSION, "of": origins, "count": count})
    stored = worker.store.get_tensors(artifact)
    if stored is None and not compute:
        raise InputError("expected its result in the store, since workers=0 computes nothing")
    if stored is None:
        parts: list[Tensor] = []
        for crafting in plan:
            if (lacking := count - sum(len(part) for part in parts)) > 0:
                attacked = worker.adversarial(crafting)["images"][:lacking].to(worker.device)
                few = replace(crafting, chunk=crafting.chunk.take(list(range(len(attacked)))))
                with worker.guarded(*few.classifiers) as changed:
                    parts.append(probe(worker, few, attacked))
                if changed:
                    raise AttackError(f"expected a probe that changes nothing, got {change(changed)}")
        stored = {"seen": torch.cat(parts)}
        worker.store.put_tensors(artifact, stored)
    return stored["seen"]


def _misled(target: Target, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return target(images).argmax(1) != labels


def noise(worker: Worker, task: Crafting, attacked: Tensor) -> Tensor:
    """Return (N, 2): whether noise on the ball's surface misleads the target, and whether the attack does.

    The noise is the signs of normal noise in an l-infinity ball, and its direction in an l2 ball.
    """
    attack: Attack = task.attack.object
    images, labels = task.chunk.images.to(worker.device), task.chunk.labels.to(worker.device)
    drawn = []
    for seed, image in zip(task.seeds("noise"), task.chunk.images, strict=True):
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randn(image.shape, generator=generator)
        drawn.append(sample.sign() if attack.norm == "linf" else sample / sample.norm())
    noisy = (images + attack.eps * torch.stack(drawn).to(images)).clamp(0, 1)
    target = worker.target(task, "noise")
    return torch.stack([_misled(target, noisy, labels), _misled(target, attacked, labels)], 1).cpu()


def halves(worker: Worker, task: Crafting, attacked: Tensor) -> Tensor:
    """Return the (N,) cosines between two gradients at each image.

    Each gradient takes as many draws as one step of the attack.
    """
    images, labels = task.chunk.images.to(worker.device), task.chunk.labels.to(worker.device)
    attack: Attack = task.attack.object
    target = worker.target(task, "halves")
    gradients = []
    for _ in range(2):
        total = torch.zeros_like(images)
        for _ in range(getattr(attack, "draws", 1)):
            inputs = images.clone().requires_grad_()
            loss = F.cross_entropy(target(inputs), labels, reduction="sum")
            total += torch.autograd.grad(loss, inputs)[0]
        gradients.append(total.flatten(1))
    return F.cosine_similarity(*gradients).cpu()


def twice(attack: Attack) -> Config:
    """Return the changes that double the steps; none for an attack without steps."""
    steps = getattr(attack, "steps", None)
    return {"steps": 2 * steps} if steps else {}


def unbounded(attack: Attack) -> Config:
    """Return the changes that put all images into the ball and within reach; none without a step size."""
    if attack.norm != "linf" or not hasattr(attack, "alpha"):
        return {}
    return {"eps": 1.0, "alpha": max(attack.alpha, 2.5 / attack.steps)}


def again(worker: Worker, task: Crafting, attacked: Tensor, *, changes: Callable[[Attack], Config]) -> Tensor:
    """Return (N, 2): whether the changed attack misleads the target, and whether the attack itself does."""
    changed: Attack = build(task.attack.config | changes(task.attack.object))
    images, labels = task.chunk.images.to(worker.device), task.chunk.labels.to(worker.device)
    target = worker.target(task, "attacked")
    stronger = changed(target, images, labels, seeds=task.seeds("craft")).images
    target = worker.target(task, "probe")
    return torch.stack([_misled(target, stronger, labels), _misled(target, attacked, labels)], 1).cpu()
