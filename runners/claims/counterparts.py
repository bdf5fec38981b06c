"""Counts the papers' printed results that have a counterpart among our results."""

from collections.abc import Sequence

import pandas as pd

from runners.claims.finished import Finished
from runners.claims.shape import config_of
from runners.tables.layout import on
from runners.tables.paper_results import figure_of, figures_of, panel_for, printed
from runners.tables.saved import EMBEDDED

COUNTS = ("printed", "counterpart", "real data", "own data", "verdict", "matches")


def counted(papers: Sequence[str], tables: Sequence[Finished]) -> pd.DataFrame:
    """Return the counts of each paper, with those of all papers in the last row, `all`.

    A printed result has a counterpart if a finished table shows our result beside it. `real data` counts
    counterparts on other data than the embedded data set, `own data` those on the data set that the result is
    printed for, `verdict` those that may be compared, because data, victim and number of images are the
    paper's own, and `matches` those that agree.
    """
    kinds_of: dict[tuple[str, int], set[str]] = {}
    for table in tables:
        for line, kinds in _figures(table).items():
            kinds_of.setdefault((config_of(table.name).paper, line), set()).update(kinds)
    rows = {}
    for paper in papers:
        kinds_of_paper = [kinds for (name, _), kinds in kinds_of.items() if name == paper]
        rows[paper] = [
            len(figures_of(paper)),
            *(sum(kind in kinds for kinds in kinds_of_paper) for kind in COUNTS[1:]),
        ]
    counts = pd.DataFrame.from_dict(rows, orient="index", columns=list(COUNTS))
    counts.loc["all"] = counts.sum()
    return counts


def _figures(one: Finished) -> dict[int, set[str]]:
    """Return which of COUNTS apply to each of the paper's results that has a counterpart in the table.

    The results are identified by their rows in the paper's file.
    """
    table = config_of(one.name)
    figures = printed(table, panel_for(table, one.dataset, one.victim))
    kinds = {"counterpart"}
    kinds |= {"real data"} if one.dataset != EMBEDDED[0] else set()
    kinds |= {"own data"} if one.panel is not None and one.dataset == one.panel.dataset else set()
    frame = one.table.frame
    ours = {
        (entry.row, entry.column, None if pd.isna(entry.eps_255) else entry.eps_255, entry.attack): entry
        for _, entry in frame[frame.value.notna() & frame.paper.notna()].iterrows()
    }
    rows, columns = (on(entries, one.dataset, one.victim) for entries in (table.rows, table.columns))
    ends = [table[end] for end in ("average", "worst") if table.get(end)]
    kinds_of = {}
    for row in rows:
        for column in [*columns, *ends]:
            eps = column.get("eps", row.get("eps"))
            attack = column.get("attack", row.get("attack")) or ""
            entry = ours.get((row.label, column.label, None if eps is None else float(eps), attack))
            lines = figure_of(figures, row, column, table.get("metric", "accuracy")).index
            if entry is not None and len(lines):
                verdict = {"verdict"} if entry.verdict else set()
                kinds_of[lines[0]] = kinds | verdict | ({"matches"} if entry.verdict == "matches" else set())
    return kinds_of
