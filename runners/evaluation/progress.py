"""The progress of a run: a bar on a terminal, and lines where no bar can be drawn."""

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from data.errors import InputError
from runners.output import duration

EVERY = 30  # seconds between lines
LOOK = 5  # seconds between looks at what is being done
KNOWN = 0.01  # share of the work after which the time left is shown
WATCHED = 10  # seconds of a training after which its length is estimated


class Bar:
    """The progress of one long piece of work.

    On a terminal it is a bar, which disappears when the work is done. Elsewhere (a log file, a cluster) it is
    a line every half minute, even while a single step takes longer than that. Nothing is shown before the
    first `update`.

    Args:
        total: the value of `completed` at the end; None while it is not known.
        look: called with the bar every few seconds, from a thread, to update it within a long step.
    """

    def __init__(
        self,
        console: Console,
        description: str,
        *,
        total: float | None = 1.0,
        look: Callable[[Self], None] | None = None,
    ) -> None:
        self.console, self.look = console, look
        self._progress = Progress(
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
        self._task = self._progress.add_task(description, total=total, visible=False)
        self._begun: tuple[float, float] | None = None  # the time and the share of the first update
        self._left: float | None = None  # seconds, if the caller of `update` knows them
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._progress.start()
        if self.look is not None or not self.console.is_terminal:
            self._watching.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        if self._watching.is_alive():
            self._watching.join()
        self._progress.stop()

    def update(self, *, left: float | None = None, **changes: Any) -> None:
        """Set `completed`, `advance`, `total` or `description`, as in rich's Progress.

        `left` is the seconds that are left, if they are not to be estimated from the pace of the updates.
        """
        self._progress.update(self._task, visible=True, **changes)
        self._left = left
        if self._begun is None:
            self._begun = time.perf_counter(), self._share

    @property
    def _share(self) -> float:
        task = self._progress.tasks[0]
        return task.completed / task.total if task.total else 0.0

    def line(self) -> str:
        """Return the share that is done and the time left, or the time so far while that is not known."""
        since, first = self._begun or (time.perf_counter(), 0.0)
        so_far, share = time.perf_counter() - since, self._share
        left = self._left
        if left is None and share >= first + KNOWN:
            left = so_far * (1 - share) / (share - first)
        when = f"{duration(so_far)} so far" if left is None else f"{duration(left)} left"
        return f"{self._progress.tasks[0].description}: {100 * share:.0f} %, {when}"

    def _watch(self) -> None:
        """Look at the work every few seconds; without a terminal, also print a line every half minute."""
        printed = time.monotonic()
        while not self._ended.wait(min(LOOK, EVERY)):
            if self.look is not None:
                self.look(self)
            if not self.console.is_terminal and time.monotonic() - printed >= EVERY:
                printed = time.monotonic()
                if self._begun is not None and self._share < 1:
                    self.console.print(self.line(), soft_wrap=True)


class RunProgress:
    """Counts the cells and images of a run that are done. An image counts once in each cell.

    Args:
        cells: for each cell, the keys of its chunks of records and the number of images in each chunk.
        stored: keys of the chunks that are done at the start.
    """

    def __init__(self, cells: Sequence[Mapping[str, int]], stored: Container[str]) -> None:
        self.missing = [{key: size for key, size in chunks.items() if key not in stored} for chunks in cells]
        self.images = sum(sum(chunks.values()) for chunks in cells)
        self.images_done = self.images - sum(sum(chunks.values()) for chunks in self.missing)

    def finish(self, key: str) -> None:
        """Count a chunk as done; a chunk that is already done changes nothing."""
        self.images_done += sum(chunks.pop(key, 0) for chunks in self.missing)

    def text(self, stage: str) -> str:
        """Return how much is done: purifying 3/90 cells, 1,204/90,000 images."""
        done = sum(not chunks for chunks in self.missing)
        return f"{stage} {done}/{len(self.missing)} cells, {self.images_done:,}/{self.images:,} images"


@dataclass
class Allowance:
    """Refuses a training whose pace in the first seconds shows that it would take longer than a run may."""

    what: str
    hours: float
    begun: tuple[float, float] | None = None  # time, and share done
    granted: bool = False

    def check(self, share: float) -> None:
        """Raise InputError if the pace is known and too slow; this is called after each step."""
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
                f"training {self.what}: {duration(expected)} by its first steps, above "
                f"budget_hours={self.hours:g}; python -m scripts.train with the same words does it without a "
                "limit, and goes on where it was stopped"
            )
        self.granted = True
