"""Write a page for every finished table, and plots as PNG and PDF.

    python -m runners.report
    python -m runners.report only=ddip/table1 images=20
    python -m runners.report report=/tmp/report

A page is one file that needs no server and no network. It shows what runners.table wrote, and the images that
the store still has. docs/report.md describes it.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("report")

import logging
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data.errors import InputError
from runners import files, untrusted
from runners.claims import shown
from runners.claims.statement import claims_of
from runners.claims.verdicts import verdicts_of
from runners.files import writable, write_whole
from runners.report import curves, plots, traces
from runners.report.claims import claims_page
from runners.report.page import page, rendered
from runners.tables.reading import Table

log = logging.getLogger(__name__)

OURS = "Filled points are our results with 95 % intervals, and hollow points are the paper's results."
KINDS = {  # of plots, each with its title and its caption
    "eps": ("Accuracy against eps", OURS),
    "queries": (
        "Accuracy against the query budget",
        f"{OURS} They come from the paths of the decision attack.",
    ),
    "parameters": ("Parameter studies", OURS),
    "cost": (
        "Cost against robustness",
        "The seconds that purifying one image took on the machine that made the records. Purifiers that "
        "share one optimisation share its seconds. Bars are 95 % intervals.",
    ),
}


def main(config: DictConfig) -> None:
    """Write a page for every table of the folder, and an index."""
    paths = tables_in(files.folder(config.tables, "tables"), config.only)
    folder = writable(files.folder(config.report, "report"))
    store, traced_in = files.folder(config.store, "store"), files.folder(config.traces, "traces")
    writable(folder / "plots")
    if not isinstance(config.images, int) or config.images < 0:
        raise InputError(f"images: expected 0 or more, got {config.images!r}")
    listed = []
    for path in paths:
        start = time.perf_counter()
        try:
            with untrusted.readable(str(path)):
                table = Table.read(path)
                html = drawn_page(table, folder, store=store, traced_in=traced_in, images=config.images)
        except InputError as error:  # a CSV file that is not a table
            if len(paths) == 1:
                raise
            app.tell(f"left out: {error}")
            continue
        write_whole(folder / f"{table.stem}.html", html.encode())
        seconds = time.perf_counter() - start
        app.tell(f"{folder / table.stem}.html: {len(html) / 1e6:.1f} MB in {seconds:.1f} s")
        listed.append(_row(table))
    if config.only is None:
        claims = write_claims(files.folder(config.tables, "tables"), folder)
        write_whole(folder / "index.html", rendered("index.html", tables=listed, claims=claims).encode())
        app.tell(f"index: {folder / 'index.html'}")


def write_claims(tables: Path, folder: Path) -> bool:
    """Write the page of the papers' claims, evaluated on the tables.

    Returns False if the tables' records do not allow it.
    """
    try:
        outcomes = verdicts_of(claims_of(), tables)
    except InputError as error:
        app.tell(f"left out: the page of claims: {error}")
        return False
    write_whole(folder / "claims.html", claims_page(outcomes).encode())
    app.tell(f"{folder / 'claims.html'}: {shown.counted(outcomes)}")
    return True


def drawn_page(table: Table, folder: Path, *, store: Path, traced_in: Path, images: int) -> str:
    """Return the table's page as HTML, and write its plots into `folder`."""
    drawn = plotted(table, folder)
    traced = traces.shown(table.frame, traced_in, folder / "plots", table.stem)
    return page(table, plots=drawn, traces=traced, store=store, images=images)


def tables_in(folder: Path, only: str | None) -> list[Path]:
    """Return the paths of the tables' CSV files.

    Raises InputError if there is none, or if the one that is asked for does not exist.
    """
    paths = {path.stem: path for path in sorted(folder.glob("*.csv"))} if folder.is_dir() else {}
    if not paths:
        raise InputError(f"tables: no table in {folder}; make one first: make table1")
    if only is None:
        return list(paths.values())
    stem = str(only).replace("/", "-")
    if stem not in paths:
        raise InputError(f"only: expected one of {', '.join(paths)}, got {only!r}")
    return [paths[stem]]


def plotted(table: Table, folder: Path) -> list[dict[str, Any]]:
    """Write the table's plots as PNG and PDF, and return what the page needs to show them."""
    panels = {
        "eps": curves.over_eps(table.frame),
        "queries": curves.over_queries(table.frame, table.records),
        "parameters": curves.over_parameters(table.frame),
        "cost": curves.cost(table.frame, table.records),
    }
    drawn = []
    for kind, group in panels.items():
        if not group:
            continue
        figure = plots.drawn(group)
        paths = plots.saved(figure, folder / "plots" / f"{table.stem}-{kind}")
        title, caption = KINDS[kind]
        drawn.append(
            {
                "id": kind,
                "title": title,
                "caption": caption,
                "svg": plots.svg(figure, f"{table.stem}-{kind}", spoken=f"{title}: {table.title}"),
                "wide": len(group) > 1,
                "files": [f"plots/{path.name}" for path in paths],
            }
        )
    return drawn


def _row(table: Table) -> dict[str, Any]:
    """Return what the index says about a table."""
    status = table.frame.status
    return {
        "file": f"{table.stem}.html",
        "title": table.title,
        "note": table.note,
        "setting": table.setting,
        "done": int(table.frame.value.notna().sum()),
        "failed": int((status == "failed").sum()),
        "skipped": int((status == "skipped").sum()),
    }


if __name__ == "__main__":
    app.run(main, "report")
