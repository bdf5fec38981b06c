"""Tries what each purifier declares, before its first cell; what passed is remembered in the store."""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console
from torch import Tensor

from data.digits_photos import DigitsPhotos
from data.errors import InputError
from data.images import Images, resized
from data.listing import Unread
from purifiers import checks
from purifiers.purifier import Purifier
from runners.cells.cell import Purifying
from runners.cells.components import Spec
from runners.store.store import Recipe, key_of
from runners.work.bench import Bench

log = logging.getLogger(__name__)

LARGE = 64  # pixels a side, from which half as many images must do


@dataclass
class Traits:
    """Reasons why a purifier must not be evaluated with a victim; each pair is tried once."""

    bench: Bench
    reasons: dict[str, str | None] = field(default_factory=dict)
    digits: Images | None = None
    passed: set[Hashable] = field(default_factory=set)  # trials, so that fits of other lengths have one

    def recipe(self, purifier: Spec, victim: Spec, like: Images | Unread) -> Recipe:
        """What the outcome is made from."""
        return {
            "stage": "traits",
            "purifier": purifier.identity,
            "victim": victim.identity,
            "shape": list(like.shape),
            "dataset": DigitsPhotos.version,
            "checks": checks.VERSION,
            "device": self.bench.device.type,
            "precision": self.bench.precision,
        }

    def untried(self, groups: list[Purifying]) -> list[tuple[Spec, Spec, Images | Unread]]:
        """The purifiers of these groups, each with its victim and a chunk, that did not pass yet."""
        found = {}
        for group in groups:
            victim, like = group.crafting.victim, group.crafting.chunk
            for purifier in group.purifiers:
                recipe = self.recipe(purifier, victim, like)
                name = key_of(recipe)
                if name not in found and name not in self.reasons and self.bench.store.get(recipe) is None:
                    found[name] = (purifier, victim, like)
        return list(found.values())

    def reason(self, purifier: Spec, victim: Spec, like: Images | Unread) -> str | None:
        """None where all checks passed before; else that of `attempt`."""
        return self.reasons.get(key_of(self.recipe(purifier, victim, like)))

    def sound(self, groups: list[Purifying], console: Console) -> tuple[list[Purifying], dict[str, str]]:
        """The groups without purifiers that break what they declare; those records' reasons."""
        with console.status("checking purifiers") as status:
            for purifier, victim, like in self.untried(groups):
                status.update(f"checking {purifier.config['_target_'].rpartition('.')[2]}")
                self.attempt(purifier, victim, like)
        failures: dict[str, str] = {}
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

    def attempt(self, purifier: Spec, victim: Spec, like: Images | Unread) -> None:
        """Run the checks, one process at a time. Only what passed is stored: what did not is tried again."""
        recipe = self.recipe(purifier, victim, like)
        store, what = self.bench.store, f"checking: {purifier.config['_target_'].rpartition('.')[2]}"
        with store.claims.alone(key_of(recipe), what):
            if store.get(recipe) is None:
                self._attempt(recipe, purifier, victim, like)

    def _attempt(self, recipe: Recipe, purifier: Spec, victim: Spec, like: Images | Unread) -> None:
        reason = None
        try:
            component, device = self.bench.component(purifier), self.bench.device
            trial = (_content(checks.shortened(component, device)), key_of(victim.identity), *like.shape[1:])
            if trial not in self.passed:
                checks.check(component, self.images(like.shape).to(device), self.bench.component(victim))
                self.passed.add(trial)
        except InputError:
            raise
        except checks.TraitError as error:
            reason = f"traits: {error}"
        except Exception as error:
            log.debug("checks failed", exc_info=True)
            text = str(error).splitlines()[0] if str(error) else "no message"
            reason = f"traits: {type(error).__name__}: {text}"
        self.reasons[key_of(recipe)] = reason
        if reason is None:
            self.bench.store.put(recipe, b"passed")

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
