"""The shape of a table: what rows and columns set on a data set and victim, and the cells they meet in."""

import re
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from data.errors import InputError
from runners.config_errors import explain
from runners.evaluation.cell import PARTS, Cell
from runners.evaluation.component import Config, to_plain_dict

OWN = ("dataset", "victim")  # the whole table's


def on(entries: list[DictConfig], dataset: str, victim: str) -> list[DictConfig]:
    """Rows or columns as they are on this data set and victim: `for` holds what differs there, by the name of
    the data set, then of the victim: other values, words to be set `also`; null: no such entry."""
    found = []
    for entry in entries:
        own = entry.get("for", {})
        here = [own[name] for name in (dataset, victim) if name in own]
        if None in here:
            continue
        values = OmegaConf.to_container(entry, resolve=True)  # now: the copy belongs to no config
        plain_entry = OmegaConf.create({name: item for name, item in values.items() if name != "for"})
        for differs in here:
            plain_entry = OmegaConf.merge(plain_entry, differs)
            plain_entry.cell = [*plain_entry.get("cell", []), *plain_entry.pop("also", [])]
        if "cell" in plain_entry:  # an interpolation of null within a word has become the text None
            plain_entry.cell = [re.sub(r"=None$", "=null", word) for word in plain_entry.cell]
        found.append(plain_entry)
    return found


def chosen(rows: list[DictConfig], labels: Sequence[str], composer: "Composer") -> list[DictConfig]:
    """The rows of these labels, and the undefended victim's. Raises InputError for an unknown label."""
    there = [row.label for row in rows]
    if isinstance(labels, str) or (unknown := [label for label in labels if label not in there]):
        got = labels if isinstance(labels, str) else ", ".join(map(str, unknown))
        raise InputError(f"only: expected a list of labels of rows ({', '.join(there)}), got {got}")
    return [row for row in rows if row.label in labels or composer.cell(list(row.get("cell", []))).undefended]


def added(asked: Sequence[str | DictConfig]) -> list[DictConfig]:
    """Rows to be added to a table: each is the name of a purifier's config, with its parameters if need be
    ("gamma power=2"), or a row as a table's config has it. They are marked as added, and stand for no figure
    of a paper. Raises InputError for anything else.
    """
    return [_added(entry) for entry in ([asked] if isinstance(asked, str) else asked)]


def _added(entry: str | DictConfig) -> DictConfig:
    like = "rows=[gamma], rows=['gamma power=2'] or rows=[{label: G, cell: [purifier=gamma]}]"
    if isinstance(entry, DictConfig):
        if not {"label", "cell"} <= set(entry):
            raise InputError(f"rows: expected {like}, got {entry}")
        label, cell = entry.label, list(entry.cell)
    else:
        name, *parameters = str(entry).split() or [""]
        if not name or "=" in name or not all("=" in word for word in parameters):
            raise InputError(f"rows: expected {like}, got {str(entry)!r}")
        label, cell = str(entry), [f"purifier={name}", *(f"purifier.{word}" for word in parameters)]
    return OmegaConf.create({"label": f"{label} (added)", "cell": cell, "added": label})


def part_of(word: str) -> str:
    """purifier, of purifier=ddip, purifier.steps=9 and network@purifier.trace.network=small."""
    return word.split("=")[0].split(".")[0].split("@")[-1].lstrip("+~")


def changes_of(words: Sequence[str], *parts: str) -> list[str]:
    """The words that change what is in these parts: victim.size=9, +dataset.x=1, recipe@victim.weights=a."""
    return [word for word in words if part_of(word) in parts and {".", "@"} & set(word.split("=")[0])]


class Composer:
    """Configs of cells from the words one would type on the command line.

    Args:
        config: the composed config of the table's runner.
        choices: the names of the data set and the victim.
        words: what was typed, of which dataset.x=... and victim.x=... belong to every cell's command.
    """

    def __init__(self, config: DictConfig, choices: Any, words: list[str]) -> None:
        self.config = config
        self.base = {part: (choices[part], to_plain_dict(config[part])) for part in OWN}
        run = [f"{name}={config[name]}" for name in ("n", "seed", "split", "subset", "chunk")]
        run += ["tf32=true"] * config.tf32 + [f"draws={config.draws}"] * (config.draws != "auto")
        typed = changes_of(words, *OWN)
        self.before = [*(f"{part}={self.base[part][0]}" for part in OWN), *typed]
        self.after = run
        self.known: dict[tuple[str, tuple[str, ...]], tuple[str, Config]] = {}

    def cells(
        self, table: DictConfig, rows: Sequence[DictConfig], columns: Sequence[DictConfig]
    ) -> list[tuple[DictConfig, DictConfig, Cell]]:
        """The cells of a table, row by row."""

        def cell(row: DictConfig, column: DictConfig) -> Cell:
            return self.cell([word for entry in (table, row, column) for word in entry.get("cell", [])])

        # A new row is composed together with a new column, which takes the fewest compositions. The last rows
        # come first, since they may be those that the user has added: a mistake in them is told at once.
        for i in range(max(len(rows), len(columns))):
            cell(rows[-1 - i % len(rows)], columns[i % len(columns)])
        return [(row, column, cell(row, column)) for row in rows for column in columns]

    def cell(self, overrides: list[str]) -> Cell:
        """The cell of these overrides on the table's data set and victim."""
        taken = [part for part in PARTS if part not in self.base]
        own = {part: tuple(word for word in overrides if part_of(word) == part) for part in taken}
        if stray := [word for word in overrides if part_of(word) not in taken]:
            raise InputError(
                f"table: a cell's words set {', '.join(taken)}; got {', '.join(stray)} (dataset, victim and "
                "settings are the whole table's)"
            )
        if lacking := {part: words for part, words in own.items() if (part, words) not in self.known}:
            self._compose(lacking)
        parts = {**self.base, **{part: self.known[part, words] for part, words in own.items()}}
        return Cell(
            names={part: name for part, (name, _) in parts.items()},
            configs={part: content for part, (_, content) in parts.items()},
            command=" ".join(["python -m runners.evaluate", *self.before, *overrides, *self.after]),
        )

    def _compose(self, parts: dict[str, tuple[str, ...]]) -> None:
        """Compose parts of a cell, each from its own words, all at once: a composition takes a tenth of a
        second, however many parts it has."""
        words = [word for own in parts.values() for word in own]
        asked = [*self.before, *words, f"data_dir='{self.config.data_dir}'"]
        try:
            composed = compose("evaluate", asked, return_hydra_config=True)
        except ConfigCompositionException as error:
            if len(parts) > 1:
                for part, own in parts.items():
                    self._compose({part: own})  # raises where these words are wrong
            raise InputError(f"table: {' '.join(words)}: {explain(error, 'evaluate', words)}") from error
        for part, own in parts.items():
            self.known[part, own] = composed.hydra.runtime.choices[part], to_plain_dict(composed[part])
