"""The estimate of how long a run takes, which is printed before it starts and compared with its limit."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from data.errors import InputError
from runners.evaluation.settings import Settings
from runners.evaluation.tasks import Task
from runners.output import duration, quantity

MANY = 600.0  # expected seconds above which the longest parts are named
NAMED = 3


@dataclass(frozen=True)
class Estimate:
    """An estimate of how long the tasks of a run will take.

    Args:
        seconds: seconds of each task in one process, by its key; tasks whose trial failed are left out.
        tasks: the number of tasks, including those of unknown length.
        expected: seconds until all tasks of known length are done.
        at_most: whether attacks may take less time because they stop early.
        parts: the seconds of one process for each kind of work: an attack on a defense, or a purifier.
    """

    seconds: Mapping[str, float]
    tasks: int
    expected: float
    at_most: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def unknown(self) -> int:
        """The number of tasks of unknown length."""
        return self.tasks - len(self.seconds)

    @property
    def text(self) -> str:
        """The estimate as text: the time, whether it is an upper bound, and how many chunks it leaves out."""
        length = f"at most {duration(self.expected)}" if self.at_most else duration(self.expected)
        if not self.unknown:
            return length
        if not self.seconds:
            return "an unknown time, since the trial failed"
        return f"{length}, and an unknown time for {quantity(self.unknown, 'chunk')} whose trial failed"

    @property
    def longest(self) -> str:
        """The parts that take longest, as text; empty for short work and for work of one part."""
        if self.expected < MANY or len(self.parts) < 2:
            return ""
        first = sorted(self.parts, key=lambda part: -self.parts[part])[:NAMED]
        return "longest: " + ", ".join(f"{part} {duration(self.parts[part])}" for part in first)

    def weight(self, task: Task) -> float:
        """Return the seconds of a task; for a task of unknown length, the mean of the others."""
        mean = sum(self.seconds.values()) / len(self.seconds) if self.seconds else 1.0
        return self.seconds.get(task.key, mean)

    def check(self, settings: Settings) -> None:
        """Raise InputError if the work would take longer than the user allows."""
        allowed = 3600 * settings.budget_hours
        if self.expected <= allowed:
            return
        fitting = int(settings.n * allowed / self.expected)
        length = f"at most {duration(self.expected)}" if self.at_most else duration(self.expected)
        raise InputError(
            f"estimate: {length}, above budget_hours={settings.budget_hours:g}; "
            + (f"n={fitting} would fit; " if fitting else "not even n=1 would fit; ")
            + "otherwise lower the steps, queries or draws of the attack, or raise budget_hours"
            + (f" ({self.longest})" if self.longest else "")
        )
