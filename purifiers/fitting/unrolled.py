"""The gradient through the steps of a fit: reverse-mode differentiation of an optimisation (Domke 2012,
https://proceedings.mlr.press/v22/domke12.html; Maclaurin et al. 2015, https://arxiv.org/abs/1502.03492), with
checkpoints (Griewank 1992, https://doi.org/10.1080/10556789208805505).

Each step of a fit depends on the images through its loss, so it passes a part of the gradient to them, and
the rest to the parameters before it. The parameters, Adam's moments and the count of random numbers are saved
at regular intervals, which grow with the square root of m. From each checkpoint the backward pass computes a
segment of steps again, with the graph of each step, and differentiates it from its last step to its first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from data.errors import InputError
from data.scaling import exponents
from purifiers.fitting.adjoint import Diagnosis, State, Sweep, differentiable_step
from purifiers.fitting.engine import Fit
from purifiers.fitting.trace import FitTrace, Iterate, TracePurifier
from purifiers.purifier import PurifierError, checked

GIB = 2**30
GRAPH = 4  # size of a step's graph in checkpoints; it is 4.7 for DDIP's CIFAR-10 network
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Unrolling:
    """The part of a fit that is differentiated.

    Args:
        steps: m, the number of last steps before each reconstruction; None for all of them. If a purifier
            reads several reconstructions, its trace is cut into blocks of m steps, counted from its end,
            and no gradient passes from a block to the one before it.
        second_moment: "detached" treats Adam's second moment, by which each step is scaled, as a constant.
        memory: GiB that the backward pass may take; None for all that is free when it begins.
    """

    steps: int | None = 20
    second_moment: Literal["attached", "detached"] = "attached"
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise InputError(f"knowledge.steps: expected null or at least 1, got {self.steps!r}")
        if self.second_moment not in ("attached", "detached"):
            raise InputError(
                f"knowledge.second_moment: expected attached or detached, got {self.second_moment!r}"
            )
        if self.memory is not None and not self.memory > 0:
            raise InputError(f"knowledge.memory: expected null or GiB above 0, got {self.memory}")

    def check(self, purifier: TracePurifier) -> None:
        """Raise InputError if there are more steps to unroll than updates before the last reconstruction."""
        most = purifier.steps - 1
        if self.steps is not None and self.steps > most:
            raise InputError(
                f"knowledge.steps: expected at most the {most} updates before the last of "
                f"{type(purifier).__name__}'s {purifier.steps} reconstructions, got {self.steps}; "
                "null takes all of them"
            )


def unrolled(
    purifier: TracePurifier,
    images: Tensor,
    *,
    seeds: Sequence[int],
    victim: nn.Module | None,
    unrolling: Unrolling,
    tell: Callable[[Diagnosis], None] = lambda diagnosis: None,
) -> Tensor:
    """Return the purifier's exact result, with the gradient through its steps with respect to `images`.

    The gradient can be taken once. A trace that is shorter than `unrolling.steps` is unrolled completely.

    Args:
        images: images (N, C, H, W) in [0, 1].
        seeds: one seed for each image.
        victim: the victim, for purifiers that use it.
        tell: function that the backward pass calls with the diagnosis of the gradient.

    Raises PurifierError for a result that breaks the contract. The backward pass raises InputError if it
    needs more than `unrolling.memory`, and MemoryError if it needs more than is free.
    """
    return _Through.apply(images, _Run(purifier, seeds, victim, unrolling, tell))


class _Through(torch.autograd.Function):
    """The fit as a function of autograd."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, run: "_Run") -> Tensor:
        ctx.run = run
        return run.forward(images.detach())

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None]:
        with _disable_current_modes():  # an attack draws in such a mode, but the fit has draws of its own
            return ctx.run.backward(upstream), None


class _Run:
    """One fit of a batch of images: a forward pass with checkpoints, then a backward pass."""

    def __init__(
        self,
        purifier: TracePurifier,
        seeds: Sequence[int],
        victim: nn.Module | None,
        unrolling: Unrolling,
        tell: Callable[[Diagnosis], None],
    ) -> None:
        self.purifier, self.seeds, self.unrolling, self.tell = purifier, seeds, unrolling, tell
        self.victim = victim if purifier.uses_victim else None
        self.last = purifier.steps - 1  # number of the last reconstruction, and of the updates before it
        self.depth = min(unrolling.steps or self.last, self.last)
        self.begin = self.last - self.depth if purifier.reads_last else 0
        self.segment = segment_of(self.last - self.begin)
        self.checkpoints: dict[int, State] = {}
        self.seen: dict[int, Tensor] = {}  # reconstructions that the result may depend on

    def _fit(self, images: Tensor) -> Fit:
        trace: FitTrace = self.purifier.trace
        return trace.fit(images, self.seeds)

    # Forward

    def forward(self, images: Tensor) -> Tensor:
        fit = self._fit(images)
        optimiser = fit.optimiser
        if type(optimiser) is not torch.optim.Adam or optimiser.defaults["amsgrad"]:
            raise InputError(f"knowledge: expected a fit by Adam, without AMSGrad, got {optimiser}")
        self.images = images.clone().requires_grad_()
        with torch.enable_grad():
            readout = self.purifier.readout(self.images, self.victim)
        keep = {self.last} if self.purifier.reads_last else range(self.purifier.steps)

        def take(begin: int, end: int) -> None:
            def observe(step: int, made: Tensor) -> None:
                number = begin + step
                if number in keep:
                    made = self.seen[number] = made.detach().requires_grad_()
                readout.see(Iterate(number, made, self.images, self.victim))

            with torch.enable_grad():
                fit.run(end - begin, observe)

        take(0, self.begin)
        for start in range(self.begin, self.last, self.segment):
            self._keep(fit, start)
            take(start, min(start + self.segment, self.last))
        take(self.last, self.last + 1)
        with torch.enable_grad():
            self.result = readout.result()
        made = checked(self.purifier, images, self.result.detach())
        if isinstance(made, PurifierError):
            raise made
        return made

    def _keep(self, fit: Fit, step: int) -> None:
        leaves = fit.optimiser.param_groups[0]["params"]
        states = [fit.optimiser.state[leaf] for leaf in leaves]

        def moment(name: str) -> list[Tensor]:
            return [
                state[name].clone() if state else torch.zeros_like(leaf.detach())
                for leaf, state in zip(leaves, states, strict=True)
            ]

        self.checkpoints[step] = State(
            [leaf.detach().clone() for leaf in leaves],
            moment("exp_avg"),
            moment("exp_avg_sq"),
            step,
            fit.networks.stack.draws.count.clone(),
        )

    # Backward

    @torch.enable_grad()
    def backward(self, upstream: Tensor) -> Tensor:
        """Return the gradient with respect to the images, given that with respect to the result.

        The latter is scaled on the way, so that neither the size of an attack's loss nor the number of images
        over which it takes a mean decides which adjoints are too large.
        """
        fit = self._fit(self.images)
        self._check_memory(fit)
        exponent = exponents(upstream)
        upstream = torch.ldexp(upstream, -exponent)
        numbers = list(self.seen)
        direct, *read = torch.autograd.grad(
            self.result, [self.images, *self.seen.values()], upstream, allow_unused=True
        )
        shown = {number: slope for number, slope in zip(numbers, read, strict=True) if slope is not None}
        self.seen.clear()
        gradient = torch.zeros_like(self.images) if direct is None else direct
        sweep = Sweep(
            fit,
            images=self.images,
            last=self.last,
            block=self.depth,
            attached=self.unrolling.second_moment == "attached",
            shown=shown,
            gradient=gradient.detach().clone(),
            upstream=upstream,
        )
        for start in reversed(range(self.begin, self.last, self.segment)):
            end = min(start + self.segment, self.last)
            sweep.segment(start, end, self.checkpoints.pop(start))
        self.tell(sweep.diagnosis())
        return torch.ldexp(sweep.gradient, exponent)

    def _check_memory(self, fit: Fit) -> None:
        """Raise an error that says how many steps fit if the graphs of a segment exceed the memory.

        It is a MemoryError if no limit was set, so that an attack starts again with fewer images at once.
        """
        allowed = self.unrolling.memory * GIB if self.unrolling.memory else free_memory(self.images.device)
        if allowed is None or self.begin == self.last:
            return
        graph, tensors = self._graph_size(fit), self.checkpoints[self.begin].tensors
        state = sum(tensor.nbytes for tensor in tensors)
        images = sum(image.nbytes for image in self.seen.values())

        def needed(steps: int) -> float:
            segment = segment_of(steps)
            return images + (1 + math.ceil(steps / segment)) * state + (segment + 1) * (graph + state)

        steps = self.last - self.begin
        if needed(steps) <= allowed:
            return
        fitting = next((m for m in range(steps - 1, 0, -1) if needed(m) <= allowed), 0)
        if not self.purifier.reads_last:
            advice = f"{type(self.purifier).__name__} reads the whole trace, so fewer steps need as much"
        else:
            advice = f"knowledge.steps={fitting} fits" if fitting else "not even one step fits"
        raise (InputError if self.unrolling.memory else MemoryError)(
            f"knowledge.memory: unrolling {steps} steps of a batch of {len(self.images)} images needs "
            f"{needed(steps) / GIB:.2g} GiB, expected at most {allowed / GIB:.2g}; {advice}, and a smaller "
            "chunk needs less"
        )

    def _graph_size(self, fit: Fit) -> int:
        """Return the bytes that the graph of one step holds."""
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            step = differentiable_step(fit, self.checkpoints[self.begin], attached=True, update=True)
        del step
        return sum(sizes.values())


def segment_of(steps: int) -> int:
    """Return the number of steps whose graphs are held at once. The least memory is needed if half of it
    holds these graphs, and half the checkpoints."""
    return max(1, math.isqrt(steps // GRAPH))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on the device; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMINFO.exists():
        return None
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
