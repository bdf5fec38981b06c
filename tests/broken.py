"""Purifiers that misbehave, named by the configs of test_grid.py."""

import multiprocessing
import os
from collections.abc import Sequence

from torch import Tensor, nn

from purifiers.purifier import Purifier


class Raises(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        raise ZeroDivisionError("on purpose")


class MakesNaN(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images / 0


class Dies(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if multiprocessing.parent_process() is not None:  # not in the process that runs the tests
            os.kill(os.getpid(), 9)
        return images


class Quantises(Purifier):
    """Kills the gradient: that of rounding is zero, which is right almost everywhere and leads nowhere."""

    gradient = "exact"

    def purify(self, images, seeds, victim):
        return (images * 32).round() / 32
