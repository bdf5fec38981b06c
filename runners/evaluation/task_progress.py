"""How far a task or a training has come.

The process that does the work writes this into the store; the one that draws the progress bar reads it.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from attacks.attack import Attack
from attacks.target import Target
from data.errors import InputError
from runners.store.artifact import Artifact
from runners.store.store import Store

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two reports


class Reached(NamedTuple):
    """How far a task or a training has come.

    Args:
        share: what is done, in [0, 1].
        activity: what a task's attack is doing; empty if the attack has no parts.
        left: the seconds that remain, if they are known.
    """

    share: float = 0.0
    activity: str = ""
    left: float | None = None


def reached_by(attack: Attack, target: Target) -> Reached:
    """Return how far an attack has come: the share of its declared passes that an image has taken.

    Images are attacked in step, so this is the share of the image that has taken the most passes. An image
    that falls early takes fewer, and the others do not wait for it.
    """
    declared = target.eot * (attack.forward + attack.backward)
    taken = max((count.forward + count.backward for count in target.counts), default=0)
    return Reached(min(1.0, taken / declared) if declared else 0.0, attack.activity)


@contextmanager
def reported(store: Store, key: str, reached: Callable[[], Reached]) -> Iterator[None]:
    """Write what `reached` returns every few seconds while the code inside does the task of this key."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(EVERY):
            try:
                write_reached(store, key, reached())
            except InputError as error:  # a full disk ends the run where results are written, not here
                log.debug("progress of a task: %s", error)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        forget_reached(store, key)


def _artifact(key: str) -> Artifact:
    return Artifact("progress", {"of": key})


def write_reached(store: Store, key: str, reached: Reached) -> None:
    """Replace the report about the work with this key."""
    store.put(_artifact(key), json.dumps(reached).encode())


def reached_of(store: Store, key: str) -> Reached:
    """Return the last report about the work with this key."""
    content = store.get(_artifact(key))
    return Reached() if content is None else Reached(*json.loads(content))


def forget_reached(store: Store, key: str) -> None:
    """Remove the report about the work with this key, which has ended."""
    store.remove(_artifact(key))
