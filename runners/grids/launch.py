"""Sends a run to where it is to be computed: here, to joblib's processes, or to a cluster by submitit.

The launcher is Hydra's own choice (hydra/launcher=slurm, submitit_slurm, submitit_local, joblib), with the
parameters that it has for a sweep. A run is sent as so many equal jobs; claims share the work out among them,
and what they make lies in the store. This process watches the store, and assembles.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console

from data.errors import InputError
from runners import app
from runners.cells import manifest
from runners.cells.cell import Cell
from runners.cells.manifest import Request
from runners.cells.settings import Settings
from runners.grids.grid import CellResult, Grid
from runners.grids.share import Share
from runners.store.store import Store
from runners.work.progress import Bar
from runners.work.schedule import Launch
from runners.work.survey import survey

log = logging.getLogger(__name__)

LOOK = 5.0  # seconds between looks at the store
ROUNDS = 3  # submissions in a row that may bring nothing


class Jobs(Protocol):
    """Where shares run."""

    def submit(self, shares: Sequence[Share]) -> None:
        """Send them."""
        ...

    def alive(self) -> int:
        """How many are waiting or running."""
        ...

    def problems(self) -> list[str]:
        """What went wrong with those that ended, in one line each."""
        ...

    def errors(self) -> list[str]:
        """The bad input that they met."""
        ...

    def cancel(self) -> None:
        """End those that are waiting or running."""
        ...


def evaluate(
    settings: Settings,
    cells: Sequence[Cell],
    request: Request,
    *,
    jobs: int,
    console: Console = app.console,
) -> list[CellResult]:
    """Records of all cells, computed where Hydra's launcher says; in a sweep's job, and by default, here."""
    grid = Grid(settings, console)
    place = chosen()
    if place is None:
        return grid.evaluate(cells, request)
    if not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs: expected at least 1, got {jobs!r}")
    grid.check(cells)
    store = Store(settings.store)
    store.claims.clear()
    _until_done(place(), settings, cells, request, jobs, store, console)
    return grid.gather(cells, request)


def chosen() -> Callable[[], Jobs] | None:
    """Where Hydra's launcher sends work; None for here.

    Raises InputError for a launcher that cannot be used so.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.MULTIRUN:
        return None
    told = OmegaConf.to_container(HydraConfig.get().launcher, resolve=True)
    kind = told.pop("_target_").rpartition(".")[2]
    if kind == "BasicLauncher":
        return None
    from runners.grids import jobs  # submitit, where it is installed

    if kind in ("SlurmLauncher", "LocalLauncher"):
        return lambda: jobs.Submitit("slurm" if kind == "SlurmLauncher" else "local", told)
    if kind == "JoblibLauncher":
        return lambda: jobs.Joblib(told["n_jobs"])
    raise InputError(
        f"hydra/launcher: expected basic, joblib, submitit_local, submitit_slurm or slurm, got {kind}"
    )


def _until_done(
    place: Jobs,
    settings: Settings,
    cells: Sequence[Cell],
    request: Request,
    jobs: int,
    store: Store,
    console: Console,
) -> None:
    """Submit, wait, and submit again while that brings anything."""
    launch, idle, before = Launch(), 0, -1
    try:
        while idle < ROUNDS:
            place.submit([Share(settings, cells, request, launch.name, shard, jobs) for shard in range(jobs)])
            _watch(place, store, request, console)
            if errors := place.errors():
                raise InputError(errors[0])
            plan = manifest.of(store, request)
            seen = survey(store, plan) if plan else None
            settled = seen.done + len(seen.failed) if seen else -1
            if seen and settled == seen.total:
                return
            idle = idle + 1 if settled <= before else 0
            before = settled
            for problem in place.problems():
                log.warning(problem)
        if before < 0:
            raise InputError(
                "no job came as far as a plan: " + ("; ".join(place.problems()) or "see their logs")
            )
    except BaseException:
        place.cancel()
        raise


def _watch(place: Jobs, store: Store, request: Request, console: Console) -> None:
    """Show how far the work is until no job is left, or no work."""
    with Bar(console, "waiting for jobs", total=None) as bar:
        while alive := place.alive():
            plan = manifest.of(store, request)
            if plan is not None:
                seen = survey(store, plan)
                done = seen.done + len(seen.failed)
                bar.update(total=seen.total, completed=done, description=f"{alive} jobs")
            time.sleep(LOOK)
