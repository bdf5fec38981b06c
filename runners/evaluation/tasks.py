"""The two kinds of tasks for one chunk of images: to craft adversarial examples, and to purify them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from data.images import Images
from data.listing import LazyImages
from runners.evaluation.component import Component, Config, seed_of
from runners.evaluation.own_state import state_behind
from runners.store.artifact import Artifact, key_of
from runners.store.store import Store

SCORING = 9  # version of the records, raised when their content changes


@dataclass(frozen=True)
class Crafting:
    """Crafts adversarial examples, which are shared by all cells whose attackers see the same.

    Args:
        chunk: the clean images.
        purifier: the purifier, if the attacker sees it.
        surrogates: the classifiers that a transfer attack sees instead of the victim.
    """

    chunk: Images | LazyImages
    victim: Component
    attack: Component
    knowledge: Component
    purifier: Component | None
    surrogates: tuple[Component, ...]
    seed: int
    precision: str

    @property
    def clean(self) -> Artifact:
        """The artifact of the clean images, which the report shows."""
        return Artifact("clean", {"images": self.chunk.digest})

    @cached_property
    def artifact(self) -> Artifact:
        inputs = {"images": self.chunk.digest, "attack": self.attack.identity, "seed": self.seed}
        for name, part in (("attack", self.attack), ("knowledge", self.knowledge)):
            if (state := state_behind(part.config)) is not None:
                inputs[f"{name}_state"] = state
        if self.attack.declared.needs is not None:  # otherwise the attack asks nothing
            inputs["knowledge"] = self.knowledge.identity
            if self.knowledge.declared.uses_victim:
                inputs["victim"] = self.victim.identity
            if self.purifier is not None:
                inputs["purifier"] = self.purifier.identity
            if self.surrogates:
                inputs["others"] = [surrogate.identity for surrogate in self.surrogates]
        return Artifact("adversarial", {**inputs, "precision": self.precision})

    @property
    def key(self) -> str:
        """The name of the task, which is the key of its artifact."""
        return self.artifact.key

    @property
    def classifiers(self) -> tuple[Component, ...]:
        """The victim and the surrogates, which are all classifiers of the task."""
        return self.victim, *self.surrogates

    def seeds(self, stage: str, draw: int = 0) -> list[int]:
        """Return the seed of each image's draws in one stage."""
        return [seed_of(self.seed, image_id, stage, draw) for image_id in self.chunk.ids]

    @property
    def configs(self) -> list[Config]:
        """The configs of all components that take part."""
        parts = [self.attack, self.knowledge, *self.classifiers]
        return [part.config for part in (*parts, *([] if self.purifier is None else [self.purifier]))]

    @property
    def images(self) -> str:
        """The ids of the first and the last image, as text."""
        first, last = self.chunk.ids[0], self.chunk.ids[-1]
        return first if first == last else f"{first} to {last}"

    @property
    def part(self) -> str:
        """The kind of work as text: the attack, and what it attacks."""
        return f"{self.attack.name} on {'the victim' if self.purifier is None else self.purifier.name}"

    @property
    def label(self) -> str:
        """A readable description of the task."""
        return f"{self.part}: {self.images}"

    @property
    def results(self) -> list[str]:
        """The keys of the results, under which failures are kept."""
        return [self.key]

    def missing(self, store: Store) -> list[str]:
        """Return the keys of the results that the store lacks."""
        return [] if store.has(self.artifact) else [self.key]


@dataclass(frozen=True)
class Purifying:
    """Purifies adversarial examples with purifiers that share a run, and scores the results.

    Args:
        draws: how many fresh draws of a random purifier are scored.
        keep_images: whether purified images are made again if only they are missing.
    """

    crafting: Crafting
    purifiers: tuple[Component, ...]
    draws: int = 1
    keep_images: bool = False

    @cached_property
    def key(self) -> str:
        """The name of the task, which is the same for all tasks that contain this run."""
        crafting, run = self.crafting, self.purifiers[0].run_key
        return key_of({"adversarial": crafting.key, "victim": crafting.victim.identity, "run": run})

    def purified(self, purifier: Component) -> Artifact:
        inputs = {
            "adversarial": self.crafting.key,
            "purifier": purifier.identity,
            "victim": self.crafting.victim.identity,
            "seed": self.crafting.seed,
            "precision": self.crafting.precision,
            "draws": self.draws,
        }
        return Artifact("purified", inputs)

    def records(self, purifier: Component) -> Artifact:
        inputs = {
            "purified": self.purified(purifier).key,
            "victim": self.crafting.victim.identity,
            "scoring": SCORING,
            "precision": self.crafting.precision,
        }
        return Artifact("records", inputs)

    @property
    def configs(self) -> list[Config]:
        """The configs of all components that take part."""
        return [*self.crafting.configs, *(purifier.config for purifier in self.purifiers)]

    @property
    def images(self) -> str:
        """The ids of the first and the last image, as text."""
        return self.crafting.images

    @property
    def part(self) -> str:
        """The kind of work as text: the names of the purifiers."""
        return ", ".join(purifier.name for purifier in self.purifiers)

    @property
    def label(self) -> str:
        """A readable description of the task."""
        return f"{self.part}: {self.images}"

    @property
    def results(self) -> list[str]:
        """The keys of the results, under which failures are kept."""
        return [self.records(purifier).key for purifier in self.purifiers]

    def of_images(self, ids: Collection[str]) -> "Purifying | None":
        """Return the task for only those images that have one of these ids, or None if there are none."""
        chunk = self.crafting.chunk
        rows = [i for i, name in enumerate(chunk.ids) if name in ids]
        return replace(self, crafting=replace(self.crafting, chunk=chunk.take(rows))) if rows else None

    def missing(self, store: Store) -> list[str]:
        """Return the keys of the records for which the store lacks something."""
        return [
            self.records(purifier).key
            for purifier in self.purifiers
            if not store.has(self.records(purifier))
            or (self.keep_images and not store.has(self.purified(purifier)))
        ]

    def keys(self, purifier: Component) -> list[str]:
        """Return the keys of the crafting, the task, the purified images and the records, as in manifests."""
        return [self.crafting.key, self.key, self.purified(purifier).key, self.records(purifier).key]


Task = Crafting | Purifying


def grouped(tasks: Sequence[Purifying]) -> list[Purifying]:
    """Join the tasks that share a run on the same images into one, which has each purifier once."""
    groups: dict[str, list[Purifying]] = {}
    for task in tasks:
        groups.setdefault(task.key, []).append(task)
    joined = []
    for group in groups.values():
        purifiers = {purifier.key: purifier for task in group for purifier in task.purifiers}
        first = group[0]
        joined.append(Purifying(first.crafting, tuple(purifiers.values()), first.draws, first.keep_images))
    return joined
