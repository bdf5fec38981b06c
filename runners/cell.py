"""Cells and the work that they need: which artefacts, made from what."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data.images import Images
from runners.components import Config, Spec, identity
from runners.store import Recipe, key_of

PARTS = ("dataset", "victim", "attack", "knowledge", "purifier")
SCORING = 2  # raised when what a record holds changes


@dataclass(frozen=True)
class Cell:
    """One dataset x victim x attack x knowledge x purifier; names and configs by part."""

    names: dict[str, str]
    configs: dict[str, Config]
    command: str  # evaluates this cell alone

    @property
    def label(self) -> str:
        """For people: dataset/victim/attack/knowledge/purifier."""
        return "/".join(self.names[part] for part in PARTS)


@dataclass(frozen=True)
class Crafting:
    """Adversarial examples of one chunk; shared by all purifiers of a blind attack."""

    chunk: Images
    victim: Spec
    attack: Config
    knowledge: Config
    seed: int
    precision: str

    @property
    def recipe(self) -> Recipe:
        """What they are made from."""
        return {
            "stage": "adversarial",
            "images": self.chunk.digest,
            "victim": self.victim.identity,
            "attack": identity(self.attack),
            "knowledge": identity(self.knowledge),
            "seed": self.seed,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Purifying:
    """Purified images and records of one chunk under purifiers with one shared run."""

    crafting: Crafting
    purifiers: tuple[Spec, ...]

    def purified(self, purifier: Spec) -> Recipe:
        """What the purified images are made from."""
        return {
            "stage": "purified",
            "adversarial": key_of(self.crafting.recipe),
            "purifier": purifier.identity,
            "victim": self.crafting.victim.identity,
            "seed": self.crafting.seed,
            "precision": self.crafting.precision,
        }

    def records(self, purifier: Spec) -> Recipe:
        """What the records are made from."""
        return {
            "stage": "records",
            "purified": key_of(self.purified(purifier)),
            "victim": self.crafting.victim.identity,
            "scoring": SCORING,
            "precision": self.crafting.precision,
        }


def craftings(
    cell: Cell, victim: Spec, chunks: Iterable[Images], *, seed: int, precision: str
) -> list[Crafting]:
    """The chunks of a cell's adversarial examples, in order."""
    attack, knowledge = cell.configs["attack"], cell.configs["knowledge"]
    return [Crafting(chunk, victim, attack, knowledge, seed, precision) for chunk in chunks]


def describe(cell: Cell) -> dict[str, Any]:
    """The cell's columns in assembled records."""
    attack = cell.configs["attack"]
    return {**cell.names, "eps": attack.get("eps"), "command": cell.command}
