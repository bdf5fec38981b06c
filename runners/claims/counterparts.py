"""How many of the papers' printed figures have a figure of ours beside them, and what is said of them."""

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

    A figure has a counterpart where a finished table shows ours beside it. `real data` are those not only on
    the embedded data, `own data` those on the data set that the figure is printed for, `verdict` those that
    may be compared, on the paper's own data, victim and number of images, and `matches` those that agree.
    """
    found: dict[tuple[str, int], set[str]] = {}
    for one in tables:
        for line, kinds in _figures(one).items():
            found.setdefault((config_of(one.name).paper, line), set()).update(kinds)
    rows = {}
    for paper in papers:
        mine = [kinds for (of, _), kinds in found.items() if of == paper]
        rows[paper] = [len(figures_of(paper)), *(sum(kind in kinds for kinds in mine) for kind in COUNTS[1:])]
    counts = pd.DataFrame.from_dict(rows, orient="index", columns=list(COUNTS))
    counts.loc["all"] = counts.sum()
    return counts


def _figures(one: Finished) -> dict[int, set[str]]:
    """What may be said of each of the paper's figures, by its line, that the table shows ours beside."""
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
    found = {}
    for row in rows:
        for column in [*columns, *ends]:
            eps = column.get("eps", row.get("eps"))
            attack = column.get("attack", row.get("attack")) or ""
            entry = ours.get((row.label, column.label, None if eps is None else float(eps), attack))
            lines = figure_of(figures, row, column, table.get("metric", "accuracy")).index
            if entry is not None and len(lines):
                verdict = {"verdict"} if entry.verdict else set()
                found[lines[0]] = kinds | verdict | ({"matches"} if entry.verdict == "matches" else set())
    return found
