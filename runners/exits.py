"""How a command ends: with one line when it is stopped, and never silently because a component exits."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn


class FailedCellsError(Exception):
    """Raised at the end of a run in which some cells failed; the command ends with status 1."""


@contextmanager
def no_silent_exit() -> Iterator[None]:
    """Within, `os._exit` raises SystemExit, as `sys.exit` does; whoever runs components catches that.

    Processes that this one forks are not affected, and neither is C code that exits.
    """
    ours, really = os.getpid(), os._exit

    def refused(status: int) -> NoReturn:
        if os.getpid() != ours:
            really(status)
        raise SystemExit(status)

    os._exit = refused
    try:
        yield
    finally:
        os._exit = really


SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # of clusters: before a time limit or a preemption


class EndedError(KeyboardInterrupt):
    """Raised when a signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"asked to end by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, the first of these signals raises EndedError, so that what the process holds is given up.

    Then the earlier handler of the signal is called: submitit's puts a job back into Slurm's queue and exits.
    """

    def end(number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise EndedError(number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    asked = None
    try:
        yield
    except EndedError as error:
        asked = error.number
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if callable(again := before.get(asked)):
            again(asked, None)


def stop_in_one_line() -> None:
    """Until `begin`, Ctrl-C ends the process with one line and status 130.

    Importing PyTorch and the attack libraries takes seconds, in which a KeyboardInterrupt would come out of
    the middle of an import.
    """
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # of a process in the background: ignored
        signal.signal(signal.SIGINT, _stopped)


def begin() -> None:
    """Every command calls this first: from now on Ctrl-C raises KeyboardInterrupt, and characters that the
    encoding of the output lacks are printed as question marks."""
    if signal.getsignal(signal.SIGINT) is _stopped:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _stopped(number: int, frame: object) -> NoReturn:
    os.write(2, b"stopped before any work began\n")
    os._exit(130)
