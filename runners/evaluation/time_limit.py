"""A limit on how long attacks and purifiers may take for one chunk."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0  # seconds until the limit is enforced again


class TimeLimitError(RuntimeError):
    """Raised if an attack or a purifier takes longer for a chunk than the settings allow."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitError in the code inside if it takes longer than `seconds`; None sets no limit.

    The limit uses the signal SIGALRM. It interrupts Python code and waiting, but a call into a library ends
    before the signal is noticed. Signals arrive only in the main thread, so there is no limit in other
    threads. Code that catches the error gets it again every second, and at its end.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    late = False
    error = TimeLimitError(
        f"expected at most chunk_seconds={seconds:g} for a chunk, and stopped it there; raise "
        "chunk_seconds, or take a smaller chunk, if it is only slow"
    )

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal late
        late = True
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if late:
        raise error
