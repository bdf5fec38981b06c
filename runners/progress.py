"""Progress of a run: a bar with what is done and the time left, or lines where no bar can be drawn."""

from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn

from runners.estimate import spoken
from runners.observer import Tally

EVERY = 30  # seconds between lines


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
