"""What the attacker knows."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn


class Knowledge(ABC):
    """Turns a cell's victim into the model that an attack sees.

    Attributes:
        uses_purifier: whether the purifier has a part in crafting; where it has none, one set of
            adversarial examples serves all purifiers.
    """

    version: ClassVar[int] = 1
    uses_purifier: ClassVar[bool]

    @abstractmethod
    def model(self, victim: nn.Module) -> nn.Module:
        """Images to logits, as far as the attacker can see."""


class Blind(Knowledge):
    """The victim with its weights, no purifier (the papers' white-box or gray-box)."""

    uses_purifier = False

    def model(self, victim: nn.Module) -> nn.Module:
        """The bare victim."""
        return victim
