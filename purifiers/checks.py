"""What a purifier declares, and what every purifier must hold, tried on a few images.

One function a promise, in the order of `CHECKS`: the first that is broken is named.
"""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.images import Images, clipped
from purifiers.purifier import Purifier, PurifierError
from purifiers.trace import TracePurifier

VERSION = 1  # raised when a check changes: what had passed is tried again
STEPS = 6  # of a purifier that fits a network to each image; CUDA replays a graph from the fourth on
# A convolution may round otherwise for another batch; a fit amplifies that, so on a CPU it must not.
ROUNDING = 2e-6
ROUNDING_OF_A_FIT = {"cpu": 0.0, "cuda": 0.05}  # on CUDA some gradients are not repeatable to the bit
TIPPED = 0.01  # share of values that rounding may tip over a threshold, in a batch of another size
RELATIVE = 1e-2  # error of a gradient
STEP = 1e-7  # of central differences; small, since a median has kinks close by
NOTHING = 1e-4  # size of a slope that is taken for 0; that of a change of 1 in all values is above 100


class TraitError(RuntimeError):
    """A purifier does not hold what it declares; the cells that it belongs to fail."""

    def __init__(self, check: str, *, expected: str, came: str) -> None:
        super().__init__(f"{check}: expected {expected}, got {came}")
        self.check = check


@dataclass
class Trial:
    """A purifier on a few images with a victim, and what is known of it so far.

    Args:
        purifier: it may be a short copy (`Purifier.trial`).
        images: (N, C, H, W) in [0, 1], N at least 4, no two alike.
        victim: frozen, on the images' device.
    """

    purifier: Purifier
    images: Tensor
    victim: nn.Module
    lent: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # tensors, and what they must stay

    @property
    def seeds(self) -> list[int]:
        """One an image."""
        return list(range(1, 1 + len(self.images)))

    @property
    def others(self) -> tuple[Tensor, list[int]]:
        """As many other images, and other seeds."""
        return self.images.flip(0, 3), [seed + 1000 for seed in self.seeds]

    @property
    def rounding(self) -> float:
        """What two runs of one kind of device may differ by."""
        if isinstance(inside(self.purifier), TracePurifier):
            return ROUNDING_OF_A_FIT[self.images.device.type]
        return ROUNDING

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """The result, as a cell gets it."""
        try:
            result = self.purifier(images, seeds=seeds, victim=self.victim)
        except PurifierError as error:
            raise TraitError(error.check, expected=error.expected, came=error.came) from error
        kept = result.detach().clone()
        self.lent.append((result, kept))
        return kept

    @cached_property
    def first(self) -> Tensor:
        """Of the images, with their seeds."""
        return self(self.images, self.seeds)

    @cached_property
    def watched(self) -> "Watched":
        """The same once more, with an eye on what it touches."""
        given, before = self.images.clone(), random_states(self.images.device)
        victim = {name: tensor.detach().clone() for name, tensor in self.victim.state_dict().items()}
        flags = _flags(self.victim)
        result = self.purifier.purify(given, self.seeds, self.victim if self.purifier.uses_victim else None)
        self.lent.append((given, self.images.clone()))
        now = self.victim.state_dict()
        return Watched(
            result=clipped(result.detach()).clone(),
            wrote=not torch.equal(given, self.images),
            drew=[name for name, state in random_states(self.images.device).items() if state != before[name]],
            changed=[n for n, tensor in victim.items() if n not in now or not torch.equal(tensor, now[n])]
            or [name for name, flag in _flags(self.victim).items() if flag != flags.get(name)],
        )


@dataclass(frozen=True)
class Watched:
    """One call, and what it touched."""

    result: Tensor
    wrote: bool
    drew: list[str]
    changed: list[str]


def result(trial: Trial) -> None:
    """The images' shape and type, finite, in [0, 1]: `purify_together` says so."""
    assert trial.first is not None


def random_state(trial: Trial) -> None:
    """Draws come from the seeds alone."""
    if drew := trial.watched.drew:
        raise TraitError(
            "random state", expected="draws from the seeds alone", came=f"a change of {', '.join(drew)}"
        )


def its_input(trial: Trial) -> None:
    """The tensor that it is given is read only."""
    if trial.watched.wrote:
        raise TraitError("input", expected="images that are only read", came="a write into them")


def victim(trial: Trial) -> None:
    """The victim's tensors, mode and gradient flags stay as they are."""
    if changed := trial.watched.changed:
        raise TraitError("victim", expected="a victim as it was", came=f"a change of {changed[0] or 'it'}")


def same_seed(trial: Trial) -> None:
    """Equal images and seeds give equal bits."""
    _same("same seed", trial.first, trial.watched.result, "one result twice", _repeatable(trial))


def history(trial: Trial) -> None:
    """What ran before does not matter."""
    trial(*trial.others)
    again = trial(trial.images, trial.seeds)
    _same("A, B, A", trial.first, again, "the result of A again after B", _repeatable(trial))


def later_writes(trial: Trial) -> None:
    """A tensor that was given or handed over is not written to by a later call."""
    if any(not torch.equal(tensor, kept) for tensor, kept in trial.lent):
        raise TraitError(
            "later writes", expected="images and results let go", came="one changed by a later call"
        )


def batch(trial: Trial) -> None:
    """An image's result is its own, whatever the other images are and however many."""
    if trial.purifier.batch_coupled:
        return
    half = len(trial.images) // 2
    images, seeds = trial.others
    mixed = trial(
        torch.cat([trial.images[:half], images[half:]]), [*trial.seeds[:half], *seeds[half:]]
    )
    same = "an image's result whatever else is in its batch"
    _same("batch", trial.first[:half], mixed[:half], same, _repeatable(trial))
    alone = trial(trial.images[1:2], trial.seeds[1:2])
    tipped = 0.0 if trial.rounding == 0 else TIPPED
    _same("batch", trial.first[1:2], alone, "an image's result alone as in a batch", trial.rounding, tipped)


def stochastic(trial: Trial) -> None:
    """Other seeds give another result if and only if the purifier says so."""
    other = trial(trial.images, trial.others[1])
    same = torch.equal(other, trial.first) or (
        not trial.purifier.stochastic and (other - trial.first).abs().max() <= _repeatable(trial)
    )
    if trial.purifier.stochastic == same:
        raise TraitError(
            "stochastic",
            expected=f"{'another' if same else 'the same'} result with other seeds, as declared "
            f"({trial.purifier.stochastic})",
            came=f"{'the same' if same else 'another'}",
        )


def clean_image(trial: Trial) -> None:
    """Clean images and labels that the callers hold have no part in the result."""
    noise = torch.rand(trial.images.shape, generator=torch.Generator().manual_seed(3)).to(trial.images)
    clean = (trial.images + (noise - 0.5) * 16 / 255).clamp(0, 1)
    labels = torch.arange(len(clean), device=clean.device) % 10
    chunk = Images(tuple(f"clean/{i}" for i in range(len(clean))), clean, labels)
    seen = _held(lambda: trial(trial.images, trial.seeds), clean, clean, clean, labels, labels, labels, chunk)
    _same(
        "clean image", trial.first, seen, "a result of the images and seeds alone", _repeatable(trial),
        came_as="another where a caller holds clean images and labels",
    )  # fmt: skip


def gradient(trial: Trial) -> None:
    """Where it is declared exact, autograd agrees with central differences in float64.

    Images are away from 0 and 1 and no two values are equal: a median has no gradient where values tie.
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

    asked = images.clone().requires_grad_()
    made = purified(asked)
    true = "the gradient of central differences, since it is declared exact"
    if not made.requires_grad:
        raise TraitError("gradient", expected=true, came="none: the result is cut off from the images")
    onward = normal(made.shape)
    (found,) = torch.autograd.grad((made * onward).sum(), asked)
    ours, theirs, far = [], [], []
    with torch.no_grad():
        for _ in range(4):
            along = normal(images.shape)
            up, down, away = (
                (purified(images + step * along) - made).mul(onward).sum() for step in (STEP, -STEP, 0.05)
            )
            ours.append((found * along).sum())
            theirs.append((up - down) / (2 * STEP))
            far.append(away)
    a, b = torch.stack(ours), torch.stack(theirs)
    error = ((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp_min(NOTHING)).item()
    if not error < RELATIVE:
        raise TraitError("gradient", expected=true, came=f"a relative error of {error:.2g}")
    if not found.any() and torch.stack(far).any():
        raise TraitError("gradient", expected=true, came="0 everywhere, though the result changes")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    result, random_state, its_input, victim, same_seed, history, later_writes, batch, stochastic,
    clean_image, gradient,
)  # fmt: skip


def check(purifier: Purifier, images: Tensor, victim: nn.Module) -> None:
    """Raise TraitError for the first promise that a short copy of the purifier breaks on these images."""
    trial = Trial(purifier.trial(steps=STEPS)[0], images, victim)
    for one in CHECKS:
        one(trial)


def inside(purifier: Purifier) -> Purifier:
    """The purifier itself, or the one that it wraps."""
    within = getattr(purifier, "purifier", None)
    return inside(within) if isinstance(within, Purifier) else purifier


def in_float64(component: Any) -> Any:
    """A copy of a purifier or a victim that computes in float64; other things as they are."""
    if isinstance(component, nn.Module):
        return copy.deepcopy(component).double()
    if isinstance(component, Tensor):
        return component.double() if component.is_floating_point() else component
    if not isinstance(component, Purifier):
        return component
    copied = copy.copy(component)
    for name, item in vars(component).items():
        setattr(copied, name, in_float64(item))
    return copied


def random_states(device: torch.device) -> dict[str, Any]:
    """Of the global generators."""
    name, keys, place, *rest = np.random.get_state()
    states = {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's global generator": (name, keys.tobytes(), place, *rest),
        "Python's global generator": random.getstate(),
    }
    if device.type == "cuda":
        states["CUDA's global generator"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return states


def _held(
    ask: Callable[[], Tensor],
    clean: Tensor, original: Tensor, x: Tensor, label: Tensor, labels: Tensor, y: Tensor, chunk: Images,
) -> Tensor:  # fmt: skip
    """Asks from a frame that holds clean images and labels by the names that callers give them."""
    return ask()


def _flags(module: nn.Module) -> dict[str, bool]:
    modes = {f"the mode of {name}".rstrip(): part.training for name, part in module.named_modules()}
    return modes | {f"requires_grad of {n}": p.requires_grad for n, p in module.named_parameters()}


def _repeatable(trial: Trial) -> float:
    """Bit for bit, but for fits on CUDA."""
    return 0.0 if trial.images.device.type == "cpu" else trial.rounding


def _same(
    name: str, expected: Tensor, came: Tensor, what: str, rounding: float, tipped: float = 0.0, *,
    came_as: str = "",
) -> None:  # fmt: skip
    """Equal within `rounding`, but for a share of the values."""
    off = (came - expected).abs()
    if (off > rounding).float().mean().item() > tipped or not torch.isfinite(off).all():
        raise TraitError(name, expected=what, came=came_as or f"another (by up to {off.max().item():.2g})")
