"""Renders the table of purifiers in front of vision APIs as Markdown, CSV and LaTeX and for the console."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.text import Text

from runners.files import write_together
from runners.output import plain_table
from runners.tables.render import markdown_table
from runners.vision_api.restored import METRICS

LINES = ("ours", "95 %", "paper")


def write(
    frame: pd.DataFrame, chosen: pd.DataFrame, title: str, notes: Sequence[str], stem: Path
) -> list[Path]:
    """Write stem.md, .csv and .tex, and stem-iterations.csv if iterations were chosen; return the paths."""
    contents = {
        ".md": markdown(frame, chosen, title, notes),
        ".csv": frame.to_csv(index=False),
        ".tex": latex(frame, title, notes),
    }
    if len(chosen):
        contents["-iterations.csv"] = chosen.to_csv(index=False)
    files = {stem.parent / f"{stem.name}{ending}": text.encode() for ending, text in contents.items()}
    write_together(files)
    return list(files)


def block(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the results of a metric as text in the paper's shape.

    The lines of a purifier are below one another, and each API has one column with standard / robust.
    """
    entries_of_metric, rows = frame[frame.metric == metric], []
    for label, entries in entries_of_metric.groupby("row", sort=False):
        for line in LINES:
            cells = {
                api: _cell(pair.set_index("images"), line) for api, pair in entries.groupby("api", sort=False)
            }
            if any(cells.values()):
                rows.append({"Defense": label if line == "ours" else "", "": line, **cells})
    return pd.DataFrame(rows).fillna("")


def _cell(pair: pd.DataFrame, line: str) -> str:
    first = pair.loc["standard"]
    if line == "paper":
        values = [pair.loc[images].paper for images in ("standard", "robust")]
        return "" if any(map(pd.isna, values)) else " / ".join(f"{value:.2f}" for value in values)
    if first.status != "done":
        return {"failed": "failed", "skipped": "–"}[first.status] if line == "ours" else ""
    entries = [pair.loc[images] for images in ("standard", "robust")]
    if line == "ours":
        return " / ".join(f"{entry.value:.2f}" for entry in entries)
    return " / ".join(f"{entry.low:.2f}–{entry.high:.2f}" for entry in entries)


def iterations(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen iterations as text in the shape of the supplement's Table 5.

    Each purifier has a row and each API a column, with the result and the number of iterations.
    """
    rows = []
    for label, entries in chosen[chosen.chosen].groupby("row", sort=False):
        ours = {e.api: f"{e.value:.2f} (i = {e.iterations})" for e in entries.itertuples()}
        span = {e.api: f"{e.low:.2f}–{e.high:.2f}, n={e.n}" for e in entries.itertuples()}
        paper = {
            e.api: "" if pd.isna(e.paper) else f"{e.paper:.2f} (i = {e.paper_iterations:.0f})"
            for e in entries.itertuples()
        }
        for name, cells in zip(LINES, (ours, span, paper), strict=True):
            if any(cells.values()):
                rows.append({"Defense": label if name == "ours" else "", "": name, **cells})
    return pd.DataFrame(rows).fillna("")


def markdown(frame: pd.DataFrame, chosen: pd.DataFrame, title: str, notes: Sequence[str]) -> str:
    """Return GitHub's Markdown: one table for each metric, one of the iterations, and the notes."""
    lines = [f"# {title}", ""]
    for metric, name in METRICS.items():
        if len(frame):
            lines += [f"## {name}, standard / robust", "", *markdown_table(block(frame, metric)), ""]
    if len(chosen):
        lines += ["## Iterations, by prediction accuracy on the validation pairs", ""]
        lines += [*markdown_table(iterations(chosen)), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def latex(frame: pd.DataFrame, title: str, notes: Sequence[str]) -> str:
    tables = [
        block(frame, metric)
        .replace("–", "--", regex=True)
        .to_latex(index=False, escape=True, caption=f"{title}: {name}, standard / robust")
        for metric, name in METRICS.items()
        if len(frame)
    ]
    return "\n".join(["% needs \\usepackage{booktabs}", *(f"% {note}" for note in notes), *tables])


def for_console(frame: pd.DataFrame, chosen: pd.DataFrame, title: str, notes: Sequence[str]) -> Group:
    blocks = {f"{name}, standard / robust": block(frame, m) for m, name in METRICS.items() if len(frame)}
    if len(chosen):
        blocks["Iterations, on the validation pairs"] = iterations(chosen)
    tables = []
    for name, content in blocks.items():
        table = plain_table(title=name)
        for column in content.columns:
            table.add_column(Text(column), justify="left" if column in ("Defense", "") else "right")
        for row in content.to_numpy():
            style = {"ours": "bold", "95 %": "dim", "paper": "cyan"}[row[1]]
            table.add_row(*(Text(cell, style=style) for cell in row))
        tables.append(table)
    return Group(
        Text(title, style="bold"), *tables, *(Text(note.replace("**", ""), style="dim") for note in notes)
    )
