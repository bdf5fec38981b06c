"""The process that holds a claim, and whether it still runs."""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """Who holds a claim, for what work and since when (ISO 8601).

    `place` distinguishes machines and containers.
    """

    host: str = "?"
    place: str = ""
    pid: int = 0
    born: str = ""
    job: str = ""
    what: str = ""
    since: str = ""

    @property
    def label(self) -> str:
        return f"{self.host}, {f'job {self.job}, ' if self.job else ''}process {self.pid}"

    def lives(self) -> bool | None:
        """Return whether its process runs; None if that cannot be seen from here."""
        if not self.place or self.place != _place():
            return None
        born = _born(self.pid)
        if born is None:
            return None if _exists(self.pid) else False
        return born == self.born


@cache
def _place() -> str:
    """Return what identifies the processes among which a pid is unique; empty if that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _born(pid: int) -> str | None:
    """Return when a process started, in ticks since boot, so that a reused pid is noticed.

    The result is empty if the process has ended, and None if /proc does not show it: with the mount option
    hidepid, processes of other users are not shown.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if after_name[0] in "ZX" else after_name[19]


def _exists(pid: int) -> bool:
    """Return whether there is a process with this number, of any user."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def myself(what: str) -> Holder:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(socket.gethostname(), _place(), os.getpid(), _born(os.getpid()) or "", job, what, now)
