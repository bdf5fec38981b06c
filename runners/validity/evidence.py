"""A finished cell with what its parts declare, from which flags are computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from attacks.attack import Attack
from attacks.knowledge import Knowledge
from purifiers.purifier import Purifier
from runners.evaluation.cell import Cell
from runners.evaluation.metrics import survived


@dataclass(frozen=True)
class Flag:
    """A reason for doubt: its name in docs/flags.md, and what was seen."""

    name: str
    seen: str


@dataclass(frozen=True)
class Evidence:
    """A finished cell with what its parts declare."""

    cell: Cell
    records: pd.DataFrame
    attack: Attack
    knowledge: Knowledge
    purifier: Purifier
    published: float | None  # the victim's clean accuracy in % on the split that was evaluated
    probes: Mapping[str, Tensor] = field(default_factory=dict)  # results of audit.py, a row per image
    failed_probes: Mapping[str, str] = field(default_factory=dict)  # the errors of failed probes

    @property
    def attacked(self) -> bool:
        """Whether the cell has an attack."""
        return self.attack.needs is not None

    @property
    def classes(self) -> int:
        """The number of classes of the victim; ten if its network does not declare it."""
        return (self.cell.configs["victim"].get("network") or {}).get("classes", 10)

    @property
    def accuracy(self) -> float:
        return self.records.correct.mean()

    @property
    def standing(self) -> set[str]:
        """The ids of the images that are classified correctly."""
        return set(self.records.id[self.records.correct])

    def standing_in_ball_of(self, other: "Evidence") -> set[str] | None:
        """Return the ids of the images that withstand this attack within the other's ball; None if unknown.

        An attack that looks for the nearest example has no eps of its own, so its path is read at the other's
        eps.
        """
        if self.attack.norm != other.attack.norm:
            return None
        if self.attack.eps == other.attack.eps:
            return self.standing
        if self.attack.eps is None and self.attack.records_path and self.records.path.map(len).all():
            survivors = survived(self.records.path, eps=other.attack.eps, queries=self.records.queries.max())
            return set(self.records.id[survivors])
        return None
