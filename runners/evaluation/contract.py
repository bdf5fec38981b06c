"""Tries each victim and each purifier before its first cell; what passed is remembered in the store."""

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
from runners.evaluation.cell import Purifying
from runners.evaluation.component import Config, Spec
from runners.evaluation.failures import reason_of
from runners.evaluation.stages import Worker
from runners.store.store import Recipe, key_of
from victims import checks as victim_checks
from victims.checks import VictimError

log = logging.getLogger(__name__)

LARGE = 64  # pixels a side, from which half as many images must do


@dataclass
class Traits:
    """Reasons why a victim, or a purifier with a victim, must not be evaluated; each is tried once."""

    worker: Worker
    reasons: dict[str, str | None] = field(default_factory=dict)
    digits: Images | None = None
    passed: set[Hashable] = field(default_factory=set)  # trials, so that fits of other lengths have one

    def recipe(self, purifier: Spec, victim: Spec, like: Images | LazyImages) -> Recipe:
        """What the outcome is made from."""
        return {
            "stage": "traits",
            "purifier": purifier.identity,
            "victim": victim.identity,
            "shape": list(like.shape),
            "dataset": DigitsPhotos.version,
            "checks": checks.VERSION,
            "device": self.worker.device.type,
            "precision": self.worker.precision,
        }

    def recipe_of_victim(self, victim: Spec, like: Images | LazyImages) -> Recipe:
        """What the outcome of a victim's checks is made from."""
        return {
            "stage": "traits",
            "victim": victim.identity,
            "shape": list(like.shape),
            "dataset": DigitsPhotos.version,
            "victim_checks": victim_checks.VERSION,
            "device": self.worker.device.type,
            "precision": self.worker.precision,
        }

    def untried(self, groups: list[Purifying]) -> list[tuple[Spec, Spec, Images | LazyImages]]:
        """The purifiers of these groups, each with its victim and a chunk, that did not pass yet."""
        found = {}
        for group in groups:
            victim, like = group.crafting.victim, group.crafting.chunk
            for purifier in group.purifiers:
                recipe = self.recipe(purifier, victim, like)
                name = key_of(recipe)
                if name not in found and name not in self.reasons and self.worker.store.get(recipe) is None:
                    found[name] = (purifier, victim, like)
        return list(found.values())

    def reason(self, purifier: Spec, victim: Spec, like: Images | LazyImages) -> str | None:
        """None where all checks passed before; else that of `attempt`."""
        return self.reasons.get(key_of(self.recipe(purifier, victim, like)))

    def sound(self, groups: list[Purifying], console: Console) -> tuple[list[Purifying], dict[str, str]]:
        """The groups whose victims hold what they must, without purifiers that break what they declare; the
        reasons of the other records."""
        failures: dict[str, str] = {}
        with console.status("checking victims"):
            for group in groups:
                if (reason := self._of_victims(group)) is not None:
                    failures |= {key_of(group.records(purifier)): reason for purifier in group.purifiers}
        groups = [group for group in groups if key_of(group.records(group.purifiers[0])) not in failures]
        with console.status("checking purifiers") as status:
            for purifier, victim, like in self.untried(groups):
                status.update(f"checking {purifier.config['_target_'].rpartition('.')[2]}")
                self.attempt(purifier, victim, like)
        sound = []
        for group in groups:
            kept = []
            for purifier in group.purifiers:
                reason = self.reason(purifier, group.crafting.victim, group.crafting.chunk)
                if reason is None:
                    kept.append(purifier)
                else:
                    failures[key_of(group.records(purifier))] = reason
            if kept:
                sound.append(replace(group, purifiers=tuple(kept)))
        return sound, failures

    def _of_victims(self, group: Purifying) -> str | None:
        """The first reason against one of the classifiers that the group's images are shown to."""
        like = group.crafting.chunk
        reasons = (
            self._of_victim(victim, like) for victim in (group.crafting.victim, *group.crafting.others)
        )
        return next((reason for reason in reasons if reason is not None), None)

    def _of_victim(self, victim: Spec, like: Images | LazyImages) -> str | None:
        recipe = self.recipe_of_victim(victim, like)
        name = key_of(recipe)
        if name not in self.reasons and self.worker.store.get(recipe) is None:
            images = self.images(like.shape).to(self.worker.device)
            classes = 1 + int(like.labels.max())

            def check() -> None:
                victim_checks.check(self.worker.component(victim), images, classes=classes)

            self._keep(recipe, self._reason("victim", check, [victim.config]))
        return self.reasons.get(name)

    def attempt(self, purifier: Spec, victim: Spec, like: Images | LazyImages) -> None:
        """Run the checks, one process at a time. Only what passed is stored: what did not is tried again."""
        recipe = self.recipe(purifier, victim, like)
        store, what = self.worker.store, f"checking: {purifier.config['_target_'].rpartition('.')[2]}"
        with store.leases.alone(key_of(recipe), what):
            if store.get(recipe) is None:
                self._attempt(recipe, purifier, victim, like)

    def _attempt(self, recipe: Recipe, purifier: Spec, victim: Spec, like: Images | LazyImages) -> None:
        def check() -> None:
            component, device = self.worker.component(purifier), self.worker.device
            trial = (_content(checks.shortened(component)), key_of(victim.identity), *like.shape[1:])
            if trial not in self.passed:
                checks.check(component, self.images(like.shape).to(device), self.worker.component(victim))
                self.passed.add(trial)

        self._keep(recipe, self._reason("traits", check, [purifier.config, victim.config]))

    def _reason(self, what: str, check: Callable[[], None], configs: Sequence[Config]) -> str | None:
        """Why a check of the components of these configs is not passed, in one line."""
        try:
            check()
        except InputError:
            raise
        except (TraitError, VictimError) as error:
            return f"{what}: {error}"
        except (Exception, SystemExit) as error:
            log.debug("checks failed", exc_info=True)
            return f"{what}: {reason_of(error, configs)}"
        return None

    def _keep(self, recipe: Recipe, reason: str | None) -> None:
        """Remember the outcome; only what passed is stored."""
        self.reasons[key_of(recipe)] = reason
        if reason is None:
            self.worker.store.put(recipe, b"passed")

    def images(self, shape: Sequence[int]) -> Tensor:
        """Embedded images in the shape of the cell's."""
        if self.digits is None:
            self.digits = DigitsPhotos().load("tuning")
        channels, *size = shape
        images = resized(self.digits.images[: 8 if max(size) < LARGE else 4], size)
        if channels == images.shape[1]:
            return images
        return images.mean(1, keepdim=True).expand(-1, channels, -1, -1).contiguous()


def _content(short: Purifier) -> Hashable:
    """Equal for fits that differ only in how many steps they take; else a purifier's own."""
    content = (type(short), *vars(short).items())
    try:
        hash(content)
    except TypeError:
        return object()
    return content if short.fits else object()
