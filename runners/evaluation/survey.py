"""How far a table is, read from the store alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runners.evaluation import failures
from runners.evaluation.failures import Failure
from runners.evaluation.manifest import Manifest
from runners.store.leases import Holder
from runners.store.store import Store, key_of


@dataclass
class StoreStatus:
    """The chunks of a table's cells by their state; a chunk of two cells counts twice.

    `running` holds who works on it by claim, `failed` the failure by cell and chunk. `left` is an estimate of
    the work that is neither done nor failed, in seconds of one process.
    """

    done: int = 0
    missing: int = 0
    running: dict[str, Holder] = field(default_factory=dict)
    failed: list[tuple[str, int, Failure]] = field(default_factory=list)
    in_hand: int = 0
    left: float = 0.0

    @property
    def total(self) -> int:
        """All chunks of all cells."""
        return self.done + self.missing + self.in_hand + len(self.failed)

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be done."""
        return self.done == self.total


def survey(store: Store, of: Manifest, alive: Mapping[str, Holder] | None = None) -> StoreStatus:
    """How far a table is; `alive` are the living claims, where they are known already."""
    alive = store.leases.alive() if alive is None else alive
    there = {
        stage: {entry.name for entry in store.files(stage)}
        for stage in ("records", "failures", "adversarial")
    }
    found, work = StoreStatus(), set()
    for cell, chunks in of.cells.items():
        for i, (crafting, purifying, _, records) in enumerate(chunks):
            if records in there["records"]:
                found.done += 1
                continue
            if holder := alive.get(purifying) or alive.get(crafting):
                found.running[purifying if purifying in alive else crafting] = holder
                found.in_hand += 1
            elif failure := _failure(store, (records, crafting), there["failures"]):
                found.failed.append((cell, i, failure))
                continue
            else:
                found.missing += 1
            work |= {purifying} if crafting in there["adversarial"] else {purifying, crafting}
    found.left = sum(of.seconds.get(key, 0.0) for key in work)
    return found


def _failure(store: Store, keys: Sequence[str], there: set[str]) -> Failure | None:
    for key in keys:
        if key_of(failures.recipe_of(key)) in there and (failure := failures.of(store, key)):
            return failure
    return None
