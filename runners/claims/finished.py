"""Finished tables, each with its name, its data set and victim, and its results and records."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from data.errors import InputError
from runners import untrusted
from runners.claims.shape import config_of
from runners.evaluation.schema import COLUMNS
from runners.tables.paper_results import PaperSetting, panel_for
from runners.tables.reading import Table
from runners.tables.render import column_name
from runners.tables.saved import EMBEDDED, RECORDS, stem_of
from runners.tables.values import Values

SETTING = re.compile(r" dataset=(\S+) victim=(\S+)")  # at the beginning of every cell's command


@dataclass(frozen=True)
class Finished:
    """A finished table that was read from its files.

    It has a name, the data set and victim that it was made on, the nearest setting of the paper, and its
    results and records.
    """

    name: str
    dataset: str
    victim: str
    panel: PaperSetting | None
    table: Table

    @property
    def nearness(self) -> tuple[bool, ...]:
        """A key for sorting that is greater for tables that are nearer to the paper's.

        It says whether the table has the paper's victim, a stand-in for it, the paper's data set, and real
        data.
        """
        same = self.panel is not None and self.dataset == self.panel.dataset
        own = same and self.victim == self.panel.victim
        return own, same and self.victim in self.panel.stand_ins, same, self.dataset != EMBEDDED[0]

    @property
    def images(self) -> int:
        """The largest number of images behind a result."""
        return int(self.table.frame.n.max()) if self.table.frame.n.notna().any() else 0

    @cached_property
    def values(self) -> Values:
        """The values of each image behind each entry."""
        return Values(self.table.frame, self.table.records)

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """The position of each entry in the frame, by the label of its row and the name of its column."""
        entries = self.table.frame.iterrows()
        return {(entry.row, column_name(entry)): place for place, (_, entry) in enumerate(entries)}

    def check_records(self) -> None:
        """Raise InputError if there are records without the columns of this version's record files."""
        records = self.table.records
        ours, theirs = {column.name for column in COLUMNS}, set(records.columns)
        if records.empty or (ours == theirs and records.correct.dtype == bool):
            return
        got = [
            f"{preposition} {', '.join(sorted(names))}"
            for preposition, names in (("without", ours - theirs), ("with", theirs - ours))
            if names
        ]
        raise InputError(
            f"{self.table.stem}{RECORDS}: expected the columns of this version's record files, got others: "
            f"{' and '.join(got) or f'correct is {records.correct.dtype}'}; make the table again"
        )


def finished(folder: Path, names: Iterable[str]) -> list[Finished]:
    """Return the finished tables of a folder with these names, the nearest to the paper's own first."""
    tables = []
    for path in sorted(folder.glob("*.csv")):
        with untrusted.readable(str(path)):
            commands = pd.read_csv(path, usecols=lambda name: name == "command", dtype=object)
        setting = SETTING.search(" ".join(commands.get("command", pd.Series(dtype=object)).dropna().head(1)))
        if setting is None:
            continue
        choices = {"dataset": setting[1], "victim": setting[2]}
        stems = {name: stem_of({"table": name, **choices}) for name in names}
        for name, stem in stems.items():
            if path.stem == stem or path.stem.startswith((f"{stem}-only-", f"{stem}-with-")):
                table = Table.read(path)
                panel = panel_for(config_of(name), **choices)
                tables.append(Finished(name, **choices, panel=panel, table=table))
    return sorted(tables, key=lambda entry: (entry.nearness, entry.images), reverse=True)
