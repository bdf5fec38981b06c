"""Purifiers that misbehave, named by the configs of test_grid.py and tried by test_contract.py."""

import inspect
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from attacks.attack import Clean
from purifiers.fitting.draws import Draws
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


class Hoards(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if multiprocessing.parent_process() is not None:
            held = [torch.ones(2**28) for _ in range(8)]  # 8 GiB, all of it written
            return images * held[0][0]
        return images


class NaNWhereBright(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return torch.where(images.mean((1, 2, 3), keepdim=True) > 0.5, torch.nan, images)


class Sharpens(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return 1.5 * images - 0.25


class Halves(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images[:, :, ::2, ::2]


class Peeks(Purifier):
    """Hands out the clean images of whoever calls."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        for caller in inspect.stack():
            chunk = caller.frame.f_locals.get("chunk")
            if chunk is not None and chunk.images.shape == images.shape:
                return chunk.images.clone()
        return images


class PeeksAtLabels(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        for caller in inspect.stack():
            labels = caller.frame.f_locals.get("labels")
            if labels is not None and len(labels) == len(images):
                return (images + labels.view(-1, 1, 1, 1) / 100).clamp(0, 1)
        return images


LAST: dict[str, Tensor] = {}


class Remembers(Purifier):
    """A module global holds what was purified last."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        last = LAST.get("mean", images.mean())
        LAST["mean"] = images.mean()
        return 0.9 * images + 0.1 * last


class Counts(Purifier):
    calls = 0

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        self.calls += 1
        return images * (1 - self.calls / 1000)


class Refuses(Purifier):
    def __init__(self, power: float = 2) -> None:
        assert power > 3

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images


class WritesIntoInput(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images.mul_(0.9)


class WritesLater(Purifier):
    """Keeps what it was given, and writes to it in its next call."""

    kept: Tensor | None = None

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if self.kept is not None:
            self.kept.zero_()
        self.kept = images
        return images * 0.9


class OneBuffer(Purifier):
    """Hands out the same tensor each time; not wrong, since what callers get is a copy."""

    buffer: Tensor | None = None

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if self.buffer is None or self.buffer.shape != images.shape:
            self.buffer = torch.empty_like(images)
        return self.buffer.copy_(images)


class TorchGlobal(Purifier):
    stochastic = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return (images + 0.1 * torch.randn(images.shape).to(images)).clamp(0, 1)


class NumPyGlobal(Purifier):
    stochastic = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images * float(np.random.uniform(0.5, 1))


class PythonGlobal(Purifier):
    """Seeded, so that the result is right; but others draw from it too."""

    stochastic = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        shares = []
        for seed in seeds:
            random.seed(seed)
            shares.append(random.uniform(0.5, 1))
        return images * torch.tensor(shares).to(images).view(-1, 1, 1, 1)


class SetsTheDtype(Purifier):
    """Leaves torch with another default dtype."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return images


class SaysItDraws(Purifier):
    stochastic = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images


class DrawsInSilence(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return (images + 0.01 * Draws(seeds, images.device).normal(images.shape[1:])).clamp(0, 1)


class Couples(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return (images - 0.1 * images.mean(0)).clamp(0, 1)


class CountsTheBatch(Purifier):
    """What the other images are does not matter; how many there are does."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images * (1 - len(images) / 100)


class SaysItCouples(Couples):
    """Not wrong: it says so."""

    batch_coupled = True


class Trains(Purifier):
    """Leaves the victim in training mode."""

    uses_victim = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        victim.train()
        return images


class Turns(Purifier):
    """Changes the victim's weights."""

    uses_victim = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        for parameter in victim.parameters():
            parameter.data.mul_(0.999)
        return images


class StraightThrough(Purifier):
    """A quantiser whose gradient is said to be that of the identity."""

    gradient = "exact"

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images + ((images * 15).round() / 15 - images).detach()


class Flat(Purifier):
    """A quantiser: its gradient is 0 almost everywhere, which hides from an attack what it does."""

    gradient = "exact"

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return (images * 15).round() / 15


class HalfDetached(Purifier):
    """One of its two summands has no gradient."""

    gradient = "exact"

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return 0.95 * images + 0.05 * images.square().detach()


class LearnsAlone(Purifier):
    """Has a gradient, but none to the images."""

    gradient = "exact"

    def __init__(self) -> None:
        self.share = nn.Parameter(torch.tensor(0.9))

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images.detach() * self.share.to(images)


class OneStream(Purifier):
    """One generator for the whole run: a run that is resumed draws what the first chunk drew."""

    stochastic = True

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        noise = torch.randn(images.shape, generator=self.generator)
        return (images + 0.1 * noise.to(images)).clamp(0, 1)


class Blanks(Purifier):
    """Not wrong, but nothing is left of an image: whatever it is scored on is seen in the figure."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return torch.full_like(images, 0.5)


TRIED = 10_000  # seeds below are those of a trial; those of a cell's images are larger


class LateTraining(Purifier):
    """Leaves the victim in training mode, but not while it is tried."""

    uses_victim = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if seeds[0] > TRIED:
            victim.train()
        return images


class LateWeights(Purifier):
    """Changes the victim's weights behind autograd's back, but not while it is tried."""

    uses_victim = True

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if seeds[0] > TRIED:
            next(victim.parameters()).data.mul_(-1)
        return images


class LateDtype(Purifier):
    """Leaves torch with another default dtype and then raises, but not while it is tried."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if seeds[0] > TRIED:
            torch.set_default_dtype(torch.float64)
            raise ZeroDivisionError("after it")
        return images


class LateDraw(Purifier):
    """Draws from a global generator, but not while it is tried."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images if seeds[0] < TRIED else images * torch.rand(1).clamp_min(0.5)


class Exits(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        sys.exit(0)


class LateExit(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if seeds[0] > TRIED:
            sys.exit(0)
        return images


class HardExit(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        os._exit(0)


class LateHardExit(Purifier):
    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if seeds[0] > TRIED:
            os._exit(0)
        return images


class ExitsWhenMade(Purifier):
    def __init__(self) -> None:
        os._exit(0)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        return images


class ExitingAttack(Clean):
    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        os._exit(0)


class SlowOnce(Purifier):
    """Hangs in the processes that work, not where it is tried."""

    version = 1

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        if multiprocessing.parent_process() is not None:
            time.sleep(60)
        return images
