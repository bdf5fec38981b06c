"""Evaluates cells: plans what the store lacks, has it carried out, assembles the records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from rich.console import Console

from attacks.knowledge import UnsuitedError
from data.errors import InputError
from runners.evaluation import failures, manifest
from runners.evaluation.cell import Cell, describe
from runners.evaluation.component import build
from runners.evaluation.contract import Traits
from runners.evaluation.devices import configure_torch, devices_of
from runners.evaluation.identity import identity
from runners.evaluation.keeping import Keeping
from runners.evaluation.manifest import Manifest, Request
from runners.evaluation.plan import Plan, Planner
from runners.evaluation.ready import Ready
from runners.evaluation.records import from_parquet
from runners.evaluation.schedule import Launch, carry_out
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.evaluation.tally import Tally
from runners.store.store import Store, key_of
from runners.validity import provenance
from runners.validity.audit import audit
from runners.validity.flags import Flag

UNFINISHED = "not finished: not all of its records are in the store; the same command goes on"


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
class Evaluator:
    """Evaluates cells under one set of settings, sharing whatever they share."""

    settings: Settings
    console: Console
    launch: Launch = field(default_factory=Launch)

    def evaluate(self, cells: Sequence[Cell], request: Request | None = None) -> list[CellResult]:
        """Records of all cells. Raises InputError where nothing could be run.

        With workers=0 no chunk is computed, and the results are what the store holds.

        Args:
            request: what was asked for, so that the store can tell how far it is and keeps what it needs.
        """
        results, plans = self._planned(cells)
        if self.settings.workers == 0:
            reasons = self._gather(plans)
        else:
            reasons = self._carry_out(cells, plans, request)
        self._assemble(results, plans, reasons)
        return results

    def _gather(self, plans: dict[int, Plan]) -> dict[str, str]:
        """The reasons of the failures that the store holds, by the recipes' keys."""
        stored = (provenance.made_by(self.worker.store, plan.records[0]) for plan in plans.values())
        if made_by := next(filter(None, stored), None):
            self.facts |= made_by  # the processes that made the records may have another device than this one
        reasons = {}
        for task in self.planner.groups(plans.values()):
            for key in failures.keys(task):
                found = failures.of(self.worker.store, key) or failures.of(
                    self.worker.store, task.crafting.key
                )
                reasons |= {key: found.reason} if found else {}
        return reasons

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise InputError for bad parameters, before any training."""
        _check_substitutes(cells)
        for parts in (
            [cell.configs["attack"] for cell in cells],
            [cell.knowledge for cell in cells],
            [cell.configs["purifier"] for cell in cells],
        ):
            for config in {key_of(part): part for part in parts}.values():
                build(config)

    def _planned(self, cells: Sequence[Cell]) -> tuple[list[CellResult], dict[int, Plan]]:
        """What can be run needs what, by its place among the cells; the others are skipped."""
        self.devices = devices_of(self.settings.device, shard=self.launch.shard)
        device = configure_torch(self.devices[0], tf32=self.settings.tf32)
        self.facts = provenance.of_process(device)
        store = Store(self.settings.store, made_by=provenance.maker(self.facts))
        keeping = Keeping(self.settings.keep_purified, self.settings.n)
        self.worker = Worker(store, device, self.settings.precision, keeping)
        ready = Ready(self.worker, self.console, self.settings.budget_hours)
        self.planner = Planner(self.settings, self.worker, ready)
        self.check(cells)
        results, plans = [CellResult(cell) for cell in cells], {}
        for i, result in enumerate(results):
            try:
                plans[i] = self.planner.plan(result.cell)
            except UnsuitedError as error:
                result.skipped = str(error)
        self.tally = self._tally(plans.values())
        return results, plans

    def _tally(self, plans: Iterable[Plan]) -> Tally:
        """How far the cells are, as the store has it."""
        cells, stored = [], set()
        for plan in plans:
            sizes = [len(crafting.chunk) for crafting in plan.crafting]
            cells.append({key_of(recipe): size for recipe, size in zip(plan.records, sizes, strict=True)})
            stored |= {key_of(recipe) for recipe in plan.records if self.worker.store.has(recipe)}
        return Tally(cells, stored)

    def _carry_out(
        self, cells: Sequence[Cell], plans: dict[int, Plan], request: Request | None
    ) -> dict[str, str]:
        """Do what the store lacks; reasons of failure by the recipes' keys."""

        def planned(seconds: dict[str, float]) -> None:
            if request is not None:
                self._write(cells, plans, request, seconds)

        groups = self.planner.groups(plans.values())
        if not groups:
            if plans:
                self.console.print("[dim]all records are in the store; nothing to compute[/]")
                planned({})
            return {}
        return carry_out(
            groups,
            worker=self.worker,
            devices=self.devices,
            settings=self.settings,
            console=self.console,
            launch=self.launch,
            tally=self.tally,
            planned=planned,
        )

    def _write(
        self, cells: Sequence[Cell], plans: dict[int, Plan], request: Request, seconds: dict[str, float]
    ) -> None:
        """The manifest of what was asked for."""
        labels = manifest.labels([cells[i] for i in plans])
        of_cells = {
            label: [manifest.chunk_keys(task) for task in plan.tasks]
            for label, plan in zip(labels, plans.values(), strict=True)
        }
        traits, other = Traits(self.worker), set()
        for plan in plans.values():
            first = plan.crafting[0]
            other |= {f"clean/{key_of(crafting.clean)}" for crafting in plan.crafting}
            other.add(f"traits/{key_of(traits.recipe(plan.purifier, first.victim, first.chunk))}")
            tried = (traits.recipe_of_victim(known, first.chunk) for known in (first.victim, *first.others))
            other |= {f"traits/{key_of(recipe)}" for recipe in tried}
            parts = (first.victim, plan.purifier, *first.others)
            other |= {f"weights/{key_of(part.trained)}" for part in parts if part.trained is not None}
        try:
            manifest.write(
                self.worker.store, Manifest(request, self.settings.n, of_cells, sorted(other), seconds)
            )
        except InputError:
            if seconds:  # a finished table is read from a store that cannot be written
                raise

    def _assemble(self, results: list[CellResult], plans: dict[int, Plan], reasons: dict[str, str]) -> None:
        for i, plan in plans.items():
            self._join(results[i], plan, reasons)
        self._audit(results, plans)

    def _audit(self, results: list[CellResult], plans: dict[int, Plan]) -> None:
        done = [i for i in plans if results[i].records is not None]
        cells = [(results[i].cell, results[i].records, plans[i].crafting, plans[i].purifier) for i in done]
        with self.console.status("auditing"):
            for i, flags in zip(done, audit(self.worker, cells, self.settings.audit), strict=True):
                results[i].flags = flags
                results[i].provenance["flags"] = {flag.name: flag.seen for flag in flags}

    def _join(self, result: CellResult, plan: Plan, reasons: dict[str, str]) -> None:
        """The cell's records, with what was true of all of them."""
        parts = []
        for recipe in plan.records:
            content = self.worker.store.get(recipe)
            if content is None:
                result.failed = reasons.get(key_of(recipe), UNFINISHED)
                return
            parts.append(from_parquet(content))
        records = pd.concat(parts, ignore_index=True)
        result.records = records.assign(
            **describe(result.cell),
            subset=self.settings.images,
            image_ids_sha256=provenance.of_ids(records.id),
            weights_sha256=plan.crafting[0].victim.weights_sha256,
        )
        result.provenance = provenance.of_cell(
            result.cell,
            plan.tasks,
            records=result.records,
            settings=self.settings,
            store=self.worker.store,
            facts=self.facts,
        )


def _check_substitutes(cells: Sequence[Cell]) -> None:
    """Raise InputError where all classifiers that the transfer attacks know are the victim itself.

    Where one of several is the victim, as in OAG's Table II, its column is the paper's white-box attack.
    """
    known = [(cell, other) for cell in cells for other in cell.others.values()]
    if known and all(identity(other) == identity(cell.configs["victim"]) for cell, other in known):
        victim = known[0][0].names["victim"]
        raise InputError(
            f"knowledge.victims: expected another classifier than the victim, got {victim} for both, so that "
            "nothing would be transferred; name another with victim= or victim@knowledge.victims.first="
        )
