"""One step of a fit with its graph, and the way of a gradient back over such steps; see unrolled.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from purifiers.fitting.engine import Fit


@dataclass(frozen=True)
class Diagnosis:
    """How a gradient came about, one row per image; column k is of the k+1 last steps.

    Attributes:
        adjoint: (N, m) norms of the gradient with respect to the network's parameters before these steps. If
            they grow from column to column, the fit is chaotic, and the gradient says little about it.
        cosine: (N, m) cosines between the gradient through these steps and that of BPDA, which takes the
            purifier for the identity. NaN if one of them is 0.
    """

    adjoint: Tensor
    cosine: Tensor


LARGEST = 1e15  # norm of an adjoint, beyond which its squares leave float32: the steps before are left out


class State(NamedTuple):
    """What a step begins with: parameters, Adam's two moments, its number and the count of random numbers."""

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
    after: State | None  # None for the last step, whose update no reconstruction shows


class Sweep:
    """The gradient on its way from the last step to the first.

    Where an image's adjoint exceeds LARGEST, the gradient is that of the steps behind it.

    Args:
        fit: whose loss sees `images`.
        images: (N, C, H, W), with respect to which the gradient is taken.
        last: the number of the last reconstruction.
        block: no gradient passes from a block of so many steps, counted from the last, to the one before it.
        attached: whether a gradient passes through Adam's second moment.
        shown: gradients with respect to reconstructions, by their numbers.
        gradient: what the images have got already; it is added to.
        upstream: the gradient with respect to the purifier's result.
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
        self.norms: list[Tensor] = []
        self.cosines: list[Tensor] = []

    def segment(self, start: int, end: int, state: State) -> None:
        """Go back over the steps from `start`, which begins with `state`, to before `end`, and over the last
        reconstruction."""
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
        asked = len(self.images)
        later, adjoint = self.adjoint, None
        if later is not None and step.after is not None:
            adjoint = self._pass(step, step.after.tensors, later)
            if (
                self.last - number
            ) % self.block == 0:  # the first step of its block: the one before gets nothing
                adjoint = None
        if (slope := self.shown.pop(number, None)) is not None:
            filled = torch.zeros_like(step.images)
            filled[:asked] = slope
            own = self._pass(step, [step.images], [filled])
            adjoint = own if adjoint is None else [a + b for a, b in zip(adjoint, own, strict=True)]
        self.adjoint = None if adjoint is None else self._bounded(adjoint)
        if later is not None and len(self.norms) < self.block:
            self._note(later)

    def _bounded(self, adjoint: list[Tensor]) -> list[Tensor]:
        """The adjoint, set to 0 for each image for which it is larger than LARGEST or not a number."""
        outside = ~(self._sizes(adjoint) <= LARGEST)
        for one in adjoint:
            _of_each(one, len(outside))[outside] = 0
        return adjoint

    def _sizes(self, adjoint: list[Tensor]) -> Tensor:
        """(networks,) norms of the part of an adjoint that belongs to the parameters."""
        networks = self.fit.networks
        squares = [
            _of_each(one, len(networks.images)).square().flatten(1).sum(1)
            for one in adjoint[: len(networks.parameters)]
        ]
        return torch.stack(squares).sum(0).sqrt()

    def _pass(self, step: Step, outputs: list[Tensor], slopes: list[Tensor]) -> list[Tensor]:
        """Pass gradients from what a step made to what it was made from; the images' part is added up."""
        inputs = step.before.tensors
        pairs = [(one, slope) for one, slope in zip(outputs, slopes, strict=True) if one.requires_grad]
        found = torch.autograd.grad(
            [one for one, _ in pairs],
            [*inputs, self.images],
            [slope for _, slope in pairs],
            allow_unused=True,
            retain_graph=True,  # the images' way to the stack belongs to all steps
        )
        *adjoint, images = found
        if images is not None:
            self.gradient += images
        return [
            torch.zeros_like(one) if slope is None else slope
            for one, slope in zip(inputs, adjoint, strict=True)
        ]

    def _note(self, later: list[Tensor]) -> None:
        self.norms.append(self._sizes(later)[: len(self.images)])
        ours, bpda = self.gradient.flatten(1), self.upstream.flatten(1)
        if ours.shape != bpda.shape:  # a purifier that enlarges: BPDA's substitute is not the identity
            self.cosines.append(torch.full_like(self.norms[-1], torch.nan))
            return
        product = ours.norm(dim=1) * bpda.norm(dim=1)
        self.cosines.append(torch.where(product > 0, (ours * bpda).sum(1) / product, torch.nan))

    def diagnosis(self) -> Diagnosis:
        """Of the steps that were gone over, the last first."""
        empty = self.gradient.new_zeros(len(self.images), 0)
        both = [torch.stack(found, 1) if found else empty for found in (self.norms, self.cosines)]
        return Diagnosis(*(found.detach().cpu() for found in both))


def _of_each(stacked: Tensor, size: int) -> Tensor:
    """(size, ...) the networks' parts of a parameter, or of an input (1, size * C, H, W) that is learnt."""
    return (
        stacked.squeeze(0).unflatten(0, (size, -1)) if len(stacked) == 1 else stacked.unflatten(0, (size, -1))
    )


def differentiable_step(fit: Fit, state: State, *, attached: bool, update: bool) -> Step:
    """One step of the fit from `state`, with the graph that leads from the state to what the step makes."""
    networks, kept = fit.networks, fit.networks.parameters
    before = _leaves(state)
    networks.stack.draws.count.copy_(state.drawn)
    networks.parameters = dict(zip(kept, before.parameters, strict=True))
    try:
        images, losses = fit.loss()
    finally:
        networks.parameters = kept
    if not update:
        return Step(before, images, None)
    slopes = torch.autograd.grad(losses.sum(), before.parameters, create_graph=True)
    after = _adam(before, slopes, fit.optimiser.defaults, attached=attached)
    return Step(before, images, after._replace(drawn=networks.stack.draws.count.clone()))


def _leaves(state: State) -> State:
    """Return the same values, each as the beginning of a graph."""
    return state._replace(
        parameters=[one.detach().requires_grad_() for one in state.parameters],
        first=[one.detach().requires_grad_() for one in state.first],
        second=[one.detach().requires_grad_() for one in state.second],
    )


def _adam(state: State, slopes: Sequence[Tensor], options: dict, *, attached: bool) -> State:
    """torch.optim.Adam's update, as operations that have a gradient."""
    (one, two), taken = options["betas"], state.taken + 1
    corrections = 1 - one**taken, 1 - two**taken
    parameters, first, second = [], [], []
    for value, mean, square, slope in zip(state.parameters, state.first, state.second, slopes, strict=True):
        slope = slope + options["weight_decay"] * value if options["weight_decay"] else slope
        mean = one * mean + (1 - one) * slope
        square = two * square + (1 - two) * slope.square()
        square = square if attached else square.detach()
        root = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)  # the root has no slope at 0
        scale = root / math.sqrt(corrections[1]) + options["eps"]
        parameters.append(value - options["lr"] / corrections[0] * mean / scale)
        first.append(mean)
        second.append(square)
    return State(parameters, first, second, taken, state.drawn)
