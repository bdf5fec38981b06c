"""Evaluates cells: plans what the store lacks, estimates it, runs it, assembles the records."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from rich.console import Console

from attacks.attack import Attack
from attacks.knowledge import Knowledge, UnsuitedError
from data.errors import InputError, MissingError
from data.images import Dataset, Images
from purifiers.purifier import Purifier
from runners import pool, provenance
from runners.audit import audit
from runners.cell import Cell, Crafting, Purifying, describe
from runners.components import Config, Spec, build, prepare, usable, victims_for
from runners.estimate import Estimator, spoken, total
from runners.flags import Flag
from runners.picking import Picking
from runners.progress import Log, progress_of
from runners.records import from_parquet
from runners.settings import Settings
from runners.store import Store, key_of
from runners.traits import Traits
from runners.work import Bench, settle

SHORT = 10  # seconds of work, for which starting processes does not pay


@dataclass
class CellResult:
    """A cell's records, or the reason why there are none."""

    cell: Cell
    records: pd.DataFrame | None = None
    skipped: str | None = None
    failed: str | None = None
    flags: list[Flag] = field(default_factory=list)
    provenance: dict[str, Any] | None = None  # of the records


@dataclass
class Grid:
    """Evaluates cells under one set of settings, sharing whatever they share."""

    settings: Settings
    console: Console
    specs: dict[str, Spec | MissingError] = field(default_factory=dict)

    def evaluate(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Records of all cells. Raises InputError where nothing could be run."""
        device = settle(self.settings.device, tf32=self.settings.tf32)
        self.facts = provenance.of_process(device)
        store = Store(self.settings.store, made_by=provenance.maker(self.facts))
        self.bench = Bench(store, device, self.settings.precision)
        self.picking = Picking(self.settings, self.bench, self.console)
        results = [CellResult(cell) for cell in cells]
        for parts in (  # bad parameters are told before any training
            [cell.configs["attack"] for cell in cells],
            [cell.knowledge for cell in cells],
            [cell.configs["purifier"] for cell in cells],
        ):
            for config in {key_of(part): part for part in parts}.values():
                build(config)
        ready = {i: plan for i, result in enumerate(results) if (plan := self._plan(result)) is not None}
        failures = self._run(self._groups(ready)) if ready else {}
        for i, (plan, spec) in ready.items():
            self._assemble(results[i], plan, spec, failures)
        self._audit(results, ready)
        return results

    def _audit(self, results: list[CellResult], ready: dict[int, tuple[list[Crafting], Spec]]) -> None:
        done = [i for i in ready if results[i].records is not None]
        cells = [(results[i].cell, results[i].records, *ready[i]) for i in done]
        with self.console.status("auditing"):
            for i, flags in zip(done, audit(self.bench, cells, self.settings.audit), strict=True):
                results[i].flags = flags
                results[i].provenance["flags"] = {flag.name: flag.seen for flag in flags}

    def _plan(self, result: CellResult) -> tuple[list[Crafting], Spec] | None:
        """What a cell needs; it is skipped where files that it needs are missing, and where the attack cannot
        be run with this knowledge on this purifier."""
        cell, settings = result.cell, self.settings
        chunks = self._chunks(cell)
        victim = self._prepared(cell.configs["victim"], "victim")
        attack: Attack = build(cell.configs["attack"])
        knowledge: Knowledge = build(cell.knowledge)
        try:
            purifier = self._prepared(cell.configs["purifier"], cell.names["purifier"])
            for other in cell.others:
                self._same_labels("knowledge.victims", other["label_space"], cell)
            others = [self._prepared(other, "another victim") for other in cell.others]
            knowledge.check(attack, self.bench.component(purifier))
        except (MissingError, UnsuitedError) as error:
            result.skipped = str(error)
            return None
        seen = purifier if knowledge.uses_purifier and attack.needs is not None else None
        return [
            Crafting(
                chunk=chunk,
                victim=victim,
                attack=cell.configs["attack"],
                knowledge=cell.knowledge,
                seen=seen,
                others=tuple(others),
                seed=settings.seed,
                precision=settings.precision,
            )
            for chunk in chunks
        ], purifier

    def _chunks(self, cell: Cell) -> list[Images]:
        self._same_labels("victim " + cell.names["victim"], cell.configs["victim"]["label_space"], cell)
        return self.picking.chunks(cell, lambda: self._prepared(cell.configs["victim"], "victim"))

    def _same_labels(self, what: str, known: str, cell: Cell) -> None:
        source: Dataset = build(cell.configs["dataset"])
        if known != source.label_space:
            fitting = ", ".join(victims_for(source.label_space)) or "none"
            raise InputError(
                f"{what} knows the labels of {known!r}, but dataset {cell.names['dataset']} has those of "
                f"{source.label_space!r}; victims for it: {fitting}"
            )

    def _prepared(self, config: Config, what: str) -> Spec:
        """A component with its weights verified, or trained; each once."""
        name = key_of(config)
        if name not in self.specs:
            with progress_of(self.console) as progress:
                bar = progress.add_task(f"training {what}", total=1.0, visible=False)

                def told(share: float) -> None:
                    progress.update(bar, completed=share, visible=True)

                try:
                    with usable(what):
                        self.specs[name] = prepare(config, self.bench.store, progress=told)
                except MissingError as error:
                    self.specs[name] = error
        found = self.specs[name]
        if isinstance(found, MissingError):
            raise found
        return found

    def _groups(self, ready: dict[int, tuple[list[Crafting], Spec]]) -> list[Purifying]:
        """What the records lack, purifiers with one shared run together."""
        shared: dict[Any, tuple[Crafting, list[Spec]]] = {}
        for plan, spec in ready.values():
            purifier: Purifier = self.bench.component(spec)
            run = purifier.shared_run()
            for crafting in plan:
                if self.bench.store.get(self._alone(crafting, spec).records(spec)) is not None:
                    continue
                name = (key_of(crafting.recipe), key_of(spec.identity) if run is None else run)
                _, specs = shared.setdefault(name, (crafting, []))
                if spec not in specs:
                    specs.append(spec)
        return [
            Purifying(crafting, tuple(specs), self._alone(crafting, specs[0]).draws)
            for crafting, specs in shared.values()
        ]

    def _alone(self, crafting: Crafting, spec: Spec) -> Purifying:
        """The work on one purifier."""
        return Purifying(crafting, (spec,), self.settings.draws_of(self.bench.component(spec)))

    def _run(self, groups: list[Purifying]) -> dict[str, str]:
        """Craft, then purify; reasons of failure by the recipes' keys."""
        if not groups:
            self.console.print("[dim]all records are in the store; nothing to compute[/]")
            return {}
        groups, failures = Traits(self.bench).sound(groups, self.console)
        if not groups:
            return failures
        store = self.bench.store
        needed = {key_of(group.crafting.recipe): group.crafting for group in groups}
        lacking = [c for c in needed.values() if not store.path(c.recipe).exists()]
        workers = pool.worker_count(self.settings.workers, self.bench.device.type)
        estimator = Estimator(self.bench)
        with self.console.status("estimating"):
            seconds = {id(task): estimator.seconds(task) for task in [*lacking, *groups]}
        expected = total([seconds[id(t)] for t in lacking], workers)
        expected += total([seconds[id(t)] for t in groups], workers)
        self._affordable(expected)
        if expected < SHORT and self.settings.workers == "auto":
            workers = 1
        self.console.print(
            f"estimate: {spoken(expected)} for {len(lacking)} chunks to craft and {len(groups)} to "
            f"purify, {workers} {'process' if workers == 1 else 'processes'} on "
            f"{self.bench.device.type}; finished chunks are kept if you stop"
        )
        log = Log(self.console)
        with progress_of(self.console) as progress:
            bar = progress.add_task("crafting", total=sum(seconds.values()))

            def done(task: Crafting | Purifying, reason: str | None) -> None:
                progress.advance(bar, seconds[id(task)])
                log.tell(progress.tasks[bar])
                if reason is not None:
                    failures[id_of(task)] = reason

            pool.run(lacking, bench=self.bench, workers=workers, done=done)
            progress.update(bar, description="purifying")
            ready = [g for g in groups if key_of(g.crafting.recipe) not in failures]
            ready.sort(key=lambda group: -seconds[id(group)])
            pool.run(ready, bench=self.bench, workers=workers, done=done)
        for group in groups:
            reason = failures.get(id_of(group)) or failures.get(key_of(group.crafting.recipe))
            if reason:
                failures.update({key_of(group.records(p)): reason for p in group.purifiers})
        return failures

    def _affordable(self, expected: float) -> None:
        """Raise InputError for work that would take longer than the user allows."""
        allowed = 3600 * self.settings.budget_hours
        if expected > allowed:
            fitting = int(self.settings.n * allowed / expected)
            raise InputError(
                f"estimate: {spoken(expected)}, above budget_hours={self.settings.budget_hours:g}; "
                + (f"n={fitting} would fit, or " if fitting else "not even n=1 would fit: ")
                + "fewer steps, queries or draws of the attack, or a larger budget_hours"
            )

    def _assemble(
        self, result: CellResult, plan: list[Crafting], spec: Spec, failures: dict[str, str]
    ) -> None:
        parts = []
        tasks = [self._alone(crafting, spec) for crafting in plan]
        for task in tasks:
            recipe = task.records(spec)
            content = self.bench.store.get(recipe)
            if content is None:
                result.failed = failures.get(key_of(recipe), "its records are not in the store")
                return
            parts.append(from_parquet(content))
        records = pd.concat(parts, ignore_index=True)
        result.records = records.assign(
            **describe(result.cell),
            subset=self.settings.images,
            image_ids_sha256=provenance.of_ids(records.id),
            weights_sha256=plan[0].victim.weights_sha256,
        )
        result.provenance = provenance.of_cell(
            result.cell,
            tasks,
            records=result.records,
            settings=self.settings,
            store=self.bench.store,
            facts=self.facts,
        )


def id_of(task: Crafting | Purifying) -> str:
    """A task's name."""
    if isinstance(task, Crafting):
        return key_of(task.recipe)
    return key_of({"group": [key_of(task.records(p)) for p in task.purifiers]})
