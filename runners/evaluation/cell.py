"""Cells and the work that they need: which artefacts, made from what."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.utils import get_class

from attacks.knowledge import Kind
from data.images import Images
from data.listing import LazyImages
from runners.evaluation.component import Config, Spec
from runners.evaluation.identity import identity
from runners.evaluation.own_state import state_behind
from runners.store.store import Recipe, key_of

PARTS = ("dataset", "victim", "attack", "knowledge", "purifier")
SCORING = 9  # raised when what a record holds changes


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

    @property
    def eps(self) -> str:
        """The attack's ball for people: "eps 8/255", "l2 eps 5", or nothing."""
        attack = self.configs["attack"]
        if not isinstance(eps := attack.get("eps"), float | int) or not eps:
            return ""
        return f"l2 eps {eps:g}" if attack.get("norm") == "l2" else f"eps {eps * 255:g}/255"

    @property
    def knowledge(self) -> Config:
        """Of the attacker, without the other classifiers that it knows."""
        return {name: item for name, item in self.configs["knowledge"].items() if name != "victims"}

    @property
    def knowledge_kind(self) -> Kind:
        """Which kind of attacker the class of the knowledge declares to be, whatever its config is called."""
        return get_class(self.configs["knowledge"]["_target_"]).declared_kind()

    @property
    def undefended(self) -> bool:
        """Whether the purifier changes nothing, so that the cell is one of the bare victim."""
        return get_class(self.configs["purifier"]["_target_"]).changes_nothing

    @property
    def others(self) -> dict[str, Config]:
        """The classifiers that a transfer attack knows instead of the victim, by their names."""
        return self.configs["knowledge"].get("victims", {})


@dataclass(frozen=True)
class Crafting:
    """Adversarial examples of one chunk; shared by all cells whose attacker sees the same.

    `seen` is the purifier if it has a part in crafting; `others` are a transfer attack's classifiers.
    """

    chunk: Images | LazyImages
    victim: Spec
    attack: Config
    knowledge: Config
    seen: Spec | None
    others: tuple[Spec, ...]
    seed: int
    precision: str

    @property
    def clean(self) -> Recipe:
        """The name of the clean images, kept for those who look at results."""
        return {"stage": "clean", "images": self.chunk.digest}

    @cached_property
    def recipe(self) -> Recipe:
        """What they are made from."""
        made_of = {"images": self.chunk.digest, "attack": identity(self.attack), "seed": self.seed}
        if (state := state_behind(self.attack)) is not None:
            made_of["attack_state"] = state
        if get_class(self.attack["_target_"]).needs is not None:  # else nothing is asked
            made_of["knowledge"] = identity(self.knowledge)
            if get_class(self.knowledge["_target_"]).uses_victim:
                made_of["victim"] = self.victim.identity
            if self.seen is not None:
                made_of["purifier"] = self.seen.identity
            if self.others:
                made_of["others"] = [other.identity for other in self.others]
        return {"stage": "adversarial", **made_of, "precision": self.precision}

    @cached_property
    def key(self) -> str:
        """The work's name, which is the artefact's."""
        return key_of(self.recipe)


@dataclass(frozen=True)
class Purifying:
    """Purified images and records of one chunk under purifiers with one shared run."""

    crafting: Crafting
    purifiers: tuple[Spec, ...]
    draws: int = 1  # fresh ones of a random purifier, each scored
    images: bool = False  # purified images are made again where only they are missing

    @cached_property
    def key(self) -> str:
        """The work's name: the same for all groups with a purifier off the same run."""
        config = self.purifiers[0].config
        run = identity(config["trace"]) if "trace" in config else self.purifiers[0].identity
        return key_of(
            {
                "stage": "purifying",
                "adversarial": self.crafting.key,
                "victim": self.crafting.victim.identity,
                "run": run,
            }
        )

    def purified(self, purifier: Spec) -> Recipe:
        """What the purified images are made from."""
        return {
            "stage": "purified",
            "adversarial": self.crafting.key,
            "purifier": purifier.identity,
            "victim": self.crafting.victim.identity,
            "seed": self.crafting.seed,
            "precision": self.crafting.precision,
            "draws": self.draws,
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


def describe(cell: Cell) -> dict[str, Any]:
    """The cell's columns in assembled records."""
    attack = cell.configs["attack"]
    return {**cell.names, "eps": attack.get("eps"), "command": cell.command}
