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
    """One reason: its name in docs/flags.md, and what was seen here."""

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
    published: float | None  # the victim's clean accuracy in %
    probes: Mapping[str, Tensor] = field(default_factory=dict)  # of runners/validity/audit.py, images first
    failed_probes: Mapping[str, str] = field(default_factory=dict)  # and what was raised

    @property
    def attacked(self) -> bool:
        """Whether the cell has an attack."""
        return self.attack.needs is not None

    @property
    def classes(self) -> int:
        """How many the victim tells apart; ten where its network does not say."""
        return (self.cell.configs["victim"].get("network") or {}).get("classes", 10)

    @property
    def accuracy(self) -> float:
        return self.records.correct.mean()

    @property
    def standing(self) -> set[str]:
        """The ids of the images that are classified correctly."""
        return set(self.records.id[self.records.correct])

    def standing_in_ball_of(self, other: "Evidence") -> set[str] | None:
        """The ids of the images that this attack leaves right within the other's ball; None where that is not
        known. An attack that looks for the nearest example has no eps of its own: it is read off its path."""
        if self.attack.norm != other.attack.norm:
            return None
        if self.attack.eps == other.attack.eps:
            return self.standing
        if self.attack.eps is None and self.attack.records_path and self.records.path.map(len).all():
            stands = survived(self.records.path, eps=other.attack.eps, queries=self.records.queries.max())
            return set(self.records.id[stands])
        return None
