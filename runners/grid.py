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
from runners.components import Config, VictimSpec, build, prepare_victim
from runners.estimate import Estimator, spoken, total
from runners.records import from_parquet
from runners.store import Store, key_of
from runners.work import Bench, settle

VICTIMS = Path(__file__).resolve().parent.parent / "configs" / "victim"


@dataclass(frozen=True)
class Settings:
    """How cells are run: what the subset is, where results lie, what computes them."""

    n: int
    seed: int
    split: str
    chunk: int
    store: str
    device: str
    tf32: bool
    workers: int | str

    def __post_init__(self) -> None:
        for name in ("n", "seed", "chunk"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"{name}: expected a whole number, got {value!r}")
        if self.seed < 0:
            raise InputError(f"seed: expected 0 or more, got {self.seed}")
        if not isinstance(self.store, str) or not self.store:
            raise InputError(f"store: expected a folder, got {self.store!r}")
        if not isinstance(self.tf32, bool):
            raise InputError(f"tf32: expected true or false, got {self.tf32!r}")

    @property
    def precision(self) -> str:
        """Of products in convolutions and matrices; part of what results depend on."""
        return "tf32" if self.tf32 else "float32"


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
    victims: dict[str, VictimSpec] = field(default_factory=dict)
    logged: float = 0.0  # seconds into the run when progress was last written to a log

    def evaluate(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Records of all cells. Raises InputError where nothing could be run."""
        device = settle(self.settings.device, tf32=self.settings.tf32)
        self.bench = Bench(Store(self.settings.store), device, self.settings.precision)
        results = [CellResult(cell) for cell in cells]
        purifiers = self._buildable(results)
        plans = {i: self._plan(result.cell) for i, result in enumerate(results) if result.skipped is None}
        if not plans:
            return results
        groups = self._groups(plans, results, purifiers)
        failures = self._run(groups)
        for i, plan in plans.items():
            self._assemble(results[i], plan, failures)
        return results

    def _buildable(self, results: Sequence[CellResult]) -> dict[str, Purifier]:
        """Every purifier once; cells whose purifier's files are missing are skipped."""
        built: dict[str, Purifier | MissingError] = {}
        for result in results:
            configs = result.cell.configs
            config = configs["purifier"]
            name = key_of(config)
            if name not in built:
                try:
                    built[name] = build(config)
                except MissingError as error:
                    built[name] = error
            if isinstance(built[name], MissingError):
                result.skipped = str(built[name])
            build(configs["attack"])
            build(configs["knowledge"])
        return {name: item for name, item in built.items() if isinstance(item, Purifier)}

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
        victim, settings = self._victim(cell.configs["victim"]), self.settings
        return craftings(cell, victim, self.images[name], seed=settings.seed, precision=settings.precision)

    def _same_labels(self, cell: Cell, label_space: str) -> None:
        expected = cell.configs["victim"]["label_space"]
        if expected != label_space:
            raise InputError(
                f"victim {cell.names['victim']} knows the labels of {expected!r}, but dataset "
                f"{cell.names['dataset']} has those of {label_space!r}; victims for it: "
                f"{', '.join(victims_for(label_space)) or 'none'}"
            )

    def _victim(self, config: Config) -> VictimSpec:
        name = key_of(config)
        if name not in self.victims:
            with self._progress() as progress:
                bar = progress.add_task("training the victim", total=1.0, visible=False)

                def told(share: float) -> None:
                    progress.update(bar, completed=share, visible=True)

                with usable("victim"):
                    self.victims[name] = prepare_victim(config, self.bench.store, progress=told)
        return self.victims[name]

    def _groups(
        self,
        plans: dict[int, list[Crafting]],
        results: Sequence[CellResult],
        purifiers: dict[str, Purifier],
    ) -> list[Purifying]:
        """What the records lack, purifiers with one shared run together."""
        shared: dict[Any, tuple[Crafting, list[Config]]] = {}
        for i, plan in plans.items():
            config = results[i].cell.configs["purifier"]
            run = purifiers[key_of(config)].shared_run()
            for crafting in plan:
                if self.bench.store.get(Purifying(crafting, (config,)).records(config)) is not None:
                    continue
                name = (key_of(crafting.recipe), key_of(config) if run is None else run)
                _, configs = shared.setdefault(name, (crafting, []))
                if config not in configs:
                    configs.append(config)
        return [Purifying(crafting, tuple(configs)) for crafting, configs in shared.values()]

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

    def _assemble(self, result: CellResult, plan: list[Crafting], failures: dict[str, str]) -> None:
        config = result.cell.configs["purifier"]
        parts = []
        for crafting in plan:
            recipe = Purifying(crafting, (config,)).records(config)
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
