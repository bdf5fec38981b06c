"""No defense: the purifier that changes nothing."""

from collections.abc import Sequence

from torch import Tensor, nn

from purifiers.purifier import Purifier


class Identity(Purifier):
    """Returns its input. In a table, its row is the undefended victim."""

    version = 1
    changes_nothing = True
    gradient = "exact"

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images as they are."""
        return images
