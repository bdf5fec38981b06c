"""Times an attack by starting it as the real task does and stopping it after a moment."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from attacks.attack import Attack
from attacks.target import Target

Passes = list[tuple[int, int]]  # forward and backward passes of each image


class _Stopped(BaseException):
    """Raised to stop an attack; no library catches it."""


@dataclass(frozen=True)
class Probe:
    """How far an attack came in a short time.

    Attributes:
        seconds: the seconds until it ended or was stopped.
        ended: whether it ended by itself.
        done: the passes until then.
        recent, recent_seconds: the passes of the second half of the moment, and how long they took.
    """

    seconds: float
    ended: bool
    done: Passes
    recent: Passes
    recent_seconds: float

    def left(self, forward: int, backward: int) -> tuple[int, int]:
        """Return the most forward and backward passes that the attack still takes.

        An image takes `forward` and `backward` passes in all at most. Images about which the attack did not
        ask in the second half of the moment are done.
        """
        active = [done for done, recent in zip(self.done, self.recent, strict=True) if recent[0]]
        return sum(max(forward - f, 0) for f, _ in active), sum(max(backward - b, 0) for _, b in active)


def probe(
    attack: Attack, target: Target, images: Tensor, labels: Tensor, seeds: Sequence[int], *, moment: float
) -> Probe:
    """Start the attack on these images, and stop it after `moment` seconds. Raises what the attack raises."""
    start = time.perf_counter()
    since, before = start, _passes(target)

    def asked() -> None:
        nonlocal since, before
        now = time.perf_counter()
        if now - start > moment and _passes(target) != before:
            raise _Stopped
        if since == start and now - start > moment / 2:
            since, before = now, _passes(target)

    target.before_answering = asked
    try:
        attack(target, images, labels, seeds=seeds)
        ended = True
    except _Stopped:
        ended = False
    now, done = time.perf_counter(), _passes(target)
    recent = [(f - f0, b - b0) for (f, b), (f0, b0) in zip(done, before, strict=True)]
    return Probe(now - start, ended, done, recent, now - since)


def _passes(target: Target) -> Passes:
    return [(counts.forward, counts.backward) for counts in target.counts]
