"""Checks of every victim and purifier before its first cell; the store remembers which ones passed."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console
from torch import Tensor

from data.digits_photos import DigitsPhotos
from data.errors import InputError
from data.images import Images, resized
from data.listing import LazyImages
from purifiers.contract import checks
from purifiers.contract.trial import TraitError
from purifiers.purifier import Purifier
from runners.evaluation.component import Component
from runners.evaluation.failures import reason_of
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting, Purifying
from runners.evaluation.time_limit import limited
from runners.store.artifact import Artifact
from victims import checks as victim_checks
from victims.checks import VictimError

log = logging.getLogger(__name__)

LARGE = 64  # pixels per side; from this size on, half as many images are used


@dataclass
class ContractChecks:
    """Checks each victim, and each purifier with its victim, once before it is evaluated."""

    worker: Worker
    console: Console
    reasons: dict[str, str | None] = field(default_factory=dict)  # by the keys of artifacts; None: passed
    digits: Images | None = None
    passed: set[Hashable] = field(default_factory=set)  # fits that differ only in length are checked once

    def artifacts(self, task: Purifying, purifier: Component) -> list[Artifact]:
        """Return the artifacts that record the passed checks of a task with this purifier."""
        victims = [self._victim_artifact(victim, task.crafting.chunk) for victim in task.crafting.classifiers]
        return [*victims, self._purifier_artifact(task.crafting, purifier)]

    def sound(self, tasks: Sequence[Purifying]) -> tuple[list[Purifying], dict[str, str]]:
        """Return the tasks whose components pass their checks, and the reasons why the others do not.

        The reasons are keyed by the records that cannot be made.
        """
        sound, reasons = [], {}
        with self.console.status("checking victims and purifiers"):
            for task in tasks:
                victims = (self._check_victim(v, task.crafting.chunk) for v in task.crafting.classifiers)
                broken = next((reason for reason in victims if reason is not None), None)
                passed = []
                for purifier in task.purifiers:
                    reason = broken or self._check_purifier(task.crafting, purifier)
                    if reason is None:
                        passed.append(purifier)
                    else:
                        reasons[task.records(purifier).key] = reason
                if passed:
                    sound.append(replace(task, purifiers=tuple(passed)))
        return sound, reasons

    def _purifier_artifact(self, crafting: Crafting, purifier: Component) -> Artifact:
        about = {"purifier": purifier.identity, "victim": crafting.victim.identity, "checks": checks.VERSION}
        return self._artifact(crafting.chunk, about)

    def _victim_artifact(self, victim: Component, like: Images | LazyImages) -> Artifact:
        return self._artifact(like, {"victim": victim.identity, "victim_checks": victim_checks.VERSION})

    def _artifact(self, like: Images | LazyImages, about: dict) -> Artifact:
        inputs = {
            "shape": list(like.shape),
            "dataset": DigitsPhotos.version,
            "device": self.worker.device.type,
            "precision": self.worker.precision,
        }
        return Artifact("traits", about | inputs)

    def _check_victim(self, victim: Component, like: Images | LazyImages) -> str | None:
        artifact, needed = self._victim_artifact(victim, like), 1 + int(like.labels.max())

        def check() -> bytes:
            images = self.images(like.shape).to(self.worker.device)
            return str(victim_checks.check(self.worker.load(victim), images, classes=1)).encode()

        reason = self._reason(artifact, "victim", check, [victim])
        held = self.worker.store.get(artifact) or b""
        if reason is None and held.isdigit() and (classes := int(held)) < needed:
            return f"victim: expected at least {needed} classes, as the labels need, got {classes} classes"
        return reason

    def _check_purifier(self, crafting: Crafting, purifier: Component) -> str | None:
        like, victim, device = crafting.chunk, crafting.victim, self.worker.device

        def check() -> bytes:
            loaded = self.worker.load(purifier)
            trial = (_content(checks.shortened(loaded)), victim.key, *like.shape[1:])
            if trial not in self.passed:
                checks.check(loaded, self.images(like.shape).to(device), self.worker.load(victim))
                self.passed.add(trial)
            return b"passed"

        return self._reason(self._purifier_artifact(crafting, purifier), "traits", check, [purifier, victim])

    def _reason(
        self, artifact: Artifact, what: str, check: Callable[[], bytes], components: Sequence[Component]
    ) -> str | None:
        """Return in one line why these components fail a check, or None if they pass.

        Only one process checks at a time. Only what a passed check returns is stored; a failed one is
        repeated.
        """
        store = self.worker.store
        if artifact.key not in self.reasons and store.get(artifact) is None:
            with store.leases.alone(artifact.key, f"checking: {components[0].name}"):
                reason = None
                if store.get(artifact) is None:
                    passed, reason = _tried(what, check, components, self.worker.chunk_seconds)
                    if reason is None:
                        store.put(artifact, passed)
                self.reasons[artifact.key] = reason
        return self.reasons.get(artifact.key)

    def images(self, shape: Sequence[int]) -> Tensor:
        """Return images of the embedded data set in the shape (C, H, W) of the cell's images."""
        if self.digits is None:
            self.digits = DigitsPhotos().load("tuning")
        channels, *size = shape
        images = resized(self.digits.images[: 8 if max(size) < LARGE else 4], size)
        if channels == images.shape[1]:
            return images
        return images.mean(1, keepdim=True).expand(-1, channels, -1, -1).contiguous()


def _tried(
    what: str, check: Callable[[], bytes], components: Sequence[Component], seconds: float | None
) -> tuple[bytes, str | None]:
    """Run a check for at most so many seconds; return what it returns, and the reason if it fails."""
    try:
        with limited(seconds):
            return check(), None
    except InputError:
        raise
    except (TraitError, VictimError) as error:
        return b"", f"{what}: {error}"
    except (Exception, SystemExit) as error:
        log.debug("checks failed", exc_info=True)
        return b"", f"{what}: {reason_of(error, [component.config for component in components])}"


def _content(short: Purifier) -> Hashable:
    """Return a key for a shortened purifier.

    It is equal for fits that differ only in their number of steps; any other purifier has a key of its own.
    """
    content = (type(short), *vars(short).items())
    try:
        hash(content)
    except TypeError:
        return object()
    return content if short.per_image_optimization else object()
