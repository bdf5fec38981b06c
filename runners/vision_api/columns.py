"""The column of one vision API: its pairs, the choice of iterations, and the records of every purifier."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from hydra.utils import get_class
from rich.console import Console

from attacks.knowledge import UnsuitedError
from data.errors import InputError, MissingError
from runners.evaluation.component import Component, Config
from runners.evaluation.contract import ContractChecks
from runners.evaluation.failures import one_line
from runners.evaluation.tasks import Purifying
from runners.evaluation.weights import ComponentLoader
from runners.tables.figures import Figure
from runners.vision_api.answers import Asker
from runners.vision_api.pairs import Candidates, Found, Pair, find
from runners.vision_api.restored import Restorer, criterion
from runners.vision_api.services.response import ServiceError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A purifier of the table.

    `iterations` are the numbers of iterations to choose from on the validation pairs; empty if it has none.
    """

    label: str
    defense: str | None
    name: str
    config: Config
    iterations: tuple[int, ...] = ()

    @property
    def undefended(self) -> bool:
        return get_class(self.config["_target_"]).changes_nothing

    def at(self, iterations: int | None) -> Config:
        """Return the config with this number of iterations, or unchanged if it is None."""
        return self.config if iterations is None else {**self.config, "iterations": iterations}


@dataclass
class Entry:
    """The outcome of one purifier in front of one API: the records of test pairs, or why there are none."""

    row: Row
    records: pd.DataFrame | None = None
    skipped: str | None = None
    failed: str | None = None
    iterations: int | None = None
    tried: dict[int, Figure] = field(default_factory=dict)  # on the validation pairs
    validation: list[pd.DataFrame] = field(default_factory=list)

    @property
    def status(self) -> str:
        return "skipped" if self.skipped is not None else "done" if self.records is not None else "failed"


@dataclass
class Column:
    """One API, with its answers or the reason why there are none."""

    name: str
    config: Config
    asker: Asker | None = None
    skipped: str | None = None
    failed: str | None = None
    found: Found = field(default_factory=Found)
    entries: list[Entry] = field(default_factory=list)

    @property
    def paper(self) -> str:
        """The name of the API in the paper's results."""
        return f"api-{self.asker.service.vendor}" if self.asker else f"api-{self.name}"


@dataclass
class Filler:
    """Fills columns; whatever the APIs share (adversarial examples, purifiers) is computed only once."""

    candidates: Candidates
    restorer: Restorer
    rows: Sequence[Row]
    pairs: int
    validation: int
    loader: ComponentLoader
    console: Console

    def __post_init__(self) -> None:
        self.checks = ContractChecks(self.restorer.worker, Console(quiet=True))

    def calls(self) -> dict[str, int]:
        """Return the most calls to a service that was never asked before, by their purpose."""
        tried = sum(len(row.iterations) for row in self.rows if len(row.iterations) > 1)
        bare = sum(row.undefended for row in self.rows)  # they need no more answers than the pairs have
        return {
            "to find pairs": 2 * len(self.candidates.positions),
            "to choose iterations": 2 * self.validation * tried,
            "for the purifiers": 2 * self.pairs * (len(self.rows) - bare),
        }

    def fill(self, column: Column) -> None:
        """Find the pairs of one API and evaluate every purifier on them.

        An error fails only what needed the answer, and the rest goes on.
        """
        asker = column.asker
        with self.console.status("") as status:

            def show(found: Found) -> None:
                status.update(
                    f"{column.name}: {len(found.pairs)} pairs among {found.looked_at} candidates, "
                    f"{asker.calls.spent} calls"
                )

            try:
                column.found = find(self.candidates, asker, self.pairs + self.validation, show)
            except ServiceError as error:
                column.failed = f"no pairs: {error}"
                return
            self._say(f"{len(column.found.pairs)} pairs among {column.found.looked_at} candidates", column)
            tuning = column.found.pairs[: self.validation]
            test = column.found.pairs[self.validation :]
            if not test:
                found = column.found
                column.failed = (
                    f"no pairs for the test: {len(found.pairs)} among {found.looked_at} candidates, of which "
                    f"validation={self.validation} are taken first; {found.shared} kept a label, "
                    f"{found.short} have fewer than {asker.service.labels} labels"
                )
                return
            for row in self.rows:
                status.update(f"{column.name}: {row.label}, {asker.calls.spent} calls")
                column.entries.append(self._entry(row, tuning, test, asker))
                self._say(f"{row.label} {column.entries[-1].status}", column)

    def _say(self, what: str, column: Column) -> None:
        """Print a line if there is no terminal that can show a status."""
        if not self.console.is_terminal:
            spent = column.asker.calls.spent
            self.console.print(f"{column.name}: {what}, {spent} calls so far", soft_wrap=True)

    def _entry(self, row: Row, tuning: Sequence[Pair], test: Sequence[Pair], asker: Asker) -> Entry:
        entry = Entry(row, iterations=row.iterations[0] if row.iterations else None)
        try:
            spec = self._prepared(row, entry.iterations)
            if self.restorer.worker.load(spec).uses_victim:
                raise UnsuitedError("it needs its victim's logits, and a vision API answers with labels")
            if reason := self._unsound(spec):
                entry.failed = reason
                return entry
            if len(row.iterations) > 1:
                self._choose(entry, tuning, asker)
            spec = self._prepared(row, entry.iterations)
            entry.records = self.restorer.records(test, spec, asker)
        except (MissingError, UnsuitedError) as error:
            entry.skipped = str(error)
        except InputError:
            raise
        except ServiceError as error:
            entry.failed = str(error)
        except Exception as error:
            log.debug("purifier failed", exc_info=True)
            entry.failed = one_line(error)
        return entry

    def _choose(self, entry: Entry, tuning: Sequence[Pair], asker: Asker) -> None:
        """Choose the number of iterations with the best prediction accuracy on the validation pairs.

        If several are equal, the smallest is chosen.
        """
        for iterations in entry.row.iterations:
            records = self.restorer.records(tuning, self._prepared(entry.row, iterations), asker)
            entry.validation.append(records.assign(iterations=iterations))
            entry.tried[iterations] = criterion(records)
        entry.iterations = max(entry.tried, key=lambda i: (entry.tried[i].value, -i))

    def _unsound(self, spec: Component) -> str | None:
        """Return why the purifier is not what it declares, or None if it is."""
        task = Purifying(self.candidates.crafting(0), (spec,))
        _, reasons = self.checks.sound([task])
        return next(iter(reasons.values()), None)

    def _prepared(self, row: Row, iterations: int | None) -> Component:
        return self.loader.load(row.at(iterations), row.name, "purifier")


def records_of(columns: Sequence[Column]) -> pd.DataFrame | None:
    """Return one row for each image pair, purifier and API, or None if there are no records.

    The validation pairs are included.
    """
    parts = []
    for column in columns:
        for entry in column.entries:
            about: Mapping[str, Any] = {"api": column.name, "purifier": entry.row.name}
            if entry.records is not None:
                parts.append(entry.records.assign(**about, part="test", iterations=entry.iterations))
            parts += [part.assign(**about, part="validation") for part in entry.validation]
    if not parts:
        return None
    return pd.concat(parts, ignore_index=True).astype({"iterations": "Int64"})
