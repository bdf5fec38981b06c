"""The leaderboard as one HTML page, as Markdown and as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from attacks.knowledge import MEANING
from runners.leaderboard.board import COLUMNS, Cited, Row, ranks
from runners.report.page import rendered
from runners.tables.render import markdown_table
from runners.validity.flags import meaning

TITLE = "purifybench: leaderboard"
ABOUT = {
    "clean": "accuracy on clean images",
    **{kind: f"accuracy against attackers who use {used}" for kind, used in MEANING.items()},
    "worst": "share of images that are right when clean and under every attack of the entry",
    "worst of draws": "the same, where every scored draw of a random purifier must be right",
}
METHOD = (
    "Accuracy in % with Wilson's 95 % interval. Where an entry has several attacks of one kind, an image "
    "counts as right if it is right under all of them. Incomplete entries were not attacked in all the ways "
    "that the protocol asks for, and are ranked below complete ones. A sample of each entry's images was run "
    "again before it was listed, and gave the same decisions."
)
Boards = Mapping[tuple[str, str], Sequence[Row]]


def text_of(cited: Cited | None) -> str:
    """Return a result with its interval, such as "62.5 [40.1–80.2]", or empty text if there is none."""
    if cited is None:
        return ""
    figure = cited.figure
    return f"{figure.value:.1f} [{figure.low:.1f}–{figure.high:.1f}]"


def memory_text(row: Row) -> str:
    """Return the MB of memory that an image takes, or empty text if it was not measured."""
    memory = row.entry.card["bytes_an_image"]
    return "" if memory is None else f"{memory / 1e6:.1f}"


def markdown(boards: Boards) -> str:
    """Return a table in Markdown for each data set and victim."""
    lines = ["# Leaderboard", "", METHOD, ""]
    for (dataset, victim), rows in boards.items():
        table = pd.DataFrame([_line(rank, row) for rank, row in zip(ranks(rows), rows, strict=True)])
        lines += [f"## {dataset}, {victim}", "", *markdown_table(table), ""]
    return "\n".join(lines)


def _line(rank: int, row: Row) -> dict[str, str]:
    """Return a row of the table in Markdown by the headings of its columns."""
    card = row.entry.card
    purifier = "".join(f"\\{c}" if c in "\\|[]*_`<" else c for c in card["purifier"])
    return {
        "rank": str(rank),
        "purifier": f"[{purifier}]({card['link']})",
        **{column: text_of(row.figures.get(column)) for column in COLUMNS},
        "s/image": f"{row.seconds:.2g}",
        "MB/image": memory_text(row),
        "n": str(len(row.entry.frames[0])),
        "flags": ", ".join(row.flags),
    }


def csv(boards: Boards) -> str:
    """Return one line for each result, with the commands that evaluate its cells and their record files."""
    lines = [
        {
            "dataset": dataset,
            "victim": victim,
            "rank": rank,
            "entry": row.entry.name,
            "purifier": row.entry.card["purifier"],
            "complete": row.complete,
            "column": column,
            **vars(cited.figure),
            "draws": row.draws,
            "seconds_an_image": row.seconds,
            "bytes_an_image": row.entry.card["bytes_an_image"],
            "flags": " ".join(row.flags),
            "records": " ".join(f"entries/{row.entry.name}/{file.path.name}" for file in cited.files),
            "commands": "; ".join(file["command"] for file in cited.files),
        }
        for (dataset, victim), rows in boards.items()
        for rank, row in zip(ranks(rows), rows, strict=True)
        for column, cited in row.figures.items()
    ]
    return pd.DataFrame(lines).to_csv(index=False)


def html(boards: Boards, *, folder: Path) -> str:
    """Return the page, which is self-contained except for its links to the record files beside it."""
    shown = [
        {
            "dataset": dataset,
            "victim": victim,
            "columns": columns,
            "rows": [_row(rank, row, columns, folder) for rank, row in zip(ranks(rows), rows, strict=True)],
        }
        for (dataset, victim), rows in boards.items()
        for columns in [[name for name in COLUMNS if any(name in row.figures for row in rows)]]
    ]
    columns = [{"name": name, "about": ABOUT[name]} for name in COLUMNS]
    return rendered("leaderboard.html", title=TITLE, method=METHOD, boards=shown, columns=columns)


def _row(rank: int, row: Row, columns: Sequence[str], folder: Path) -> dict[str, Any]:
    return {
        "rank": rank,
        "card": row.entry.card,
        "complete": row.complete,
        "figures": [_figure(row, column, folder) for column in columns],
        "seconds": row.seconds,
        "memory": memory_text(row),
        "n": len(row.entry.frames[0]),
        "flags": [{"name": name, "about": meaning(name), "seen": seen} for name, seen in row.flags.items()],
    }


def _figure(row: Row, column: str, folder: Path) -> dict[str, Any]:
    cited = row.figures.get(column)
    files = cited.files if cited else ()
    return {
        "value": cited.figure.value if cited else "",
        "text": f"{cited.figure.value:.1f}" if cited else "",
        "interval": f"{cited.figure.low:.1f}–{cited.figure.high:.1f}" if cited else "",
        "cells": [
            {
                "label": f"{file['names']['attack']}, knowledge {file['names']['knowledge']}",
                "records": f"{folder.name}/{row.entry.name}/{file.path.name}",
                "command": file["command"],
            }
            for file in files
        ],
    }
