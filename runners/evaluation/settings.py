"""The settings of a run, which are checked when they are created."""

import math
from dataclasses import dataclass
from typing import Any

from data.errors import InputError
from purifiers.purifier import Purifier
from runners.evaluation.subset import RULES

DRAWS, DRAWS_OF_ATTACKED_FIT = 10, 5  # how many draws are scored by default
UNRECORDED = ("keep_purified", "chunk_seconds")  # no result depends on them
KEPT = ("auto", "all", "none")  # rules for purified images, see runners/evaluation/keeping.py


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Settings:
    """The settings of a run: what is evaluated, where results are stored, and what computes them."""

    n: int
    seed: int
    split: str
    subset: str
    chunk: int
    store: str
    device: str
    tf32: bool
    workers: int | str
    draws: int | str
    budget_hours: float
    audit: str
    keep_purified: str = "auto"
    chunk_seconds: float = 86400

    def __post_init__(self) -> None:
        for name in ("n", "seed", "chunk"):
            value = getattr(self, name)
            if not _is_whole(value):
                raise InputError(f"{name}: expected a whole number, got {value!r}")
        if self.seed < 0:
            raise InputError(f"seed: expected 0 or more, got {self.seed}")
        if self.subset not in RULES:
            raise InputError(f"subset: expected one of {', '.join(RULES)}, got {self.subset!r}")
        if not isinstance(self.store, str) or not self.store:
            raise InputError(f"store: expected a folder, got {self.store!r}")
        if self.draws != "auto" and not (_is_whole(self.draws) and self.draws >= 1):
            raise InputError(f"draws: expected auto or at least 1, got {self.draws!r}")
        if self.workers != "auto" and not (_is_whole(self.workers) and self.workers >= 0):
            raise InputError(f"workers: expected auto or at least 0, got {self.workers!r}")
        for name, unit in (("budget_hours", "hours"), ("chunk_seconds", "seconds")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"{name}: expected a finite number of {unit} above 0, got {value!r}")
        if self.audit not in ("off", "cheap", "full"):
            raise InputError(f"audit: expected off, cheap or full, got {self.audit!r}")
        if self.keep_purified not in KEPT:
            raise InputError(f"keep_purified: expected {', '.join(KEPT)}, got {self.keep_purified!r}")
        if not isinstance(self.tf32, bool):
            raise InputError(f"tf32: expected true or false, got {self.tf32!r}")

    @property
    def images(self) -> str:
        """The rule and the seed of the subset, as text."""
        return f"{self.subset}, seed {self.seed}"

    @property
    def precision(self) -> str:
        """The precision of convolutions and matrix products, on which results depend."""
        return "tf32" if self.tf32 else "float32"

    def draws_of(self, purifier: Purifier, *, attacked: bool) -> int:
        """Return how many draws of a purifier are scored.

        "auto" is ten. A purifier that fits a network to each image in each draw is scored on five if an
        attack runs it, which takes many more fits than the scoring, and otherwise on one.

        Args:
            attacked: whether the attack runs the purifier.
        """
        if not purifier.stochastic:
            return 1
        if self.draws != "auto":
            return int(self.draws)
        if not purifier.per_image_optimization:
            return DRAWS
        return DRAWS_OF_ATTACKED_FIT if attacked else 1
