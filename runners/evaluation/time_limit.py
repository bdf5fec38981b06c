"""A limit on how long the code of others may take for one chunk."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimitError(RuntimeError):
    """An attack or a purifier took longer for a chunk than the settings allow."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitError in the code within when it takes longer; None sets no limit.

    The limit rests on the signal SIGALRM: it interrupts Python code and waiting, and one call into a library
    ends before it is noticed. Outside the main thread no signal arrives, so that there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError(
            f"expected at most chunk_seconds={seconds:g} for a chunk, and stopped it there; raise "
            "chunk_seconds, or take a smaller chunk, if it is only slow"
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
