"""How far a training is, kept in the store so that processes that wait for it can show it."""

import json
import time
from dataclasses import dataclass, field

from runners.store.store import Recipe, Store, key_of

EVERY = 5.0  # seconds between what is written


@dataclass(frozen=True)
class Reached:
    """The share of a training that is done, and the seconds that are left, where these are known already."""

    share: float
    left: float | None


@dataclass
class TrainingProgress:
    """The progress of the training of one artefact; only the process that trains writes it."""

    store: Store
    of: Recipe
    begun: tuple[float, float] | None = field(
        default=None, init=False
    )  # the time and share of the first report
    written: float = field(default=-EVERY, init=False)  # when it was written last

    @property
    def recipe(self) -> Recipe:
        """Its name in the store."""
        return {"stage": "progress", "of": key_of(self.of)}

    def report(self, share: float) -> None:
        """Keep how far the training is; called after each step, and written every few seconds."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = now, share
        if now - self.written < EVERY:
            return
        since, first = self.begun
        left = (now - since) * (1 - share) / (share - first) if share > first else None
        self.store.put(self.recipe, json.dumps({"share": share, "left": left}).encode())
        self.written = now

    def read(self) -> Reached | None:
        """How far another process says that it is, or None where it has not said so yet."""
        content = self.store.get(self.recipe)
        return None if content is None else Reached(**json.loads(content))

    def remove(self) -> None:
        """Forget it, once the training has ended in whatever way."""
        self.store.remove(self.recipe)
