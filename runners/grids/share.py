"""One job of a run that is sent elsewhere."""

import logging
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from data.errors import InputError
from runners.cells.cell import Cell
from runners.cells.manifest import Request
from runners.cells.settings import Settings
from runners.grids.grid import Grid
from runners.work.pool import StoppedError
from runners.work.schedule import Launch

log = logging.getLogger(__name__)

STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Share:
    """One job of a run; what submitit pickles. Its result is the error that it met, if it was bad input."""

    settings: Settings
    cells: Sequence[Cell]
    request: Request
    name: str
    shard: int
    shards: int
    here: bool = False

    def __call__(self) -> str | None:
        """Work until nothing is left that others do not do already, or until asked to stop."""
        stop, asked = threading.Event(), []

        def on_signal(number: int, frame: Any) -> None:
            asked.append(number)
            stop.set()

        before = {number: signal.signal(number, on_signal) for number in STOPS}
        launch = Launch(self.name, self.shard, self.shards, self.here, stop)
        try:
            Grid(self.settings, Console()).share(self.cells, self.request, launch)
        except InputError as error:
            return str(error)
        except StoppedError:
            log.warning("asked to stop by signal %s: claims are given up, finished chunks are kept", asked[0])
            if callable(again := before[asked[0]]):
                again(asked[0], None)  # submitit's: before a time limit it puts the job back into the queue
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return None

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same job, for the store holds all that was done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
