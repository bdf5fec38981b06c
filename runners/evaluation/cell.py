"""A cell: one data set, victim, attack, knowledge and purifier."""

from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class

from attacks.knowledge import Kind
from runners.evaluation.component import Config

PARTS = ("dataset", "victim", "attack", "knowledge", "purifier")


@dataclass(frozen=True)
class Cell:
    """One data set x victim x attack x knowledge x purifier, with the name and the config of each part."""

    names: dict[str, str]
    configs: dict[str, Config]
    command: str  # the command that evaluates this cell alone

    @property
    def label(self) -> str:
        """The readable name of the cell: dataset/victim/attack/knowledge/purifier."""
        return "/".join(self.names[part] for part in PARTS)

    @property
    def eps(self) -> str:
        """The bound of the attack as text: "eps 8/255", "l2 eps 5", or empty if it has none."""
        attack = self.configs["attack"]
        if not isinstance(eps := attack.get("eps"), float | int) or not eps:
            return ""
        return f"l2 eps {eps:g}" if attack.get("norm") == "l2" else f"eps {eps * 255:g}/255"

    @property
    def knowledge(self) -> Config:
        """The config of the attacker's knowledge, without the classifiers of a transfer attack."""
        return {name: item for name, item in self.configs["knowledge"].items() if name != "victims"}

    @property
    def knowledge_kind(self) -> Kind:
        """The kind of attacker that the class of the knowledge declares, whatever the name of its config."""
        return get_class(self.configs["knowledge"]["_target_"]).declared_kind()

    @property
    def undefended(self) -> bool:
        """Whether the purifier changes nothing, so that the cell evaluates the undefended victim."""
        return get_class(self.configs["purifier"]["_target_"]).changes_nothing

    @property
    def surrogates(self) -> dict[str, Config]:
        """The configs of the classifiers that a transfer attack knows instead of the victim, by name."""
        return self.configs["knowledge"].get("victims", {})


def describe(cell: Cell) -> dict[str, Any]:
    """Return the columns that describe the cell in assembled records."""
    attack = cell.configs["attack"]
    return {**cell.names, "eps": attack.get("eps"), "command": cell.command}
