"""Tables for the terminal, with one row per defense and one column per attack, as papers print them."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from runners.output import plain_table
from runners.tables import render

WIDTH = 100  # characters per line if the output is not a terminal
SHOWN = ("compact", "full")
ENTRY = "Each entry shows our result, its 95 % interval, and the paper's result if it prints one."


def for_console(
    frame: pd.DataFrame, heading: render.Heading, *, show: str = "compact", width: int = WIDTH
) -> Group:
    """Return the table in blocks of at most `width` characters, followed by its legend.

    Args:
        frame: the entries of the table.
        heading: the text around the results.
        show: "compact" keeps only the largest eps of each attack, and "full" keeps all columns.
        width: characters per line; columns that do not fit are printed in a block below.
    """
    legend = render.legend(render.complete(frame), heading)
    shown = largest_eps(frame) if show == "compact" else frame
    tables = blocks(shown, width)
    tables[0].title = heading.title
    left_out = [name for name in _names(frame) if name not in _names(shown)]
    notes = [ENTRY]
    notes += [f"Not shown: {', '.join(left_out)}. Set show=full to print all columns."] if left_out else []
    head = [Text(heading.note, style="bold yellow")] if heading.note else []
    return Group(*tables, *head, *(Text(line, style="dim") for line in [*notes, *legend]))


def check_show(show: str) -> None:
    """Raise InputError unless `show` names a form in which a table can be printed."""
    if show not in SHOWN:
        raise InputError(f"show: expected {' or '.join(SHOWN)}, got {show!r}")


def largest_eps(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the entries with only the largest eps of each attack in each row.

    Entries without eps are kept.
    """
    largest = frame.groupby(["row", "column", "knowledge_kind"], sort=False).eps_255.transform("max")
    return frame[frame.eps_255.isna() | (frame.eps_255 == largest)]


def _names(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns in their order."""
    return list(dict.fromkeys(render.column_name(entry) for _, entry in frame.iterrows()))


def blocks(frame: pd.DataFrame, width: int) -> list[Table]:
    """Split the columns into as few tables as possible that each fit into `width` characters."""
    names = _names(frame)
    for count in range(1, len(names) + 1):
        parts = [names[i * len(names) // count : (i + 1) * len(names) // count] for i in range(count)]
        tables = [_block(frame, part) for part in parts]
        if all(_needed(table) <= width for table in tables):
            break
    return tables


def _needed(table: Table) -> int:
    """Return the number of characters that a table needs if no word is cut."""
    wide = Console(width=1000)
    return Measurement.get(wide, wide.options, table).minimum


def _block(frame: pd.DataFrame, names: Sequence[str]) -> Table:
    """Return a table with the columns of these names and a row for each defense."""
    table = plain_table()
    words = [word for row in frame.row for word in str(row).split()]
    table.add_column("Defense", min_width=max(map(len, words)), style="bold")
    for name in names:
        table.add_column(Text(name), justify="right", min_width=max(map(len, name.split())))
    for name, entries in frame.groupby("row", sort=False):
        by_name = {render.column_name(entry): entry for _, entry in entries.iterrows()}
        cells = [_entry(by_name[column]) if column in by_name else Text() for column in names]
        table.add_row(Text(str(name)), *cells)
        table.add_section()
    return table


def _entry(entry: pd.Series) -> Text:
    """Return our result, its interval and the paper's result as lines of text."""
    lines = [
        (render.value_text(entry), "bold"),
        (render.interval_text(entry), "dim"),
        (render.paper_text(entry), "cyan"),
    ]
    shown = [(text, style) for text, style in lines if text]
    return Text("\n").join(Text(text, style=style, no_wrap=True) for text, style in shown)
