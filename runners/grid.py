"""Evaluates cells: plans what the store lacks, estimates it, runs it, assembles the records."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import rich.progress
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from data.errors import InputError, MissingError
from data.images import Dataset, Images
from purifiers.purifier import Purifier
from runners import pool
from runners.cell import Cell, Crafting, Purifying, craftings, describe
from runners.components import Config, Spec, build, prepare
from runners.estimate import Estimator, spoken, total
from runners.records import from_parquet
from runners.settings import Settings
from runners.store import Store, key_of
from runners.work import Bench, settle

VICTIMS = Path(__file__).resolve().parent.parent / "configs" / "victim"


@dataclass
class CellResult:
    """A cell's records, or the reason why there are none."""

    cell: Cell
    records: pd.DataFrame | None = None
    skipped: str | None = None
    failed: str | None = None


@dataclass
class Grid:
    """Evaluates cells under one set of settings, sharing whatever they share."""

    settings: Settings
    console: Console
    images: dict[str, list[Images]] = field(default_factory=dict)
    specs: dict[str, Spec | MissingError] = field(default_factory=dict)
    logged: float = 0.0  # seconds into the run when progress was last written to a log

    def evaluate(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Records of all cells. Raises InputError where nothing could be run."""
        device = settle(self.settings.device, tf32=self.settings.tf32)
        self.bench = Bench(Store(self.settings.store), device, self.settings.precision)
        results = [CellResult(cell) for cell in cells]
        for part in ("attack", "knowledge", "purifier"):  # bad parameters are told before any training
            for config in {key_of(c.configs[part]): c.configs[part] for c in cells}.values():
                build(config)
        plans = {i: self._plan(cell) for i, cell in enumerate(cells)}
        specs = {i: self._purifier(result) for i, result in enumerate(results)}
        ready = {i: (plans[i], spec) for i, spec in specs.items() if spec is not None}
        failures = self._run(self._groups(ready)) if ready else {}
        for i, (plan, spec) in ready.items():
            self._assemble(results[i], plan, spec, failures)
        return results

    def _purifier(self, result: CellResult) -> Spec | None:
        """The cell's purifier; a cell whose purifier's files are missing is skipped."""
        try:
            return self._prepared(result.cell.configs["purifier"], result.cell.names["purifier"])
        except MissingError as error:
            result.skipped = str(error)
            return None

    def _plan(self, cell: Cell) -> list[Crafting]:
        dataset = cell.configs["dataset"]
        name = key_of(dataset)
        if name not in self.images:
            source: Dataset = build(dataset)
            self._same_labels(cell, source.label_space)
            with usable(f"dataset {cell.names['dataset']}"):
                subset = source.load(self.settings.split)
            subset = subset.subset(self.settings.n, seed=self.settings.seed)
            self.images[name] = list(subset.chunks(self.settings.chunk))
        victim, settings = self._prepared(cell.configs["victim"], "victim"), self.settings
        return craftings(cell, victim, self.images[name], seed=settings.seed, precision=settings.precision)

    def _same_labels(self, cell: Cell, label_space: str) -> None:
        expected = cell.configs["victim"]["label_space"]
        if expected != label_space:
            raise InputError(
                f"victim {cell.names['victim']} knows the labels of {expected!r}, but dataset "
                f"{cell.names['dataset']} has those of {label_space!r}; victims for it: "
                f"{', '.join(victims_for(label_space)) or 'none'}"
            )

    def _prepared(self, config: Config, what: str) -> Spec:
        """A component with its weights verified, or trained; each once."""
        name = key_of(config)
        if name not in self.specs:
            with self._progress() as progress:
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
                if self.bench.store.get(Purifying(crafting, (spec,)).records(spec)) is not None:
                    continue
                name = (key_of(crafting.recipe), key_of(spec.identity) if run is None else run)
                _, specs = shared.setdefault(name, (crafting, []))
                if spec not in specs:
                    specs.append(spec)
        return [Purifying(crafting, tuple(specs)) for crafting, specs in shared.values()]

    def _run(self, groups: list[Purifying]) -> dict[str, str]:
        """Craft, then purify; reasons of failure by the recipes' keys."""
        if not groups:
            self.console.print("[dim]all records are in the store; nothing to compute[/]")
            return {}
        store = self.bench.store
        needed = {key_of(group.crafting.recipe): group.crafting for group in groups}
        lacking = [c for c in needed.values() if not store.path(c.recipe).exists()]
        workers = pool.worker_count(self.settings.workers, self.bench.device.type)
        estimator = Estimator(self.bench)
        with self.console.status("estimating"):
            seconds = {id(task): estimator.seconds(task) for task in [*lacking, *groups]}
        expected = total([seconds[id(t)] for t in lacking], workers)
        expected += total([seconds[id(t)] for t in groups], workers)
        self.console.print(
            f"estimate: {spoken(expected)} for {len(lacking)} chunks to craft and {len(groups)} to "
            f"purify, {workers} {'process' if workers == 1 else 'processes'} on "
            f"{self.bench.device.type}; finished chunks are kept if you stop"
        )
        failures: dict[str, str] = {}
        with self._progress() as progress:
            bar = progress.add_task("crafting", total=sum(seconds.values()))

            def done(task: Crafting | Purifying, reason: str | None) -> None:
                progress.advance(bar, seconds[id(task)])
                if not self.console.is_terminal:
                    self._log(progress.tasks[bar])
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

    def _assemble(
        self, result: CellResult, plan: list[Crafting], spec: Spec, failures: dict[str, str]
    ) -> None:
        parts = []
        for crafting in plan:
            recipe = Purifying(crafting, (spec,)).records(spec)
            content = self.bench.store.get(recipe)
            if content is None:
                result.failed = failures.get(key_of(recipe), "its records are not in the store")
                return
            parts.append(from_parquet(content))
        result.records = pd.concat(parts, ignore_index=True).assign(
            **describe(result.cell), weights_sha256=plan[0].victim.weights_sha256
        )

    def _log(self, bar: rich.progress.Task) -> None:
        """A line every half minute where no bar can be drawn: a log file, a cluster."""
        if bar.elapsed - self.logged > 30 and not bar.finished:
            self.logged = bar.elapsed
            left = bar.elapsed * (100 / max(bar.percentage, 1) - 1)
            self.console.print(f"{bar.description}: {bar.percentage:.0f} %, {spoken(left)} left")

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )


@contextmanager
def usable(what: str) -> Iterator[None]:
    """A component that cannot be made ready from its config is bad input, not a fault of ours."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(f"{what}: its config cannot be used: {str(error).splitlines()[0]}") from error


def victims_for(label_space: str) -> list[str]:
    """Names of the victims that know these labels."""
    leaves = sorted(VICTIMS.glob("*.yaml"))
    return [leaf.stem for leaf in leaves if OmegaConf.load(leaf).label_space == label_space]


def id_of(task: Crafting | Purifying) -> str:
    """A task's name."""
    if isinstance(task, Crafting):
        return key_of(task.recipe)
    return key_of({"group": [key_of(task.records(p)) for p in task.purifiers]})
