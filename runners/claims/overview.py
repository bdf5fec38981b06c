"""An overview of all papers for the console."""

from collections.abc import Sequence

import pandas as pd
from rich.table import Table

from runners.claims.finished import Finished
from runners.output import plain_table


def agreements(tables: Sequence[Finished]) -> Table:
    """Return a table that shows how well each finished table repeats the order of its paper's results."""
    headings = ("finished table", "data, victim, n", "same", "other", "open", "rank correlation")
    shown = plain_table(*headings)
    for table in sorted(tables, key=lambda table: table.name):
        agrees = table.table.agreement
        setting = f"{table.dataset}, {table.victim}, {table.images:,}"
        if agrees is None:
            shown.add_row(table.name, setting, "–", "–", "–", "–")
            continue
        pairs = [str(count) for count in (agrees.same, agrees.opposite, agrees.undecided)]
        rank = "–"
        if agrees.correlation is not None:
            rank = f"{agrees.correlation:.2f} [{agrees.low:.2f}, {agrees.high:.2f}]"
        shown.add_row(table.name, setting, *pairs, rank)
    for place in (2, 3, 4):
        shown.columns[place].justify = "right"
    shown.caption = (
        "Of the pairs of entries in a column that the paper separates by more than 5 points: how many are "
        "ordered the same way here beyond chance, how many the other way, and how many are undecided. Rank "
        "correlation: Spearman's, of all figures with the paper's, and its 95 % interval. –: the table has "
        "no records, or the paper prints no figures of it."
    )
    return shown


def counts(counted: pd.DataFrame) -> Table:
    """Return a table of how many printed results of each paper have one of ours beside them.

    It also shows how many of these are on real data, on the paper's data, with a verdict, and matches.
    """
    shown = plain_table("paper", *counted.columns)
    for paper, row in counted.iterrows():
        shown.add_row(str(paper), *(f"{count:,}" for count in row), style="bold" if paper == "all" else "")
    for column in shown.columns[1:]:
        column.justify = "right"
    shown.caption = (
        "Printed figures; those with a figure of ours beside them in a finished table; those where ours is "
        "of real data, and of the data set that the paper prints; those with a verdict, where data, victim "
        "and number of images are the paper's too; and those that match."
    )
    return shown
