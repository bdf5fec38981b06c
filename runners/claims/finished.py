"""Finished tables: which table of a paper each is, on which data set and victim, and with what records."""

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

SETTING = re.compile(r" dataset=(\S+) victim=(\S+)")  # how the command of every cell begins


@dataclass(frozen=True)
class Finished:
    """A table as it lies in files: its name, the data set and victim that it was made on, the setting of the
    paper that comes nearest, and its figures and records."""

    name: str
    dataset: str
    victim: str
    panel: PaperSetting | None
    table: Table

    @property
    def nearness(self) -> tuple[bool, ...]:
        """Greater where it is nearer to the paper's: its victim, a stand-in, its data set, real data."""
        same = self.panel is not None and self.dataset == self.panel.dataset
        own = same and self.victim == self.panel.victim
        return own, same and self.victim in self.panel.stand_ins, same, self.dataset != EMBEDDED[0]

    @property
    def images(self) -> int:
        """The largest number of images behind a figure."""
        return int(self.table.frame.n.max()) if self.table.frame.n.notna().any() else 0

    @cached_property
    def values(self) -> Values:
        """The values of each image behind each entry."""
        return Values(self.table.frame, self.table.records)

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Where in the frame the entry of a row's label and a column's name stands."""
        entries = self.table.frame.iterrows()
        return {(entry.row, column_name(entry)): place for place, (_, entry) in enumerate(entries)}

    def check_records(self) -> None:
        """Raise InputError where there are records without the columns of this version's record files."""
        records = self.table.records
        ours, theirs = {column.name for column in COLUMNS}, set(records.columns)
        if records.empty or (ours == theirs and records.correct.dtype == bool):
            return
        got = [
            f"{told} {', '.join(sorted(names))}"
            for told, names in (("without", ours - theirs), ("with", theirs - ours))
            if names
        ]
        raise InputError(
            f"{self.table.stem}{RECORDS}: expected the columns of this version's record files, got others: "
            f"{' and '.join(got) or f'correct is {records.correct.dtype}'}; make the table again"
        )


def finished(folder: Path, names: Iterable[str]) -> list[Finished]:
    """The finished tables of a folder that are one of these tables, the nearest to the paper's own first."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        with untrusted.readable(str(path)):
            first = pd.read_csv(path, usecols=lambda name: name == "command", dtype=object)
        setting = SETTING.search(" ".join(first.get("command", pd.Series(dtype=object)).dropna().head(1)))
        if setting is None:
            continue
        choices = {"dataset": setting[1], "victim": setting[2]}
        stems = {name: stem_of({"table": name, **choices}) for name in names}
        for name, stem in stems.items():
            if path.stem == stem or path.stem.startswith((f"{stem}-only-", f"{stem}-with-")):
                table = Table.read(path)
                panel = panel_for(config_of(name), **choices)
                found.append(Finished(name, **choices, panel=panel, table=table))
    return sorted(found, key=lambda one: (one.nearness, one.images), reverse=True)
