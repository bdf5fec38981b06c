"""DIPDefend: Dai et al. 2020, DIPDefend: Deep Image Prior Driven Defense against Adversarial
Examples. https://doi.org/10.1145/3394171.3413898
"""

import torch
from torch import Tensor, nn

from data.errors import InputError
from purifiers.fitting.trace import Iterate, Readout, Trace, TracePurifier


class DIPDefend(TracePurifier):
    """Returns the reconstruction at the peak of the smoothed PSNR curve.

    The PSNR to the attacked image rises fast at first, then slowly. Second-order exponential
    smoothing overshoots that bend, and its highest point marks where to stop. All steps are run, as in
    the released code. The result of an image whose curve never peaks is its last reconstruction.

    Args:
        trace: the optimisation.
        steps: number of iterations.
        smoothing: weight of the newest value, both for the level and for the trend.
    """

    version = 1

    def __init__(self, *, trace: Trace, steps: int = 1000, smoothing: float = 0.002) -> None:
        super().__init__(trace=trace, steps=steps)
        if not 0 < smoothing < 1:
            raise InputError(f"purifier.smoothing: expected between 0 and 1, got {smoothing}")
        self.smoothing = smoothing

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Return a readout that smooths the PSNR and keeps the reconstruction at its highest value."""
        return _Peak(self.smoothing)


class _Peak:
    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def see(self, iterate: Iterate) -> None:
        psnr, weight = iterate.psnr.double(), self.smoothing
        if iterate.step == 0:
            self.level, self.highest = psnr, psnr
            self.best, self.peaked = iterate.images, torch.zeros_like(psnr, dtype=torch.bool)
            return
        if iterate.step == 1:
            self.trend = psnr - self.level
        before = self.level
        self.level = weight * psnr + (1 - weight) * (before + self.trend)
        if iterate.step > 1:
            self.trend = weight * (self.level - before) + (1 - weight) * self.trend
            higher = self.level > self.highest
            self.peaked |= higher
            kept = higher | ~self.peaked  # until the curve peaks, the newest reconstruction is kept
            self.best = torch.where(kept.view(-1, 1, 1, 1), iterate.images, self.best)
        self.highest = torch.maximum(self.highest, self.level)

    def result(self) -> Tensor:
        return self.best
