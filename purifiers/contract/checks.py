"""Checks on a few images that a purifier keeps its contract and is what it declares.

Each promise is checked by one function, in the order of `CHECKS`. The error names the first broken promise.
"""

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from data.images import Images
from data.process_state import restored
from purifiers.contract.trial import TraitError, Trial, in_float64
from purifiers.fitting.engine import WARM_UP
from purifiers.purifier import Purifier

VERSION = 4  # raised when a check changes, so that purifiers which had passed are checked again
STEPS = WARM_UP + 3  # steps of a fit to each image: on CUDA one is captured as a graph, and replayed twice
OTHER = 1e-3  # fits on CUDA, which are not repeatable to the bit, count as different above this difference
RELATIVE = 1e-2  # largest relative error of a gradient
STEP = 1e-9  # of central differences; a median of many close values has a kink within a step of 1e-7
NOTHING = 1e-3  # a slope below this size counts as 0; that of a change of 1 in all values is above 100


def result(trial: Trial) -> None:
    """Check that the result has the images' shape and type, and is finite and in [0, 1].

    `purify_together` raises the error.
    """
    _ = trial.first


def random_state(trial: Trial) -> None:
    """Check that all draws come from the seeds."""
    if drawn := trial.drawn():
        came = f"a change of {', '.join(drawn)}"
        raise TraitError("random state", expected="draws from the seeds alone", came=came)


def process(trial: Trial) -> None:
    """Check that torch's settings, which all code of the process shares, stay as they are."""
    if changed := trial.altered():
        came = f"a change of {', '.join(changed)}"
        raise TraitError("settings", expected="torch's settings as they were", came=came)


def its_input(trial: Trial) -> None:
    """Check that the purifier does not write into its input."""
    _ = trial.bare
    if trial.wrote:
        raise TraitError("input", expected="images that are only read", came="a write into them")


def victim(trial: Trial) -> None:
    """Check that the victim's tensors, mode and gradient flags stay as they are."""
    if changed := trial.changed():
        raise TraitError(
            "victim", expected="a victim as it was", came=f"a change of {', '.join(changed[:3])}"
        )


def same_seed(trial: Trial) -> None:
    """Check that equal images and seeds give equal bits."""
    _same(trial, "same seed", trial.first, trial.bare, "one result twice")


def history(trial: Trial) -> None:
    """Check that the result does not depend on earlier calls."""
    trial(*trial.others)
    again = trial(trial.images, trial.seeds)
    _same(trial, "A, B, A", trial.first, again, "the result of A again after B")


def later_writes(trial: Trial) -> None:
    """Check that a later call does not write into the input or the result of an earlier one."""
    if any(not torch.equal(tensor, kept) for tensor, kept in trial.lent):
        raise TraitError(
            "later writes", expected="images and results let go", came="one changed by a later call"
        )


def batch(trial: Trial) -> None:
    """Check that an image's result depends neither on the other images of its batch nor on their number."""
    if trial.purifier.batch_coupled:
        return
    half = len(trial.images) // 2
    images, seeds = trial.others
    mixed = trial(torch.cat([trial.images[:half], images[half:]]), [*trial.seeds[:half], *seeds[half:]])
    same = "an image's result whatever else is in its batch"
    _same(trial, "batch", trial.first[:half], mixed[:half], same)
    off = 1.0
    for i in (1, 2, 3):  # rounding may change a rounded or compared value in one image, but not in all three
        alone = trial(trial.images[i : i + 1], trial.seeds[i : i + 1])
        off = min(off, trial.off(trial.first[i : i + 1], alone))
        if off <= trial.rounding:
            return
    raise TraitError("batch", expected="an image's result alone as in a batch", came=f"another {_by(off)}")


def stochastic(trial: Trial) -> None:
    """Check that other seeds give another result if and only if the purifier declares it."""
    declared = trial.purifier.stochastic
    off = trial.off(trial.first, trial(trial.images, trial.others[1]))
    if (off > min(trial.repeatable, OTHER)) != declared:
        same, another = "the same result", "another result"
        raise TraitError(
            "stochastic",
            expected=f"{another if declared else same} with other seeds, as it declares {declared}",
            came=f"{same if declared else another}",
        )


def clean_image(trial: Trial) -> None:
    """Check that the result does not depend on clean images and labels that callers hold."""
    noise = torch.rand(trial.images.shape, generator=torch.Generator().manual_seed(3)).to(trial.images)
    clean = (trial.images + (noise - 0.5) * 16 / 255).clamp(0, 1)
    labels = torch.arange(len(clean), device=clean.device) % 10
    chunk = Images(tuple(f"clean/{i}" for i in range(len(clean))), clean, labels)
    task = SimpleNamespace(crafting=SimpleNamespace(chunk=chunk))
    repeated = _held(
        lambda: trial(trial.images, trial.seeds),
        clean=clean, original=clean, images=clean, x=clean, label=labels, labels=labels, y=labels,
        chunk=chunk, task=task,
    )  # fmt: skip
    what = "the same result where a caller holds clean images and labels"
    _same(trial, "clean image", trial.first, repeated, what)


def gradient(trial: Trial) -> None:
    """Check that a gradient declared exact agrees with central differences in float64.

    Images are away from 0 and 1, and no two values are equal, since a median has no gradient at ties.
    """
    if trial.purifier.gradient != "exact":
        return
    purifier, victim = in_float64(trial.purifier), in_float64(trial.victim)
    drawn = torch.Generator().manual_seed(4)

    def normal(shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64).to(trial.images.device)

    images = 0.3 + 0.4 * trial.images[:2].double()
    images = images + 0.01 * normal(images.shape).clamp(-3, 3)

    def purified(images: Tensor) -> Tensor:
        return purifier.purify(images, trial.seeds[:2], victim if purifier.uses_victim else None)

    onward = normal([2, images.shape[1], *(purifier.scale * side for side in images.shape[2:])])

    def slope(images: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        output = purified(leaf)
        slopes = None
        if output.requires_grad:
            (slopes,) = torch.autograd.grad((output * onward).sum(), leaf, allow_unused=True)
        if slopes is None:
            raise TraitError("gradient", expected=true, came="none: the result is cut off from the images")
        return output.detach(), slopes

    true = "the gradient of central differences, since it is declared exact"
    output, slopes = slope(images)
    ours, theirs = [], []
    with torch.no_grad():
        for _ in range(4):
            along = normal(images.shape)
            up, down = (
                (purified(images + step * along) - output).mul(onward).sum() for step in (STEP, -STEP)
            )
            ours.append((slopes * along).sum())
            theirs.append((up - down) / (2 * STEP))
    a, b = torch.stack(ours), torch.stack(theirs)
    error = ((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp_min(NOTHING)).item()
    if not error < RELATIVE:
        raise TraitError("gradient", expected=true, came=f"a relative error of {error:.2g}")
    if not slopes.any():  # values that are clipped at these images are not all clipped at others
        elsewhere, slopes = slope(images + 0.05 * normal(images.shape))
        if not slopes.any() and not torch.equal(elsewhere, output):
            raise TraitError("gradient", expected=true, came="0 everywhere, though the result changes")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    result, random_state, process, its_input, victim, same_seed, history, later_writes, batch, stochastic,
    clean_image, gradient,
)  # fmt: skip


def shortened(purifier: Purifier, steps: int | None = None) -> Purifier:
    """Return the copy with few steps that is checked. Purifiers that differ only in their number of steps
    have equal copies."""
    return purifier.shortened(steps=steps or STEPS)[0]


def check(purifier: Purifier, images: Tensor, victim: nn.Module, *, steps: int | None = None) -> None:
    """Raise TraitError for the first promise that a short copy of the purifier breaks on these images.

    The purifier is given a copy of the victim, and all that it changes in the process is restored.
    """
    with restored(images.device):
        trial = Trial(shortened(purifier, steps), images, copy.deepcopy(victim))
        for promise in CHECKS:
            promise(trial)


def _held(
    ask: Callable[[], Tensor], *, clean: Tensor, original: Tensor, images: Tensor, x: Tensor, label: Tensor,
    labels: Tensor, y: Tensor, chunk: Images, task: SimpleNamespace,
) -> Tensor:  # fmt: skip
    """Call `ask` from a frame that holds clean images and labels by the names that callers give them."""
    return ask()


def _same(trial: Trial, name: str, expected: Tensor, came: Tensor, what: str) -> None:
    off = trial.off(expected, came)
    if not off <= trial.repeatable:
        raise TraitError(name, expected=what, came=f"another {_by(off)}")


def _by(off: float) -> str:
    return f"(by up to {off:.2g})"
