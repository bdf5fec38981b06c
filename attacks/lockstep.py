"""Runs a library's attack on each image as if it were alone, and answers the attacks' questions together.

Many attacks let images of a batch depend on each other (they select the images that are still classified
correctly, stop when the batch's loss rises, draw once for all), or take one image at a time. Here every image
has an attack of its own, in a thread of its own. One thread runs at a time, until it asks the defense
something. When all have asked, the questions go to the defense as one batch. A slow purifier thus gets many
images at once, and each image gets the result that it would get alone.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attacks.randomness import per_image_randomness
from attacks.target import BudgetSpentError, Target


def lockstep(work: Callable[[nn.Module, int], Any], target: Target, seeds: Sequence[int]) -> list[Any]:
    """Run `work(model, i)` for every image i in lockstep, and return the results in order.

    `model` is the model that image i's attack sees: it takes rows of that image only, on the CPU, and has
    gradients if the target has them (one for each answer, whose graph is then freed). It raises
    BudgetSpentError when the image's queries are spent. All that `work` draws from torch or from NumPy comes
    from seeds[i].

    An error of `work` or of the target is raised after the other threads have been ended.
    """
    lanes = [_ImageThread(target, i, seed) for i, seed in enumerate(seeds)]
    numpys_own = np.random.get_state()
    try:
        for lane in lanes:
            lane.start(work)
        while asking := [lane for lane in lanes if lane.question is not None]:
            _answer(target, asking)
            for lane in asking:
                lane.go_on()
        return [lane.result for lane in lanes]
    finally:
        for lane in lanes:
            lane.end()
        np.random.set_state(numpys_own)


@dataclass
class _Together:
    """One differentiable evaluation of rows of several images."""

    rows: Tensor
    logits: Tensor
    waiting: set[int]  # images whose threads have not asked for the gradient yet


@dataclass
class _Question:
    kind: Literal["value", "differentiable", "gradient"]
    rows: Tensor
    together: _Together | None = None
    where: slice = field(default_factory=lambda: slice(None))


class _Ended(BaseException):
    """Raised in a thread that is no longer needed, to end it."""


class _ImageThread(nn.Module):
    """The attack on one image: its thread, its question and its random numbers."""

    def __init__(self, target: Target, owner: int, seed: int) -> None:
        super().__init__()
        self.owner, self.seed = owner, seed
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # libraries ask for a model's device
        self.eval()
        self.numpy = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32]).get_state()
        self.question: _Question | None = None
        self.answer: Any = None
        self.result: Any = None
        self.problem: BaseException | None = None
        self.thread: threading.Thread | None = None
        self.ended = False
        self.mine, self.others = threading.Semaphore(0), threading.Semaphore(0)

    # Called in the thread

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of these rows."""
        if torch.is_grad_enabled() and images.requires_grad:
            return _Differentiable.apply(images, self)
        return self.ask(_Question("value", images.detach()))

    def ask(self, question: _Question) -> Any:
        """Ask a question, and wait for its answer."""
        self.question = question
        self.others.release()
        self.mine.acquire()
        if self.ended:
            raise _Ended
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def _run(self, work: Callable[[nn.Module, int], Any]) -> None:
        self.mine.acquire()
        try:
            with per_image_randomness([self.seed]):
                self.result = work(self, self.owner)
        except BaseException as error:
            self.problem = error
        self.others.release()

    # Called outside the thread

    def start(self, work: Callable[[nn.Module, int], Any]) -> None:
        """Start the thread, and wait for its first question."""
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()
        self.go_on()

    def go_on(self) -> None:
        """Let the thread run until it asks again or is done."""
        self.question = None
        np.random.set_state(self.numpy)
        self.mine.release()
        self.others.acquire()
        self.numpy = np.random.get_state()
        if self.problem is not None:
            raise self.problem

    def end(self) -> None:
        """End the thread, wherever it is."""
        if self.thread is not None:
            self.ended = True
            self.mine.release()
            self.thread.join()


class _Differentiable(torch.autograd.Function):
    """A function of autograd that asks for logits, and in the backward pass for their gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, lane: _ImageThread) -> Tensor:
        """Return the logits."""
        logits, ctx.together, ctx.where = lane.ask(_Question("differentiable", images.detach()))
        ctx.lane = lane
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient with respect to the rows."""
        return ctx.lane.ask(_Question("gradient", gradient, ctx.together, ctx.where)), None


def _answer(target: Target, asking: list[_ImageThread]) -> None:
    """Answer all questions with one evaluation for each kind."""
    for kind in ("value", "differentiable"):
        lanes = []
        for lane in asking:
            if lane.question.kind == kind:
                if target.affords(lane.owner, len(lane.question.rows)):
                    lanes.append(lane)
                else:
                    lane.answer = BudgetSpentError()
        if lanes:
            _evaluate(target, lanes, differentiable=kind == "differentiable")
    shared = {
        id(lane.question.together): lane.question.together
        for lane in asking
        if lane.question.kind == "gradient"
    }
    for together in shared.values():
        _differentiate(target, together, [lane for lane in asking if lane.question.together is together])


def _evaluate(target: Target, lanes: list[_ImageThread], *, differentiable: bool) -> None:
    rows = torch.cat([lane.question.rows for lane in lanes]).requires_grad_(differentiable)
    owners = [lane.owner for lane in lanes for _ in lane.question.rows]
    with torch.set_grad_enabled(differentiable):
        logits = target.ask(rows, owners)
    together, start = _Together(rows, logits, set(owners)), 0
    for lane in lanes:
        where = slice(start, start := start + len(lane.question.rows))
        own = logits[where].detach().clone()
        lane.answer = (own, together, where) if differentiable else own


def _differentiate(target: Target, together: _Together, lanes: list[_ImageThread]) -> None:
    if not together.waiting:
        raise RuntimeError(
            "expected one gradient of an answer, got asked for a second: its graph is gone, to save memory"
        )
    together.waiting -= {lane.owner for lane in lanes}
    upstream = torch.zeros_like(together.logits)
    for lane in lanes:
        upstream[lane.question.where] = lane.question.rows
    keep = bool(together.waiting)
    (gradient,) = torch.autograd.grad(together.logits, together.rows, upstream, retain_graph=keep)
    for lane in lanes:
        lane.answer = gradient[lane.question.where].clone()
        target.count_gradient(lane.answer, [lane.owner] * len(lane.answer))
