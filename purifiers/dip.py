"""DIP with a fixed number of steps: Ulyanov et al. 2018, Deep Image Prior,
https://arxiv.org/abs/1711.10925; as a defense Kattamis et al. 2019, Exploring Properties of the
Deep Image Prior.
"""

from torch import Tensor, nn

from purifiers.trace import Iterate, Readout, Trace, TracePurifier


class DIP(TracePurifier):
    """The last reconstruction of an optimisation stopped after `steps` iterations.

    Args:
        trace: how the optimisation runs.
        steps: where it stops; too late, and the adversarial noise is back.
    """

    def __init__(self, *, trace: Trace, steps: int) -> None:
        super().__init__(trace=trace, steps=steps)

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Keeps the newest reconstruction."""
        return _Newest()


class _Newest:
    images: Tensor

    def see(self, iterate: Iterate) -> None:
        self.images = iterate.images

    def result(self) -> Tensor:
        return self.images
