"""DIP with a fixed number of steps: Ulyanov et al. 2018, Deep Image Prior,
https://arxiv.org/abs/1711.10925; as a defense Kattamis et al. 2019, Exploring Properties of the
Deep Image Prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from purifiers.fitting.engine import Adam, Fit, Networks, leaf
from purifiers.fitting.trace import FitTrace, Newest, Readout, Trace, TracePurifier
from purifiers.networks.skipnet import SkipNet


@dataclass(frozen=True)
class DIPTrace(FitTrace):
    """Fits a network to the image from noise, by Adam on the mean squared error.

    As in DDIP, section 3.1 and Appendix B, https://arxiv.org/abs/2108.00180.

    Args:
        network: architecture of the network.
        lr: Adam's learning rate, which is constant.
        input_scale: upper bound of the input, which is uniform in [0, input_scale).
        jitter: standard deviation of the noise added to the input at each step. Both defaults are those of
            the DIP code, which DDIP follows; DDIP's appendix prints 1/30 as the input's scale.
        optimise_input: whether the input is learnt as well (DIPDefend's released code).
    """

    version = 1
    network: SkipNet
    lr: float = 0.01
    input_scale: float = 1 / 10
    jitter: float = 1 / 30
    optimise_input: bool = False

    def fit(self, images: Tensor, seeds: Sequence[int]) -> Fit:
        """Return the optimisation before its first update."""
        networks = Networks(self.network, images, seeds=seeds)
        shape = (self.network.depth, *images.shape[2:])
        inputs = networks.drawn_once(lambda g: torch.rand(shape, generator=g)) * self.input_scale
        if self.optimise_input:
            networks.parameters["input"] = leaf(inputs)
        targets = networks.stack.beside(networks.images)

        def loss() -> tuple[Tensor, Tensor]:
            noisy = networks.parameters.get("input", inputs)
            noisy = noisy + networks.normal(inputs) * self.jitter if self.jitter else noisy
            output = networks(noisy)
            error = networks.stack.apart((output - targets).square())
            return networks.stack.apart(output)[:, 0], error.flatten(1).mean(1)

        return Fit(networks, loss, Adam(self.lr))


class DIP(TracePurifier):
    """Returns the last reconstruction of an optimisation that stops after `steps` iterations.

    Args:
        trace: the optimisation.
        steps: number of iterations. After too many, the adversarial noise is back.
    """

    version = 1
    reads_last: ClassVar[bool] = True

    def __init__(self, *, trace: Trace, steps: int) -> None:
        super().__init__(trace=trace, steps=steps)

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Return a readout that keeps the newest reconstruction."""
        return Newest()
