"""Evaluates cells: plans what the store lacks, has it carried out, assembles the records."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from rich.console import Console

from attacks.attack import Attack
from attacks.knowledge import Knowledge, UnsuitedError
from data.errors import InputError, MissingError
from data.images import Dataset, Images
from purifiers.purifier import Purifier
from runners import failures, manifest, provenance
from runners.audit import audit
from runners.cell import Cell, Crafting, Purifying, describe
from runners.claims import Holder
from runners.components import Config, Spec, build, prepare, usable, victims_for
from runners.flags import Flag
from runners.manifest import Manifest, Request
from runners.observer import Observer, Planned, Tally
from runners.picking import Picking
from runners.pool import StoppedError
from runners.progress import Allowance, progress_of
from runners.records import from_parquet
from runners.schedule import Launch, carry_out
from runners.settings import Settings
from runners.store import Store, key_of
from runners.traits import Traits
from runners.work import Bench, settle

Plan = tuple[list[Crafting], Spec]  # what a cell needs: its chunks, its purifier
UNFINISHED = "not finished: no job has made its records; the same command goes on"


@dataclass
class CellResult:
    """A cell's records, or the reason why there are none."""

    cell: Cell
    records: pd.DataFrame | None = None
    skipped: str | None = None
    failed: str | None = None
    flags: list[Flag] = field(default_factory=list)
    provenance: dict[str, Any] | None = None  # of the records
    planned: Planned | None = None  # unless it is skipped


@dataclass
class Grid:
    """Evaluates cells under one set of settings, sharing whatever they share."""

    settings: Settings
    console: Console
    observer: Observer = field(default_factory=Observer)
    specs: dict[str, Spec | MissingError] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)  # asks a training to end

    def evaluate(self, cells: Sequence[Cell], request: Request | None = None) -> list[CellResult]:
        """Records of all cells. Raises InputError where nothing could be run.

        Args:
            request: what was asked for, so that the store can tell how far it is and keeps what it needs.
        """
        results, ready = self._planned(cells)
        reasons = self._carry_out(ready, request, Launch())
        self._assemble_all(results, ready, reasons)
        return results

    def share(self, cells: Sequence[Cell], request: Request, launch: Launch) -> None:
        """One job's part of the work; the records stay in the store."""
        self.stop = launch.stop
        results, ready = self._planned(cells)
        reasons = self._carry_out(ready, request, launch)
        self._assemble_all(results, ready, reasons)

    def gather(self, cells: Sequence[Cell], request: Request) -> list[CellResult]:
        """Records of all cells as jobs have left them in the store; nothing is computed but what is quick."""
        results, ready = self._planned(cells)
        if made_by := next(filter(None, (self._made_by(*plan) for plan in ready.values())), None):
            self.facts |= made_by  # this process may have another device than the jobs
        reasons = {}
        for task in self._groups(ready):
            for key in failures.keys(task):
                found = failures.of(self.bench.store, key) or failures.of(self.bench.store, task.crafting.key)
                reasons[key] = found.reason if found else UNFINISHED
        self._assemble_all(results, ready, reasons)
        return results

    def _made_by(self, plan: list[Crafting], spec: Spec) -> Mapping[str, Any] | None:
        return self.bench.store.made_by(self._alone(plan[0], spec).records(spec))

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise InputError for bad parameters, before any training."""
        for parts in (
            [cell.configs["attack"] for cell in cells],
            [cell.knowledge for cell in cells],
            [cell.configs["purifier"] for cell in cells],
        ):
            for config in {key_of(part): part for part in parts}.values():
                build(config)

    def _planned(self, cells: Sequence[Cell]) -> tuple[list[CellResult], dict[int, Plan]]:
        device = settle(self.settings.device, tf32=self.settings.tf32)
        self.facts = provenance.of_process(device)
        store = Store(self.settings.store, made_by=provenance.maker(self.facts))
        self.bench = Bench(store, device, self.settings.precision)
        self.picking = Picking(self.settings, self.bench, self.console)
        self.cells = cells
        results = [CellResult(cell) for cell in cells]
        self.check(cells)
        ready = {i: plan for i, result in enumerate(results) if (plan := self._plan(result)) is not None}
        for i, (plan, spec) in ready.items():
            results[i].planned = self._told(results[i].cell, plan, spec)
        self.tally = Tally([results[i].planned for i in ready])
        self.observer.planned(self.tally.cells)
        return results, ready

    def _told(self, cell: Cell, plan: list[Crafting], spec: Spec) -> Planned:
        """What observers are told of a cell."""
        tasks = [self._alone(crafting, spec) for crafting in plan]
        recipes = [task.records(spec) for task in tasks]
        return Planned(
            cell,
            provenance.cell_key(cell, [key_of(task.purified(spec)) for task in tasks], self.settings),
            {key_of(recipe): len(crafting.chunk) for recipe, crafting in zip(recipes, plan, strict=True)},
            frozenset(key_of(recipe) for recipe in recipes if self.bench.store.has(recipe)),
        )

    def _carry_out(self, ready: dict[int, Plan], request: Request | None, launch: Launch) -> dict[str, str]:
        """Do what the store lacks; reasons of failure by the recipes' keys."""
        groups = self._groups(ready) if ready else []
        if not groups:
            if ready:
                self.console.print("[dim]all records are in the store; nothing to compute[/]")
                self._write(request, ready, {})
            return {}
        return carry_out(
            groups,
            bench=self.bench,
            settings=self.settings,
            console=self.console,
            launch=launch,
            tally=self.tally,
            observer=self.observer,
            planned=lambda seconds: self._write(request, ready, seconds),
        )

    def _write(self, request: Request | None, ready: dict[int, Plan], seconds: dict[str, float]) -> None:
        """The manifest of what was asked for."""
        if request is None:
            return
        plans = list(ready.values())
        of_cells = {}
        for label, (plan, spec) in zip(self._labels(ready), plans, strict=True):
            of_cells[label] = [manifest.chunk_keys(self._alone(crafting, spec)) for crafting in plan]
        traits = Traits(self.bench)
        other = {f"clean/{key_of(crafting.clean)}" for plan, _ in plans for crafting in plan}
        other |= {
            f"traits/{key_of(traits.recipe(spec, plan[0].victim, plan[0].chunk))}" for plan, spec in plans
        }
        for plan, spec in plans:
            for part in (plan[0].victim, spec, *plan[0].others):
                if part.trained is not None:
                    other.add(f"weights/{key_of(part.trained)}")
        try:
            manifest.write(
                self.bench.store, Manifest(request, self.settings.n, of_cells, sorted(other), seconds)
            )
        except InputError:
            if seconds:  # a finished table is read from a store that cannot be written
                raise

    def _labels(self, ready: dict[int, Plan]) -> list[str]:
        return manifest.labels([self.cells[i] for i in ready])

    def _assemble_all(
        self, results: list[CellResult], ready: dict[int, Plan], reasons: dict[str, str]
    ) -> None:
        for i, (plan, spec) in ready.items():
            self._assemble(results[i], plan, spec, reasons)
        self._audit(results, ready)

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

                allowance = Allowance(what, self.settings.budget_hours)

                def told(share: float) -> None:
                    if self.stop.is_set():
                        raise StoppedError
                    allowance.check(share)
                    progress.update(bar, completed=share, description=f"training {what}", visible=True)

                def waiting(holder: Holder) -> None:
                    if self.stop.is_set():
                        raise StoppedError
                    progress.update(bar, description=f"{what}: trained by {holder.label}", visible=True)

                try:
                    with usable(what):
                        self.specs[name] = prepare(
                            config,
                            self.bench.store,
                            progress=told,
                            waiting=waiting,
                            device=self.bench.device,
                        )
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
