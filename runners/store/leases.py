"""Leases: which process works on what, among processes and hosts that share a store.

A claim is a file that only one process can create. It names the process that holds it, which renews its time.
The clock of the file system tells how old a claim is, so that hosts need not agree on the time. If even that
clock was set back, a claim is dead once it is seen unchanged for as long. Leases only save work and are not
needed for correctness: two processes that work on the same chunk write the same content, each completely.
"""

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from data.errors import InputError
from runners.store.artifact import opened
from runners.store.holder import Holder, myself

log = logging.getLogger(__name__)

BEAT = 15.0  # seconds between renewals
STALE = 120.0  # seconds without renewal: the holder is dead. Network file systems may show an mtime 60 s late
DEATHS = 3  # after so many processes died over one task, it has failed


class DeadlyError(Exception):
    """Raised if several processes died while they held a claim."""


class Leases:
    """Leases in a folder.

    Each claim is a file `name.generation`. A process that takes over from a dead one creates the next
    generation, which again only one process can do, so the number of generations counts the dead processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, Path] = {}
        self._seen: dict[Path, tuple[float, float]] = {}  # mtime, and when it was first seen
        self._beating: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self, name: str, what: str, *, deaths: int | None = None) -> bool:
        """Claim `name`; return False if another process holds it.

        Raises DeadlyError if `deaths` processes have died with it, InputError if nothing can be written.
        """
        generation = 0
        while deaths is None or generation < deaths:
            path = self.folder / f"{name}.{generation}"
            if self._create(path, what):
                newer = self.folder / f"{name}.{generation + 1}"
                if not newer.exists() or self._dead(newer):
                    return True
                self.release(name)  # another process took it over first
                _forget(path)
                return False
            if not self._dead(path):
                return False
            generation += 1
        raise DeadlyError(f"{deaths} processes died while they worked on it (killed, or out of memory)")

    def release(self, name: str) -> None:
        """Give up the claim and remove what dead holders left of it; do nothing if it is not held."""
        with self._lock:
            path = self.held.pop(name, None)
        if path is None:
            return
        generation = int(path.suffix[1:])
        if self.folder.joinpath(f"{name}.{generation + 1}").exists():
            return  # another process took it over while this one was stopped
        for dead in range(generation + 1):
            _forget(self.folder / f"{name}.{dead}")

    @contextmanager
    def alone(
        self, name: str, what: str, waiting: Callable[[Holder], None] = lambda holder: None
    ) -> Iterator[None]:
        """Hold the claim `name` inside; while another process holds it, call `waiting` with the holder."""
        pause = 0.1
        while not self.take(name, what):
            waiting(next((holder for path, holder in self.all() if path.stem == name), Holder()))
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        try:
            yield
        finally:
            self.release(name)

    def all(self) -> list[tuple[Path, Holder]]:
        """Return all claims, including those of dead processes."""
        try:
            paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        except OSError:
            return []
        read = ((path, self._holder(path)) for path in paths)
        return [(path, holder) for path, holder in read if holder is not None]

    def alive(self) -> dict[str, Holder]:
        """Return the holders of all claims by name, without dead processes."""
        now = self.now()
        return {path.stem: holder for path, holder in self.all() if not self._dead(path, now)}

    def clear(self) -> set[str]:
        """Remove the claims of dead processes, so that their tasks are tried again; return the names."""
        paths = [path for path, _ in self.all()]
        now = self.now() if paths else 0.0
        living = {path.stem for path in paths if not self._dead(path, now)}
        cleared = {path.stem for path in paths} - living
        for path in paths:
            if path.stem in cleared:
                _forget(path)
        return cleared

    def _create(self, path: Path, what: str) -> bool:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        try:
            os.write(handle, json.dumps(asdict(myself(what))).encode())
        except OSError as error:
            _forget(path)
            raise self._unusable(error) from error
        finally:
            os.close(handle)
        with self._lock:
            self.held[path.stem] = path
            if self._beating is None:
                self._beating = threading.Thread(target=self._beat, daemon=True)
                self._beating.start()
        return True

    def _unusable(self, error: OSError) -> InputError:
        return InputError(
            f"store {self.folder.parent}: cannot write ({error.strerror or error}). Free space or choose "
            "another folder with store=...; finished work is kept and is not done again"
        )

    def _holder(self, path: Path) -> Holder | None:
        """Return the holder of a claim: an unknown one while it is being written, None if it is gone."""
        try:
            with opened(path) as file:
                holder = json.loads(file.read())
            return Holder(**holder)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            return Holder()

    def _dead(self, path: Path, now: float | None = None) -> bool:
        """Return whether the holder is seen to be gone, or has not renewed the claim for long."""
        holder = self._holder(path)
        if holder is None or path in self.held.values():
            return False
        if holder.lives() is False:
            return True
        try:
            renewed = path.stat().st_mtime
        except OSError:  # released just now
            return False
        previous, first = self._seen.get(path, (None, 0.0))
        if previous != renewed:
            self._seen[path] = (renewed, first := time.monotonic())
        now = self.now() if now is None else now
        return now - renewed > STALE or time.monotonic() - first > STALE

    def now(self) -> float:
        """Return the time of the file system."""
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".now-") as file:
                return os.stat(file.name).st_mtime
        except OSError:  # read-only, for a process that only looks
            return time.time()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                paths = list(self.held.values())
            for path in paths:
                try:
                    os.utime(path)
                except OSError as error:  # released just now, or the file system is away for a while
                    log.debug("claim %s: cannot be renewed (%s)", path, error)


def _forget(path: Path) -> None:
    """Remove a claim.

    A claim that cannot be removed is dead once its process has ended or no longer renews it. The next write
    to the store reports what is wrong with it.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("claim %s: cannot be removed (%s)", path, error)
