"""What cells need of the store, and the work that makes what it lacks."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from attacks.attack import Attack
from attacks.knowledge import Knowledge, UnsuitedError
from data.errors import MissingError
from data.images import Dataset
from purifiers.purifier import Purifier
from runners.evaluation.cell import Cell, Crafting, Purifying
from runners.evaluation.component import Spec, build
from runners.evaluation.picking import Picking
from runners.evaluation.ready import Ready, apart, same_labels
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.store.store import Recipe, key_of


@dataclass(frozen=True)
class Plan:
    """What a cell needs: by chunk, adversarial examples and the work on its purifier alone."""

    purifier: Spec
    tasks: list[Purifying]

    @property
    def crafting(self) -> list[Crafting]:
        """Of the adversarial examples."""
        return [task.crafting for task in self.tasks]

    @property
    def records(self) -> list[Recipe]:
        """Their names in the store."""
        return [task.records(self.purifier) for task in self.tasks]


class Planner:
    """Plans cells under one set of settings; what they share is made ready once."""

    def __init__(self, settings: Settings, worker: Worker, ready: Ready) -> None:
        self.settings, self.worker, self.ready = settings, worker, ready
        self.picking = Picking(settings, worker, ready.console)

    def plan(self, cell: Cell) -> Plan:
        """What the cell needs.

        Raises UnsuitedError, for which a cell is skipped, where files of the purifier or of another
        classifier are missing, and where the attack cannot be run with this knowledge on this purifier;
        MissingError where the data set or the victim is not there.
        """
        dataset: Dataset = build(cell.configs["dataset"])
        about = cell.names["dataset"], dataset.label_space
        same_labels("victim " + cell.names["victim"], cell.configs["victim"].get("label_space"), *about)
        for name, component in [
            ("victim", cell.configs["victim"]),
            ("purifier", cell.configs["purifier"]),
            *[(f"knowledge.victims.{name}", other) for name, other in cell.others.items()],
        ]:
            apart(name, component, cell.configs["dataset"], dataset.divided_by)
        chunks = self.picking.chunks(cell, lambda: self._victim(cell))
        victim = self._victim(cell)
        attack: Attack = build(cell.configs["attack"])
        knowledge: Knowledge = build(cell.knowledge)
        try:
            purifier = self.ready.spec(cell.configs["purifier"], cell.names["purifier"], "purifier")
            known = {f"knowledge.victims.{name}": other for name, other in cell.others.items()}
            for where, other in known.items():
                same_labels(where, other.get("label_space"), *about)
            others = tuple(self.ready.spec(other, "another victim", where) for where, other in known.items())
        except MissingError as error:
            raise UnsuitedError(str(error)) from error
        knowledge.check(attack, self.worker.component(purifier))
        attacked = knowledge.uses_purifier and attack.needs is not None
        draws = self.settings.draws_of(self.worker.component(purifier), attacked=attacked)
        crafting = partial(
            Crafting,
            victim=victim,
            attack=cell.configs["attack"],
            knowledge=cell.knowledge,
            seen=purifier if attacked else None,
            others=others,
            seed=self.settings.seed,
            precision=self.settings.precision,
        )
        every = self.worker.keeping.every
        return Plan(purifier, [Purifying(crafting(chunk), (purifier,), draws, every) for chunk in chunks])

    def _victim(self, cell: Cell) -> Spec:
        return self.ready.spec(cell.configs["victim"], "victim", "victim")

    def groups(self, plans: Iterable[Plan]) -> list[Purifying]:
        """What the records lack, purifiers with one shared run together."""
        shared: dict[Any, list[Purifying]] = {}
        for plan in plans:
            purifier: Purifier = self.worker.component(plan.purifier)
            run = purifier.shared_run()
            name = key_of(plan.purifier.identity) if run is None else run
            for task in plan.tasks:
                if self._lacks(task):
                    victim = key_of(task.crafting.victim.identity)  # clean images are the same for all
                    shared.setdefault((task.crafting.key, victim, name), []).append(task)
        return [_joined(tasks) for tasks in shared.values()]

    def _lacks(self, task: Purifying) -> bool:
        """Whether something of the work on one purifier alone is missing."""
        (purifier,), store = task.purifiers, self.worker.store
        return store.get(task.records(purifier)) is None or (
            task.images and not store.has(task.purified(purifier))
        )


def _joined(tasks: list[Purifying]) -> Purifying:
    """Tasks on one chunk's examples, of purifiers with one shared run; each purifier once."""
    specs: list[Spec] = []
    for task in tasks:
        specs += [spec for spec in task.purifiers if spec not in specs]
    return replace(tasks[0], purifiers=tuple(specs))
