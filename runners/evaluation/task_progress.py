"""How far a task has come while it is done: the process that does it writes this into the store, where the
process that draws the progress bar reads it."""

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

EVERY = 5.0  # seconds between two reports of a task


class Reached(NamedTuple):
    """The share of a task that is done, and what its attack is doing; empty if the attack has no parts."""

    share: float = 0.0
    activity: str = ""


def reached_by(attack: Attack, target: Target) -> Reached:
    """How far an attack has come, by the passes that it has taken of those that it declares.

    An image that falls early takes fewer passes, so this is a lower bound.
    """
    declared = target.eot * (attack.forward + attack.backward) * len(target.counts)
    taken = sum(count.forward + count.backward for count in target.counts)
    return Reached(min(1.0, taken / declared) if declared else 0.0, attack.activity)


@contextmanager
def reported(store: Store, key: str, reached: Callable[[], Reached]) -> Iterator[None]:
    """Write what `reached` returns every few seconds while the task of this key is done."""
    artifact, ended = Artifact("progress", {"of": key}), threading.Event()

    def report() -> None:
        while not ended.wait(EVERY):
            try:
                store.put(artifact, json.dumps(reached()).encode())
            except InputError as error:  # a full disk ends the run where results are written, not here
                log.debug("progress of a task: %s", error)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        store.remove(artifact)


def reached_of(store: Store, key: str) -> Reached:
    """Return the last report about the task of this key."""
    content = store.get(Artifact("progress", {"of": key}))
    return Reached() if content is None else Reached(*json.loads(content))
