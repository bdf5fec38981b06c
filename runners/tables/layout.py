"""The rows, columns and cells that a table has on a data set and victim."""

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

OWN = ("dataset", "victim")  # these parts are the same in the whole table


def on(entries: list[DictConfig], dataset: str, victim: str) -> list[DictConfig]:
    """Return the rows or columns that apply to this data set and victim.

    The key `for` of an entry says what differs there, by the name of the data set or of the victim: other
    values, words to be added to the cell (`also`), or null if the entry does not exist there. What is given
    for the victim takes precedence.
    """
    applicable = []
    for entry in entries:
        by_name = entry.get("for", {})
        changes = [by_name[name] for name in (dataset, victim) if name in by_name]
        if None in changes:
            continue
        # Interpolations are resolved now, because the copy does not belong to the config.
        values = OmegaConf.to_container(entry, resolve=True)
        plain_entry = OmegaConf.create({name: item for name, item in values.items() if name != "for"})
        for change in changes:
            plain_entry = OmegaConf.merge(plain_entry, change)
            plain_entry.cell = [*plain_entry.get("cell", []), *plain_entry.pop("also", [])]
        if "cell" in plain_entry:  # an interpolation of null within a word has become the text None
            plain_entry.cell = [re.sub(r"=None$", "=null", word) for word in plain_entry.cell]
        if "label" in plain_entry:
            plain_entry.label = str(plain_entry.label)  # it may be given as a number, such as 90
        applicable.append(plain_entry)
    return applicable


def chosen(rows: list[DictConfig], labels: Sequence[str], composer: "Composer") -> list[DictConfig]:
    """Return the rows of these labels and the undefended victim's. Raises InputError for an unknown label."""
    known = [row.label for row in rows]
    unknown = [label for label in labels if label not in known] if isinstance(labels, list) else [labels]
    if unknown:
        got = ", ".join(map(str, unknown))
        raise InputError(f"only: expected a list of labels of rows ({', '.join(known)}), got {got}")
    return [row for row in rows if row.label in labels or composer.cell(list(row.get("cell", []))).undefended]


def added(asked: Sequence[str | DictConfig]) -> list[DictConfig]:
    """Return the rows to be added to a table.

    Each is given as the name of a purifier's config, optionally with parameters ("gamma power=2"), or as a
    row in the form of a table's config. The rows are marked as added, and are not compared with any result of
    a paper. Raises InputError for anything else.
    """
    return [_added(entry) for entry in ([asked] if isinstance(asked, str) else asked)]


def _added(entry: str | DictConfig) -> DictConfig:
    forms = "rows=[gamma], rows=['gamma power=2'] or rows=[{label: G, cell: [purifier=gamma]}]"
    if isinstance(entry, DictConfig):
        if not {"label", "cell"} <= set(entry):
            raise InputError(f"rows: expected {forms}, got {entry}")
        label, cell = str(entry.label), list(entry.cell)
    else:
        name, *parameters = str(entry).split() or [""]
        if not name or "=" in name or not all("=" in word for word in parameters):
            raise InputError(f"rows: expected {forms}, got {str(entry)!r}")
        label, cell = str(entry), [f"purifier={name}", *(f"purifier.{word}" for word in parameters)]
    return OmegaConf.create({"label": f"{label} (added)", "cell": cell, "added": label})


def part_of(word: str) -> str:
    """Return the part of a cell that a word sets.

    It is purifier for purifier=ddip, purifier.steps=9 and network@purifier.trace.network=small.
    """
    return word.split("=")[0].split(".")[0].split("@")[-1].lstrip("+~")


def changes_of(words: Sequence[str], *parts: str) -> list[str]:
    """Return the words that change a setting within these parts.

    Examples are victim.size=9, +dataset.x=1 and recipe@victim.weights=a.
    """
    return [word for word in words if part_of(word) in parts and {".", "@"} & set(word.split("=")[0])]


class Composer:
    """Composes the configs of cells from the words that a user would type on the command line.

    Args:
        config: the composed config of the table's runner.
        choices: the names of the data set and the victim.
        words: the words on the command line; dataset.x=... and victim.x=... become part of every cell's
            command.
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
        """Return the cells of a table, row by row."""

        def cell(row: DictConfig, column: DictConfig) -> Cell:
            return self.cell([word for entry in (table, row, column) for word in entry.get("cell", [])])

        # A new row is composed together with a new column, which takes the fewest compositions. The last rows
        # come first, since the user may have added them: a mistake in them is then reported at once.
        for i in range(max(len(rows), len(columns))):
            cell(rows[-1 - i % len(rows)], columns[i % len(columns)])
        return [(row, column, cell(row, column)) for row in rows for column in columns]

    def cell(self, overrides: list[str]) -> Cell:
        """Return the cell of these overrides on the table's data set and victim.

        Raises InputError for words that set any other part, or that do not compose.
        """
        allowed = [part for part in PARTS if part not in self.base]
        own = {part: tuple(word for word in overrides if part_of(word) == part) for part in allowed}
        if stray := [word for word in overrides if part_of(word) not in allowed]:
            raise InputError(
                f"table: a cell's words set {', '.join(allowed)}; got {', '.join(stray)} (dataset, victim "
                "and settings are the whole table's)"
            )
        if missing := {part: words for part, words in own.items() if (part, words) not in self.known}:
            self._compose(missing)
        parts = {**self.base, **{part: self.known[part, words] for part, words in own.items()}}
        return Cell(
            names={part: name for part, (name, _) in parts.items()},
            configs={part: content for part, (_, content) in parts.items()},
            command=" ".join(["python -m runners.evaluate", *self.before, *overrides, *self.after]),
        )

    def _compose(self, parts: dict[str, tuple[str, ...]]) -> None:
        """Compose parts of a cell, each from its own words.

        They are composed all at once, because a composition takes a tenth of a second however many parts it
        has.
        """
        words = [word for own in parts.values() for word in own]
        overrides = [*self.before, *words, f"data_dir='{self.config.data_dir}'"]
        try:
            composed = compose("evaluate", overrides, return_hydra_config=True)
        except ConfigCompositionException as error:
            if len(parts) > 1:
                for part, own in parts.items():
                    self._compose({part: own})  # raises if these words are wrong
            raise InputError(f"table: {' '.join(words)}: {explain(error, 'evaluate', words)}") from error
        for part, own in parts.items():
            self.known[part, own] = composed.hydra.runtime.choices[part], to_plain_dict(composed[part])
