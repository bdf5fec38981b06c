"""Purification against another classifier: Ding et al. 2021, Delving into Deep Image Prior for
Adversarial Defense, Appendix E. https://arxiv.org/abs/2108.00180
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from data.errors import InputError
from purifiers.purifier import Purifier
from purifiers.wrapper import Wrapper


class SurrogateVictim(Wrapper):
    """Another purifier, which is given a classifier of its own instead of the victim.

    Args:
        purifier: a purifier that reads a classifier's outputs and has no weights of its own.
        victim: that classifier. It takes the same images; its labels may differ from the victim's.
    """

    version = 1

    def __init__(self, *, purifier: Purifier, victim: nn.Module) -> None:
        if not purifier.uses_victim or getattr(purifier, "weights", None) is not None:
            raise InputError(
                "purifier.purifier: expected one that reads a classifier's outputs and has no weights, "
                f"got {type(purifier).__name__}"
            )
        super().__init__(purifier=purifier)
        self.victim, self.uses_victim = victim, False

    @property
    def weights(self) -> Any:
        """The weights of the classifier."""
        return self.victim.weights

    def load_frozen(self, state: Mapping[str, Tensor]) -> Self:
        """Fix the classifier's weights."""
        self.victim.load_frozen(state)
        return self

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images that the purifier makes for its own classifier."""
        return self.purifier.purify(images, seeds, self.victim.to(images.device))
