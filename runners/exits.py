"""How a command ends: with one line if it is stopped, and never silently because a component exits."""

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
    """Let `os._exit` raise SystemExit inside, as `sys.exit` does; the caller of components catches it.

    Processes that this one forks are not affected, and neither is C code that exits.
    """
    own_pid, real_exit = os.getpid(), os._exit

    def refused(status: int) -> NoReturn:
        if os.getpid() != own_pid:
            real_exit(status)
        raise SystemExit(status)

    os._exit = refused
    try:
        yield
    finally:
        os._exit = real_exit


SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # sent before a time limit or a preemption


class EndedError(KeyboardInterrupt):
    """Raised when a signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"asked to end by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise EndedError at the first of these signals inside, so that what the process holds is given up.

    Then the earlier handler of the signal is called: that of submitit puts a job back into Slurm's queue and
    exits.
    """

    def end(number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise EndedError(number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    received = None
    try:
        yield
    except EndedError as error:
        received = error.number
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if callable(earlier := before.get(received)):
            earlier(received, None)


def stop_in_one_line() -> None:
    """Let Ctrl-C end the process with one line and status 130 until `begin` is called.

    Importing PyTorch and the attack libraries takes seconds, and a KeyboardInterrupt would be raised in the
    middle of an import.
    """
    # In a background process SIGINT is ignored, which must stay so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stopped)


def begin() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on; every command calls this first.

    Characters that the encoding of the output lacks are printed as question marks.
    """
    if signal.getsignal(signal.SIGINT) is _stopped:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _stopped(number: int, frame: object) -> NoReturn:
    os.write(2, b"stopped before any work began\n")
    os._exit(130)
