"""The console of the commands, and the text of tables, durations and counts."""

import os

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


class Output(Console):
    """Standard output, which accepts text after its reader has closed it, as `head` does."""

    def on_broken_pipe(self) -> None:
        """Discard all further output, instead of ending the process as rich does."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def plain_table(*headings: str, title: str | None = None) -> Table:
    """Return a table without rules between its columns, with its title on the left."""
    return Table(*headings, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def quantity(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun in the singular or the plural: '1 chunk', '1,204 images'."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Return a duration as text, such as '40 s', '7 min' or '3.2 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
