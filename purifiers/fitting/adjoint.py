"""One step of a fit with its graph, and the backward pass over such steps; see unrolled.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from purifiers.fitting.engine import Fit


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis of a gradient, with one row per image; column k belongs to the last k+1 steps.

    Attributes:
        adjoint: (N, m) norms of the gradient with respect to the network's parameters before these steps,
            for a gradient of length 1 with respect to the purifier's result. If they grow from column to
            column, the fit is chaotic, and the gradient says little about it. They are 0 for steps after the
            last reconstruction that the result depends on.
        cosine: (N, m) cosines between the gradient through these steps and that of BPDA, which treats the
            purifier as the identity. NaN if one of the gradients is 0.
    """

    adjoint: Tensor
    cosine: Tensor


LARGEST = 1e15  # largest growth; beyond it, squares would exceed float32, so earlier steps are left out


class State(NamedTuple):
    """The state before a step: parameters, Adam's two moments, the step's number and the count of draws."""

    parameters: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    taken: int
    drawn: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that a gradient passes through."""
        return [*self.parameters, *self.first, *self.second]


class Step(NamedTuple):
    """One step with its graph."""

    before: State
    images: Tensor
    after: State | None  # None for the last step, whose update affects no reconstruction


class Sweep:
    """A backward pass of the gradient from the last step to the first.

    If an image's adjoint grows by more than LARGEST, its gradient is that of the later steps only.

    Args:
        fit: the fit, whose loss depends on `images`.
        images: images (N, C, H, W) with respect to which the gradient is taken.
        last: number of the last reconstruction.
        block: length of a block of steps, counted from the last; no gradient passes from a block to the one
            before it.
        attached: whether a gradient passes through Adam's second moment.
        shown: gradients with respect to reconstructions, by their numbers.
        gradient: gradient that the images have already; the pass adds to it.
        upstream: gradient with respect to the purifier's result, neither very large nor very small.
    """

    def __init__(
        self,
        fit: Fit,
        *,
        images: Tensor,
        last: int,
        block: int,
        attached: bool,
        shown: dict[int, Tensor],
        gradient: Tensor,
        upstream: Tensor,
    ) -> None:
        self.fit, self.images, self.last, self.block, self.attached = fit, images, last, block, attached
        self.shown, self.gradient, self.upstream = shown, gradient, upstream
        self.adjoint: list[Tensor] | None = None  # with respect to a step's state; None while it is 0
        lengths = upstream.flatten(1).norm(dim=1)
        self.lengths = torch.ones(len(fit.networks.images)).to(lengths)  # batches are padded
        self.lengths[: len(lengths)] = torch.where(lengths > 0, lengths, 1.0)
        self.notes: dict[int, tuple[Tensor, Tensor]] = {}  # growths and cosines, by numbers of steps

    def segment(self, start: int, end: int, state: State) -> None:
        """Go back over the steps from `end` - 1 to `start`, which begins with `state`.

        If `end` is the last reconstruction, it is included.
        """
        until = end + (end == self.last)
        if self.adjoint is None and not any(start <= number < until for number in self.shown):
            return
        tape = []
        for number in range(start, until):
            step = differentiable_step(self.fit, state, attached=self.attached, update=number < self.last)
            tape.append(step)
            state = step.after
        for number in reversed(range(start, until)):
            self._back(tape.pop(), number)

    def _back(self, step: Step, number: int) -> None:
        count = len(self.images)
        later, adjoint = self.adjoint, None
        if later is not None and step.after is not None:
            adjoint = self._pass(step, step.after.tensors, later)
            if (self.last - number) % self.block == 0:  # the block before this step gets no gradient
                adjoint = None
        if (slope := self.shown.pop(number, None)) is not None:
            filled = torch.zeros_like(step.images)
            filled[:count] = slope
            own = self._pass(step, [step.images], [filled])
            adjoint = own if adjoint is None else [a + b for a, b in zip(adjoint, own, strict=True)]
        self.adjoint = None if adjoint is None else self._bounded(adjoint)
        if later is not None and number >= self.last - self.block:
            self.notes[number] = self._diagnosed(later)

    def _bounded(self, adjoint: list[Tensor]) -> list[Tensor]:
        """Return the adjoint, set to 0 for each image for which it grew by more than LARGEST or is NaN."""
        outside = ~(self._growth(adjoint) <= LARGEST)
        for tensor in adjoint:
            _of_each(tensor, len(outside))[outside] = 0
        return adjoint

    def _growth(self, adjoint: list[Tensor]) -> Tensor:
        """Return (networks,) norms of the part of an adjoint that belongs to the parameters.

        They are those for a gradient of length 1 with respect to the purifier's result.
        """
        networks = self.fit.networks
        squares = [
            _of_each(tensor, len(networks.images)).square().flatten(1).sum(1)
            for tensor in adjoint[: len(networks.parameters)]
        ]
        return torch.stack(squares).sum(0).sqrt() / self.lengths

    def _pass(self, step: Step, outputs: list[Tensor], slopes: list[Tensor]) -> list[Tensor]:
        """Return the gradients with respect to a step's inputs, given those with respect to its outputs.

        The part of the images is added to `gradient`.
        """
        inputs = step.before.tensors
        pairs = [
            (tensor, slope) for tensor, slope in zip(outputs, slopes, strict=True) if tensor.requires_grad
        ]
        gradients = torch.autograd.grad(
            [tensor for tensor, _ in pairs],
            [*inputs, self.images],
            [slope for _, slope in pairs],
            allow_unused=True,
            retain_graph=True,  # the graph from the images to the stack belongs to all steps
        )
        *adjoint, images = gradients
        if images is not None:
            self.gradient += images
        return [
            torch.zeros_like(tensor) if slope is None else slope
            for tensor, slope in zip(inputs, adjoint, strict=True)
        ]

    def _diagnosed(self, later: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the (N,) growths of the adjoint, and the (N,) cosines of the gradient so far to BPDA's."""
        growth = self._growth(later)[: len(self.images)]
        ours, bpda = self.gradient.flatten(1), self.upstream.flatten(1)
        if ours.shape != bpda.shape:  # if a purifier enlarges, BPDA's substitute is not the identity
            return growth, torch.full_like(growth, torch.nan)
        product = ours.norm(dim=1) * bpda.norm(dim=1)
        return growth, torch.where(product > 0, (ours * bpda).sum(1) / product, torch.nan)

    def diagnosis(self) -> Diagnosis:
        """Return the diagnosis of the last block of steps, the last step first."""
        growths = torch.zeros(len(self.images), self.block, dtype=self.gradient.dtype)
        cosines = torch.full_like(growths, torch.nan)
        for number, (growth, cosine) in self.notes.items():
            column = self.last - 1 - number
            growths[:, column], cosines[:, column] = growth.detach(), cosine.detach()
        return Diagnosis(growths, cosines)


def _of_each(stacked: Tensor, size: int) -> Tensor:
    """Return the networks' parts (size, ...) of a parameter, or of a learnt input (1, size * C, H, W)."""
    return (stacked.squeeze(0) if len(stacked) < size else stacked).unflatten(0, (size, -1))


def differentiable_step(fit: Fit, state: State, *, attached: bool, update: bool) -> Step:
    """Take one step of the fit from `state`, and return it with the graph from the state to its outputs."""
    networks, original = fit.networks, fit.networks.parameters
    before = _leaves(state)
    networks.stack.draws.count.copy_(state.drawn)
    networks.parameters = dict(zip(original, before.parameters, strict=True))
    try:
        images, losses = fit.loss()
    finally:
        networks.parameters = original
    if not update:
        return Step(before, images, None)
    slopes = torch.autograd.grad(losses.sum(), before.parameters, create_graph=True)
    after = _adam(before, slopes, fit.optimiser.defaults, attached=attached)
    return Step(before, images, after._replace(drawn=networks.stack.draws.count.clone()))


def _leaves(state: State) -> State:
    """Return the same values as leaves of a new graph."""
    return state._replace(
        parameters=[tensor.detach().requires_grad_() for tensor in state.parameters],
        first=[tensor.detach().requires_grad_() for tensor in state.first],
        second=[tensor.detach().requires_grad_() for tensor in state.second],
    )


def _adam(state: State, slopes: Sequence[Tensor], options: dict, *, attached: bool) -> State:
    """Return the state after torch.optim.Adam's update, made of differentiable operations."""
    (beta1, beta2), taken = options["betas"], state.taken + 1
    corrections = 1 - beta1**taken, 1 - beta2**taken
    parameters, first, second = [], [], []
    for value, mean, square, slope in zip(state.parameters, state.first, state.second, slopes, strict=True):
        slope = slope + options["weight_decay"] * value if options["weight_decay"] else slope
        mean = beta1 * mean + (1 - beta1) * slope
        square = beta2 * square + (1 - beta2) * slope.square()
        square = square if attached else square.detach()
        root = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)  # the root has no derivative at 0
        scale = root / math.sqrt(corrections[1]) + options["eps"]
        parameters.append(value - options["lr"] / corrections[0] * mean / scale)
        first.append(mean)
        second.append(square)
    return State(parameters, first, second, taken, state.drawn)
