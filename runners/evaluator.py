"""Evaluates cells: plans their tasks, does those whose results the store lacks, and collects the records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from rich.console import Console

from attacks.knowledge import UnsuitedError
from data.errors import InputError
from runners.evaluation import workers
from runners.evaluation.cell import Cell, describe
from runners.evaluation.contract import ContractChecks
from runners.evaluation.devices import configure_torch, devices_of
from runners.evaluation.estimator import Estimator
from runners.evaluation.execution import Execution
from runners.evaluation.keeping import Keeping
from runners.evaluation.plan import Planner
from runners.evaluation.progress import RunProgress
from runners.evaluation.queue import Launch
from runners.evaluation.records import from_parquet
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Purifying, grouped
from runners.evaluation.weights import UntrainedError
from runners.output import quantity
from runners.store.artifact import Artifact
from runners.store.failures import Failure, failure_of, keep_failure
from runners.store.manifest import Manifest
from runners.store.store import Store
from runners.validity import provenance
from runners.validity.audit import audit
from runners.validity.evidence import Flag

UNFINISHED = "not finished: some of its records are not in the store; the same command continues"


@dataclass
class CellResult:
    """A cell with its tasks, and with its records or the reason why there are none."""

    cell: Cell
    records: pd.DataFrame | None = None
    skipped: str | None = None
    failed: str | None = None
    flags: list[Flag] = field(default_factory=list)
    provenance: dict[str, Any] | None = None  # of the records
    tasks: list[Purifying] = field(default_factory=list)  # one per chunk, with this cell's purifier alone

    @property
    def chunks(self) -> list[Artifact]:
        """The artifacts that hold the records, one for each chunk."""
        return [task.records(task.purifiers[0]) for task in self.tasks]


class Evaluator:
    """Evaluates cells under one set of settings; work that cells have in common is done once.

    Args:
        launch: this run, or the job of a run that several jobs share.
        only: the ids of the images to evaluate, among those that the settings choose; None for all.
        here: whether all work is done in this process, because no other process has the objects that it
            needs.
    """

    def __init__(
        self,
        settings: Settings,
        console: Console,
        launch: Launch | None = None,
        *,
        only: frozenset[str] | None = None,
        here: bool = False,
    ) -> None:
        self.settings, self.console, self.launch = settings, console, launch or Launch()
        self.only, self.here = only, here
        self.devices = devices_of(settings.device, shard=self.launch.shard)
        device = configure_torch(self.devices[0], tf32=settings.tf32)
        self.facts = provenance.of_process(device)
        self.store = Store(settings.store, made_by=provenance.maker(self.facts))
        keeping = Keeping(settings.keep_purified, settings.n)
        limit = settings.chunk_seconds
        self.worker = Worker(self.store, device, settings.precision, keeping, chunk_seconds=limit)
        self.planner = Planner(settings, self.worker, console)
        self.checks = ContractChecks(self.worker, console)

    def evaluate(self, cells: Sequence[Cell], request: Manifest | None = None) -> list[CellResult]:
        """Return the results of all cells. Raises InputError if nothing can be run.

        With workers=0 nothing is computed, and the results are what the store holds.

        Args:
            request: what was asked for, so that the store can report its progress and keeps what it needs.
        """
        self.planner.check_parameters(cells)
        results = [self._planned(cell) for cell in cells]
        tasks = grouped([task for result in results for task in result.tasks if self._lacks(task)])
        if self.settings.workers == 0:
            reasons = self._stored_reasons(results, tasks)
        else:
            reasons = self._run(results, tasks, request)
        for result in results:
            if result.tasks:
                self._collect(result, reasons)
        self._audit(results)
        return results

    def _planned(self, cell: Cell) -> CellResult:
        try:
            tasks = self.planner.plan(cell)
        except UnsuitedError as error:
            return CellResult(cell, skipped=str(error))
        except UntrainedError as error:
            return CellResult(cell, failed=f"not finished: {error}; run the command with workers first")
        if self.only is not None:
            tasks = [part for task in tasks if (part := task.of_images(self.only)) is not None]
            if not tasks:
                got = ", ".join(sorted(self.only)[:3]) or "none"
                raise InputError(f"only: expected ids of images that the settings choose, got {got}")
        return CellResult(cell, tasks=tasks)

    def _lacks(self, task: Purifying) -> bool:
        """Return whether a result of the task is missing or damaged; the store removes damaged ones."""
        for purifier in task.purifiers:
            self.store.get(task.records(purifier))
            if task.keep_images:
                self.store.get(task.purified(purifier))
        return bool(task.missing(self.store))

    def _stored_reasons(self, results: list[CellResult], tasks: list[Purifying]) -> dict[str, str]:
        """Return the reasons of the failures that the store holds, by the keys of records."""
        chunks = [result.chunks[0] for result in results if result.chunks]
        stored = (provenance.made_by(self.store, chunk) for chunk in chunks)
        if made_by := next(filter(None, stored), None):
            self.facts |= made_by  # the processes that made the records may have another device than this one
        reasons = {}
        for task in tasks:
            for key in task.results:
                if failure := failure_of(self.store, key) or failure_of(self.store, task.crafting.key):
                    reasons[key] = failure.reason
        return reasons

    def _run(
        self, results: list[CellResult], tasks: list[Purifying], request: Manifest | None
    ) -> dict[str, str]:
        """Do the tasks; return the reasons of failures, by the keys of what could not be made."""
        if not tasks:
            if any(result.tasks for result in results):
                self.console.print("[dim]all records are in the store; nothing to compute[/]")
                self._write(request, results, {})
            return {}
        purifying, reasons = self.checks.sound(tasks)
        for task in tasks:  # stored, so that other processes see why
            for key in {*task.results} & reasons.keys():
                failure = Failure(reasons[key], launch=self.launch.name)
                keep_failure(self.store, key, failure, images=task.images)
        if not purifying:
            self._write(request, results, {})
            return reasons
        every = {task.crafting.key: task.crafting for task in purifying}
        crafting = [task for task in every.values() if not self.store.has(task.artifact)]
        estimator = Estimator(self.worker)
        count = workers.worker_count(self.settings.workers, self.devices)
        with self.console.status("estimating"):
            estimate = estimator.estimate(crafting, purifying, count)
        alone = self.launch.shard is None
        if alone and (crafting or any(estimator.unmade(task) for task in purifying)):  # more than scoring
            estimate.check(self.settings)
        self._write(request, results, estimate.seconds)
        execution = Execution(self.worker, self.launch, self.devices, self.console, here=self.here)
        count = execution.processes([*crafting, *purifying], estimate, count, self.settings.workers)
        self.console.print(
            f"estimate: {estimate.text}{'' if alone else ' if no other job helps'} "
            f"({quantity(len(crafting), 'chunk')} to craft, {len(purifying):,} to purify; "
            f"{quantity(max(count, 1), 'process', 'processes')} on {self.worker.device.type}); "
            "finished chunks are kept if you stop"
        )
        for line in filter(None, [estimate.longest, *estimator.budgets]):
            self.console.print(line)
        longest_first = sorted(purifying, key=estimate.weight, reverse=True)
        done = execution.run(crafting, longest_first, estimate, self._progress(results), processes=count)
        return reasons | done

    def _progress(self, results: list[CellResult]) -> RunProgress:
        cells = [
            {chunk.key: len(task.crafting.chunk) for chunk, task in zip(r.chunks, r.tasks, strict=True)}
            for r in results
            if r.tasks
        ]
        stored = {chunk.key for result in results for chunk in result.chunks if self.store.has(chunk)}
        return RunProgress(cells, stored)

    def _write(
        self, request: Manifest | None, results: list[CellResult], seconds: Mapping[str, float]
    ) -> None:
        """Write a manifest, so that the store keeps what the request needs."""
        if request is None:
            return
        planned = [result for result in results if result.tasks]
        cells, other = {}, set()
        for label, result in zip(_labels([result.cell for result in planned]), planned, strict=True):
            (purifier,), first = result.tasks[0].purifiers, result.tasks[0]
            cells[label] = [task.keys(purifier) for task in result.tasks]
            parts = (*first.crafting.classifiers, purifier)
            needed = [task.crafting.clean for task in result.tasks] + self.checks.artifacts(first, purifier)
            needed += [part.trained for part in parts if part.trained is not None]
            other |= {f"{artifact.stage}/{artifact.key}" for artifact in needed}
        manifest = replace(request, n=self.settings.n, cells=cells, other=sorted(other), seconds=seconds)
        try:
            manifest.write(self.store)
        except InputError:
            if seconds:  # a finished table may come from a read-only store
                raise

    def _collect(self, result: CellResult, reasons: Mapping[str, str]) -> None:
        """Join the records of a cell's chunks, and add the columns that all of them share."""
        parts = []
        for chunk in result.chunks:
            content = self.store.get(chunk)
            if content is None:
                result.failed = reasons.get(chunk.key, UNFINISHED)
                return
            parts.append(from_parquet(content))
        records = pd.concat(parts, ignore_index=True)
        result.records = records.assign(
            **describe(result.cell),
            subset=self.settings.images,
            image_ids_sha256=provenance.of_ids(records.id),
            weights_sha256=result.tasks[0].crafting.victim.weights_sha256,
        )
        result.provenance = provenance.of_cell(
            result.cell,
            result.tasks,
            records=result.records,
            settings=self.settings,
            store=self.store,
            facts=self.facts,
        )

    def _audit(self, results: list[CellResult]) -> None:
        done = [result for result in results if result.records is not None]
        cells = [(result.cell, result.records, result.tasks) for result in done]
        with self.console.status("auditing"):
            level, split, compute = self.settings.audit, self.settings.split, self.settings.workers != 0
            raised = audit(self.worker, cells, level, split=split, compute=compute)
        for result, flags in zip(done, raised, strict=True):
            result.flags = flags
            result.provenance["flags"] = {flag.name: flag.seen for flag in flags}


def _labels(cells: Sequence[Cell]) -> list[str]:
    """Return the names of the cells, with a number if only parameters distinguish them."""
    labels = [cell.label + (f", {cell.eps}" if cell.eps else "") for cell in cells]
    return [f"{label} ({i})" if labels.count(label) > 1 else label for i, label in enumerate(labels, 1)]
