"""The execution of a run's tasks, in this process or in several, with a progress bar."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console

from runners.evaluation import workers
from runners.evaluation.estimate import Estimate
from runners.evaluation.progress import Bar, RunProgress
from runners.evaluation.queue import Launch, TaskQueue
from runners.evaluation.stages import Worker
from runners.evaluation.task_progress import reached_of
from runners.evaluation.tasks import Crafting, Purifying, Task

SHORT = 10  # seconds of work below which it does not pay to start processes


@dataclass
class Execution:
    """Executes the tasks of a run.

    Args:
        worker: does the tasks that are done in this process.
        launch: this run, or the job of a run that several jobs share.
        here: whether all work is done in this process.
    """

    worker: Worker
    launch: Launch
    devices: Sequence[torch.device]
    console: Console
    here: bool = field(default=False, kw_only=True)

    def processes(self, tasks: Sequence[Task], estimate: Estimate, count: int, asked: int | str) -> int:
        """Return how many processes do the tasks; 0 if this process does them.

        If a task kills its process, it fails alone only in a process of its own. So this process does the
        work only if one process is enough and no process has died over the tasks before, and if the work is
        short or is done on a GPU, where another process would hold as much memory again.

        Args:
            count: how many processes suit the machine.
            asked: the setting `workers`.
        """
        alone = self.launch.shard is None
        if self.here:
            return 0
        # Only the first of several jobs forgets dead processes: a later one must not reset their count.
        died = self.worker.store.leases.clear() if alone or self.launch.shard == 0 else set()
        short = estimate.expected < SHORT
        if short and not estimate.unknown and asked == "auto":
            count = 1
        died &= {task.key for task in tasks}
        may_stay = (short and alone and not estimate.unknown) or self.worker.device.type == "cuda"
        return 0 if count == 1 and may_stay and not died else count

    def run(
        self,
        crafting: Sequence[Crafting],
        purifying: Sequence[Purifying],
        estimate: Estimate,
        progress: RunProgress,
        *,
        processes: int,
    ) -> dict[str, str]:
        """Do the tasks; return the reasons of failures by the keys of what could not be made."""
        finished = 0.0

        def show(bar: Bar) -> None:
            """Show what is finished and how far the running tasks are."""
            running = list(queue.running.values())
            reached = [reached_of(self.worker.store, task.key) for task in running]
            partial = sum(estimate.weight(task) * r.share for task, r in zip(running, reached, strict=True))
            activity = next((f", {r.activity}" for r in reached if r.activity), "")
            bar.update(completed=finished + partial, description=progress.text(queue.stage) + activity)

        def done(task: Task, reason: str | None) -> None:
            nonlocal finished
            finished += estimate.weight(task)
            if reason is None and isinstance(task, Purifying):
                for key in task.results:
                    progress.finish(key)
            show(bar)

        tasks = [*self.launch.ordered(crafting), *self.launch.ordered(purifying)]
        queue = TaskQueue(tasks, store=self.worker.store, launch=self.launch, done=done)
        total = sum(map(estimate.weight, tasks))
        with Bar(self.console, progress.text("crafting"), total=total, look=show) as bar:
            bar.update(completed=0)
            workers.run(queue, worker=self.worker, workers=processes, devices=self.devices)
        return queue.reasons
