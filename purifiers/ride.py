"""RIDE and its ablations DAE, I-DIP and DIP: Lin, Pfister, Zhang 2019, White-Box Adversarial Defense
via Self-Supervised Data Estimation. https://arxiv.org/abs/1909.06271
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from purifiers.fitting.engine import Adam, Architecture, Fit, Networks, Observer
from purifiers.fitting.stack import Stack
from purifiers.fitting.trace import Iterate, Newest, Readout, Trace, TracePurifier


@dataclass(frozen=True)
class RIDETrace(Trace):
    """Fits a denoising auto-encoder to the image and moves the image towards its output (Algorithm 2).

    It is not a FitTrace, and its gradient is "bpda": the image itself is moved in place between the blocks of
    updates, and is the network's input, so the loss is not the only place where the images enter.

    Two settings give four methods: RIDE with the defaults, DAE (Algorithm 1) with alpha=1, I-DIP with
    denoise=false, and DIP with both. `iterations` counts the updates between two estimates.

    Args:
        network: architecture of the network.
        iterations: K; after every K updates the image is estimated anew.
        sigma: standard deviation of the noise on the network's input and target.
        alpha: share of the image that remains when it is estimated anew (Eq. 9); 1 keeps the image.
        batch: n, the number of noisy pairs in one update; their mean is the estimate.
        denoise: whether the input is the image with fresh noise. If false, it is fixed noise, standard
            normal as in the released code, and the image is the target (the paper's DIP and I-DIP).
        noisy_target: whether the target has noise of its own (Eq. 7). If false, it is the image.
        mask: share of the pixels that the loss leaves out, drawn anew at each update (Fig. 9).
        lr, weight_decay, amsgrad: settings of Adam.
        loss: "mse", or "norm", the L2 norm of the whole difference (the released code).
        update: how pixels move. "all": each by Eq. 9. "median" (the released code): pixels whose difference,
            summed over channels, is below its median become the estimate, and the others move by Eq. 9.
        mean, std: mean and standard deviation of the normalisation, one for each channel, in whose space
            the fit runs; None for images in [0, 1].
    """

    version = 2

    network: Architecture
    iterations: int = 2000
    sigma: float = 0.5
    alpha: float = 0.9
    batch: int = 1
    denoise: bool = True
    noisy_target: bool = True
    mask: float = 0.0
    lr: float = 1e-4
    weight_decay: float = 1e-4
    amsgrad: bool = False
    loss: Literal["mse", "norm"] = "mse"
    update: Literal["all", "median"] = "all"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))  # hashable
        for name, choices in (("loss", ("mse", "norm")), ("update", ("all", "median"))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"trace.{name}: expected {' or '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name, value, good in (
            ("iterations", self.iterations, self.iterations >= 1),
            ("batch", self.batch, self.batch >= 1),
            ("sigma", self.sigma, self.sigma >= 0),
            ("alpha", self.alpha, 0 <= self.alpha <= 1),
            ("mask", self.mask, 0 <= self.mask < 1),
            ("mean", self.mean, (self.mean is None) == (self.std is None)),
        ):
            if not good:
                raise InputError(f"trace.{name}: out of range, got {value}")

    def stream(self, images: Tensor, seeds: Sequence[int], steps: int, observe: Observer) -> None:
        """Call `observe` with the network's outputs; those after K, 2K ... updates are the estimates."""
        channels = images.shape[1]
        mean = images.new_tensor(self.mean or [0.0] * channels).view(-1, 1, 1)
        std = images.new_tensor(self.std or [1.0] * channels).view(-1, 1, 1)
        if len(mean) not in (1, channels) or len(std) not in (1, channels):
            raise InputError(f"trace.mean, std: expected one value for each of {channels} channels")
        networks = Networks(self.network, images, seeds=seeds)
        stack = networks.stack
        current = stack.beside((networks.images - mean) / std)  # x^(t), updated in place
        fixed = networks.drawn_once(lambda g: torch.randn(tuple(images.shape[1:]), generator=g))

        def noisy(x: Tensor) -> Tensor:
            return x + networks.normal(x, self.batch) * self.sigma if self.sigma else x

        def output() -> Tensor:
            return networks(noisy(current) if self.denoise else fixed)

        def shown(x: Tensor) -> Tensor:
            return (stack.apart(x).mean(1) * std + mean).clamp(0, 1)

        def loss() -> tuple[Tensor, Tensor]:
            made = output()
            target = noisy(current) if self.denoise and self.noisy_target else current
            return shown(made.detach()), self._losses(stack.apart((made - target).square()), networks)

        fit = Fit(networks, loss, Adam(self.lr, self.weight_decay, self.amsgrad))
        done = 0
        while True:
            block, before = min(self.iterations, steps - 1 - done), done

            def tell(step: int, made: Tensor, before: int = before) -> None:
                if step or not before:  # the estimate of the block before was observed already
                    observe(before + step, made)

            fit.run(block, tell)
            done += block
            with torch.no_grad():
                estimate = output()
            observe(done, shown(estimate)[: networks.asked])
            if done == steps - 1:
                return
            estimate = stack.beside(stack.apart(estimate).mean(1))
            current.copy_(self._moved(current, estimate, stack))

    def _losses(self, squared: Tensor, networks: Networks) -> Tensor:
        """Reduce (B, n, C, H, W) squared differences to one loss per image."""
        if self.mask:
            n, _, height, width = squared.shape[1:]
            kept = networks.stack.draws.chosen(1 - self.mask, (n, 1, height, width))
            squared = squared * kept / (1 - self.mask)
        if self.loss == "mse":
            return squared.flatten(1).mean(1)
        return squared.flatten(1).sum(1).add(1e-12).sqrt()  # the root has no slope at 0

    def _moved(self, current: Tensor, estimate: Tensor, stack: Stack) -> Tensor:
        moved = self.alpha * current + (1 - self.alpha) * estimate
        if self.update == "all":
            return moved
        size = stack.apart((estimate - current).abs()).sum(2, keepdim=True)  # (B, 1, 1, H, W)
        small = size < size.flatten(1).median(1).values.view(-1, 1, 1, 1, 1)
        channels = current.shape[1] // stack.size
        return torch.where(stack.beside(small.expand(-1, -1, channels, -1, -1)), estimate, moved)


class RIDE(TracePurifier):
    """Returns the last estimate of the trace, x_est^(T) of Algorithm 2.

    Args:
        trace: the fit of the networks.
        checkpoints: T, the number of times that the image is estimated.
        returns: "estimate", or "image" for x^(T), which the paper's footnote 1 finds some 15 points worse.
    """

    version = 1

    def __init__(
        self, *, trace: RIDETrace, checkpoints: int = 5, returns: Literal["estimate", "image"] = "estimate"
    ) -> None:
        if not isinstance(checkpoints, int) or checkpoints < 1:
            raise InputError(f"purifier.checkpoints: expected at least 1, got {checkpoints}")
        if returns not in ("estimate", "image"):
            raise InputError(f"purifier.returns: expected estimate or image, got {returns!r}")
        if returns == "image" and trace.update != "all":
            raise InputError(f"purifier.returns: image needs trace.update=all, got {trace.update}")
        super().__init__(trace=trace, steps=trace.iterations * checkpoints + 1)
        self.returns = returns

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Return a readout that keeps the newest estimate, or moves the image towards each (Eq. 9)."""
        return _Moved(self.trace, targets) if self.returns == "image" else Newest()


class _Moved:
    """The image x^(t), which is moved towards estimates that are clipped to [0, 1]."""

    def __init__(self, trace: RIDETrace, targets: Tensor) -> None:
        self.trace, self.images = trace, targets

    def see(self, iterate: Iterate) -> None:
        if iterate.step and iterate.step % self.trace.iterations == 0:
            share = self.trace.alpha
            self.images = share * self.images + (1 - share) * iterate.images

    def result(self) -> Tensor:
        return self.images
