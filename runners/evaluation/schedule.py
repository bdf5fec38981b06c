"""Carries work out: what it will take, whether that is allowed, in which order, with how many processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import torch
from rich.console import Console

from data.errors import InputError
from runners.evaluation import failures
from runners.evaluation import workers as pool
from runners.evaluation.cell import Purifying
from runners.evaluation.contract import Traits
from runners.evaluation.estimate import Estimator, spoken, total
from runners.evaluation.failures import Failure
from runners.evaluation.progress import Bar, described
from runners.evaluation.queue import Task, TaskQueue, begun_at
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.evaluation.tally import Tally
from runners.store.store import key_of

SHORT = 10  # seconds of work, for which starting processes does not pay


@dataclass(frozen=True)
class Launch:
    """One run of a command, or one job of several that do the work of a run together.

    Args:
        name: the same for all jobs of a run. A chunk that failed in one job is not tried again in another.
        shard: the job's number, which sets where in the queue it begins. A job leaves to the other jobs what
            they hold, and ends. None: this run waits for what others do and ends when everything is done.
    """

    name: str = field(default_factory=lambda: uuid4().hex)
    shard: int | None = None


def carry_out(
    groups: Sequence[Purifying],
    *,
    worker: Worker,
    devices: Sequence[torch.device],
    settings: Settings,
    console: Console,
    launch: Launch,
    tally: Tally,
    planned: Callable[[dict[str, float]], None],
) -> dict[str, str]:
    """Craft, then purify; reasons of failure by the recipes' keys.

    `planned` is told the estimated seconds of each task by its key,
    before the first begins. Raises InputError where they are more than budget_hours.
    """
    store = worker.store
    sound, reasons = Traits(worker).sound(list(groups), console)
    for group in groups:  # kept, so that others see why
        refused = tuple(p for p in group.purifiers if key_of(group.records(p)) in reasons)
        for purifier in refused:
            alone = Purifying(group.crafting, (purifier,), group.draws)
            failure = Failure(reasons[key_of(group.records(purifier))], launch=launch.name)
            failures.keep(store, alone, failure)
    if not sound:
        planned({})
        return reasons
    crafting = {group.crafting.key: group.crafting for group in sound}
    lacking = [task for task in crafting.values() if not store.has(task.recipe)]
    estimator = Estimator(worker)
    with console.status("estimating"):
        estimates = {id(task): estimator.seconds(task) for task in [*lacking, *sound]}
    seconds = {task: known for task, known in estimates.items() if known is not None}
    unknown = len(estimates) - len(seconds)
    workers = pool.worker_count(settings.workers, devices)
    expected = sum(
        total([seconds[id(t)] for t in tasks if id(t) in seconds], workers) for tasks in (lacking, sound)
    )
    single = launch.shard is None
    if single and (lacking or any(estimator.unmade(task) for task in sound)):  # else they are only scored
        _affordable(expected, settings, at_most=estimator.at_most)
    planned({task.key: seconds[id(task)] for task in [*lacking, *sound] if id(task) in seconds})
    # The first job clears too, and no other: a job that starts late must not reset the count of deaths.
    died = store.leases.clear() if single or launch.shard == 0 else set()
    died &= {task.key for task in [*lacking, *sound]}
    if expected < SHORT and not unknown and settings.workers == "auto":
        workers = 1
    # A task killed in a process of its own fails alone. What is short, and has killed no one, is done here.
    # So is all work of one process on a GPU, which otherwise would hold the memory of two.
    safe = workers == 1 and not died
    here = safe and ((expected < SHORT and not unknown and single) or worker.device.type == "cuda")
    console.print(
        f"estimate: {_told(expected, unknown, len(estimates), at_most=estimator.at_most)} for "
        f"{len(lacking)} chunks to craft and "
        f"{len(sound)} to purify, {workers} {'process' if workers == 1 else 'processes'} on "
        f"{worker.device.type}"
        + ("" if single else ", if no other job helped")
        + "; finished chunks are kept if you stop"
    )
    for told in estimator.budgets:
        console.print(told)
    usual = sum(seconds.values()) / len(seconds) if seconds else 1.0  # the weight of a task of unknown length
    weights = {id(task): seconds.get(id(task), usual) for task in [*lacking, *sound]}
    with Bar(console, described("crafting", tally), total=sum(weights.values())) as bar:

        def done(task: Task, reason: str | None) -> None:
            if reason is None and isinstance(task, Purifying):
                for purifier in task.purifiers:
                    tally.finish(key_of(task.records(purifier)))
            stage = described("crafting" if turns.crafting else "purifying", tally)
            bar.update(advance=weights[id(task)], description=stage)

        bar.update(completed=0)
        turns = TaskQueue(
            begun_at(lacking, launch.shard or 0),
            begun_at(sorted(sound, key=lambda g: -weights[id(g)]), launch.shard or 0),
            store=store,
            launch=launch.name,
            done=done,
            lingers=single,
        )
        pool.run(turns, worker=worker, workers=0 if here else workers, devices=devices)
    return reasons | turns.reasons


def _told(expected: float, unknown: int, tasks: int, *, at_most: bool = False) -> str:
    """The estimate for people, with how many chunks it does not hold, and whether it is an upper bound."""
    known = f"at most {spoken(expected)}" if at_most else spoken(expected)
    if not unknown:
        return known
    if unknown == tasks:
        return "unknown, since its trial failed,"
    return f"{known}, and an unknown time for {unknown} chunks whose trial failed,"


def _affordable(expected: float, settings: Settings, *, at_most: bool) -> None:
    """Raise InputError for work that would take longer than the user allows."""
    allowed = 3600 * settings.budget_hours
    if expected > allowed:
        fitting = int(settings.n * allowed / expected)
        told = _told(expected, 0, 1, at_most=at_most)
        raise InputError(
            f"estimate: {told}, above budget_hours={settings.budget_hours:g}; "
            + (f"n={fitting} would fit, or " if fitting else "not even n=1 would fit: ")
            + "fewer steps, queries or draws of the attack, or a larger budget_hours"
        )
