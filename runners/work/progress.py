"""Progress of a run: a bar with what is done and the time left, or lines where no bar can be drawn."""

import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn

from data.errors import InputError
from runners.work.estimate import spoken
from runners.work.observer import Tally

EVERY = 30  # seconds between lines
WATCHED = 10  # seconds of a training from which its length is estimated


def progress_of(console: Console) -> Progress:
    """A bar that goes when it is done; nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=600,  # chunks may take minutes
    )


def described(stage: str, tally: Tally) -> str:
    """What is done of how much: purifying 3/90 cells, 1,204/90,000 images."""
    done, of_all = tally.images
    return f"{stage} {tally.finished}/{len(tally.cells)} cells, {done:,}/{of_all:,} images"


@dataclass
class Log:
    """A line every half minute where there is no terminal: a log file, a cluster."""

    console: Console
    told: float = 0.0  # seconds into the run

    def tell(self, bar: Task) -> None:
        """How far the bar is."""
        if self.console.is_terminal or bar.finished or bar.elapsed - self.told < EVERY:
            return
        self.told = bar.elapsed
        left = bar.elapsed * (100 / max(bar.percentage, 1) - 1)
        self.console.print(f"{bar.description}: {bar.percentage:.0f} %, {spoken(left)} left")


@dataclass
class Allowance:
    """Refuses a training that by the pace of its first seconds would take longer than a run may."""

    what: str
    hours: float
    begun: tuple[float, float] | None = None  # time, and share done
    granted: bool = False

    def check(self, share: float) -> None:
        """Called after each step. Raises InputError once the pace is known, if it is too slow."""
        now = time.perf_counter()
        if self.begun is None:
            self.begun = now, share
            return
        since, first = self.begun
        if self.granted or now - since < WATCHED or share <= first:
            return
        expected = (now - since) * (1 - first) / (share - first)
        if expected > 3600 * self.hours:
            raise InputError(
                f"training {self.what}: {spoken(expected)} by its first steps, above "
                f"budget_hours={self.hours:g}; python -m scripts.train with the same words does it without a "
                "limit, and goes on where it was stopped"
            )
        self.granted = True
