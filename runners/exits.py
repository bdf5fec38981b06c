"""Keeps other people's code from ending this process in silence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def no_silent_exit() -> Iterator[None]:
    """Within, `os._exit` raises SystemExit, as `sys.exit` does; whoever runs components catches that.

    Processes that this one forks end as they wish. An exit that C code calls is not seen.
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
