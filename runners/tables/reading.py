"""Reads a finished table from its files: a CSV file of results, a JSON file beside it, and the records."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import pandas as pd

from attacks.knowledge import MEANING
from data.errors import InputError
from runners import untrusted
from runners.tables import render, saved
from runners.tables.agreement import Agreement
from runners.tables.frame import COLUMNS

TEXT = ("row", "defense", "column", "attack", "knowledge", "knowledge_kind", "metric", "flags", "verdict",
        "status", "note", "command", "record")  # fmt: skip
ADDED_LATER = ("queries", "knowledge_kind")  # columns that older tables lack
SAFE = {  # values that are looked up, become part of file names, or are copied into a shell
    "knowledge_kind": re.compile("|".join(MEANING)),
    "record": re.compile("[0-9a-f]{8}"),
    "command": re.compile(r"python -m runners\.\w+( [^;|&<>`$\\]*)?"),
}
HEADING = {"title": str, "note": str, "setting": str, "legend": [str]}  # in the JSON file of a table
AGREEMENT = {  # the same, for its agreement with the paper
    **dict.fromkeys(("same", "opposite", "undecided", "figures"), int),
    **dict.fromkeys(("correlation", "low", "high"), (float, int, NoneType)),
}


@dataclass(frozen=True)
class Table:
    """A finished table as read from files: its frame, its records (perhaps none), and the text around it."""

    stem: str
    frame: pd.DataFrame
    records: pd.DataFrame
    title: str
    note: str
    setting: str
    legend: Sequence[str]
    agreement: Agreement | None = None  # with the paper's figures

    @classmethod
    def read(cls, path: Path) -> "Table":
        """Read the table of this CSV file and of the files beside it.

        Raises InputError if the files are not those of a table.
        """
        try:
            frame = pd.read_csv(
                path, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(TEXT, object)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
        if lacking := [name for name in COLUMNS if name not in (*frame, *ADDED_LATER)]:
            raise InputError(f"{path}: expected a table's columns; it lacks {', '.join(lacking)}")
        saved.check(path)
        if "knowledge_kind" not in frame:
            frame["knowledge_kind"] = frame["knowledge"]
        frame = frame.assign(**{name: frame[name].fillna("") for name in TEXT}, best=frame.best.astype(bool))
        if "queries" not in frame:
            frame["queries"] = float("nan")
        for name in TEXT:
            for value in frame[name].dropna().unique():
                untrusted.check_text(value, f"{path}: {name}")
                if value and name in SAFE and not SAFE[name].fullmatch(value):
                    raise InputError(f"{path}: {name}: expected {SAFE[name].pattern}, got {value!r:.80}")
        beside = path.with_suffix(".json")
        parquet = path.with_name(path.stem + saved.RECORDS)
        if frame.empty:
            raise InputError(f"{path}: expected figures, got none; make the table again")
        try:
            stored = untrusted.parsed(beside.read_bytes(), str(beside), {}) if beside.is_file() else {}
            records = pd.read_parquet(parquet) if parquet.is_file() else pd.DataFrame({"command": []})
        except (OSError, ValueError) as error:
            raise InputError(
                f"{beside} or {parquet}: cannot be read ({error}); make the table again"
            ) from error
        if "id" in records and (twice := int(records.duplicated(["command", "id"]).sum())):
            raise InputError(
                f"{parquet}: expected each image of a cell once, got {twice} rows twice; make the table again"
            )
        untrusted.check_shape(
            stored, {name: kind for name, kind in HEADING.items() if name in stored}, str(beside)
        )
        heading = render.Heading(
            stored.get("title", path.stem), stored.get("note", ""), stored.get("setting", "")
        )
        legend = stored.get("legend") or render.legend(frame, heading)
        agrees = None
        if stored.get("agreement") is not None:
            untrusted.check_shape(stored["agreement"], AGREEMENT, f"{beside}: agreement")
            agrees = Agreement(**{name: stored["agreement"][name] for name in AGREEMENT})
        return cls(path.stem, frame, records, heading.title, heading.note, heading.setting, legend, agrees)
