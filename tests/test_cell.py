"""What a cell is depends on the classes of its configs, and never on the names of their files."""

import pytest

from attacks.knowledge import MEANING, Blind, Knowledge
from data.errors import InputError
from runners.evaluation.cell import Cell


def cell(knowledge: str, purifier: str) -> Cell:
    """Return a cell of configs that a user named as they liked."""
    targets = {"knowledge": f"attacks.knowledge.{knowledge}", "purifier": f"purifiers.{purifier}"}
    return Cell(
        dict.fromkeys(targets, "none"), {part: {"_target_": target} for part, target in targets.items()}, ""
    )


@pytest.mark.parametrize("knowledge", ["Blind", "Transfer", "BPDA", "Full", "Score", "Decision"])
def test_the_kind_of_knowledge_is_that_of_the_class(knowledge):
    assert cell(knowledge, "jpeg.JPEG").knowledge_kind == knowledge.lower()
    assert knowledge.lower() in MEANING


@pytest.mark.parametrize(
    ("purifier", "undefended"),
    [("identity.Identity", True), ("jpeg.JPEG", False), ("dynamic.Dynamic", False)],
)
def test_a_defense_is_bare_where_its_purifier_changes_nothing(purifier, undefended):
    assert cell("Blind", purifier).undefended == undefended


class Blinded(Blind):
    """Blind knowledge of a user's own class."""


class Unkind(Knowledge):
    """Knowledge whose author declared no kind."""

    def view(self, victim, purifier, others):
        return lambda images, seeds: victim(images)


def test_a_class_of_the_users_own_is_of_the_kind_that_it_inherits_or_declares():
    assert Blinded.declared_kind() == "blind"
    with pytest.raises(InputError, match="knowledge Unkind: expected a class whose kind is one of blind, "):
        Unkind.declared_kind()
