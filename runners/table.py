"""Make a table of a paper, or one of your own.

    python -m runners.table table=ddip/table1 n=16
    python -m runners.table table=ncis/table1 "only=[JPEG 90, GS]" "rows=['jpeg quality=50']"
    python -m runners.table table=ddip/table1 full=true chunk=250

docs/regenerate-a-table.md describes how to read a table and where its files are.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("table")

from collections.abc import Sequence
from typing import Any

import pandas as pd
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.markup import escape

from data.errors import InputError, MissingError
from runners.evaluate import save_records, settings_of
from runners.evaluation.cell import Cell
from runners.evaluation.component import build, to_plain_dict
from runners.evaluation.queue import Launch
from runners.evaluator import Evaluator
from runners.files import folder, writable
from runners.jobs import end_job, launch_of, words_typed
from runners.loggers.logger import Logger
from runners.output import quantity
from runners.store.manifest import Manifest
from runners.tables import console, render, saved
from runners.tables.frame import METRICS, frame_of, metric_of
from runners.tables.layout import OWN, Composer, added, changes_of, chosen, on, part_of
from runners.tables.order import agreement
from runners.tables.paper_results import PaperSetting, check_images, panel_for, panels_of, printed
from runners.tables.undefended import flag_weak

WHERE = {"path", "root", "source", "published"}  # parameters that do not change results


def main(config: DictConfig) -> None:
    """Make a table in the shape that a paper prints; with full=true, once for each of its settings."""
    typed = words_typed()
    console.check_show(config.show)
    if not config.full:
        make(config, HydraConfig.get().runtime.choices, typed, launch_of(config))
        return
    problems: list[tuple[PaperSetting, Exception]] = []
    panels = panels_of(config.table)
    if not panels:
        raise InputError("full: expected a table with the settings of a paper (panels), got one without")
    own_subset = any(part_of(word) == "subset" for word in typed)
    if own_subset:
        check_images(panels, config.subset)
    for panel in panels:
        words = [word for word in typed if part_of(word) not in ("dataset", "victim", "full")]
        words += [f"dataset={panel.dataset}", f"victim={panel.victim}"]
        words += [] if own_subset else [f"subset={panel.subset}"]
        words += [] if any(part_of(word) == "n" for word in words) else [f"n={panel.n}"]
        composed = compose("table", words, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        try:
            make(composed, choices, words, launch_of(config))
        except (MissingError, app.FailedCellsError) as error:
            problems.append((panel, error))
            app.tell(f"incomplete: {panel.dataset}, {panel.victim}: {error}", style="red")
    if problems:
        reasons = "; ".join(f"{panel.dataset}, {panel.victim}: {error}" for panel, error in problems)
        complete = len(panels) - len(problems)
        raise app.FailedCellsError(
            f"{complete} of the paper's {len(panels)} settings are complete. {reasons}"
        )


def make(config: DictConfig, choices: Any, typed: list[str], launch: Launch) -> None:
    """Evaluate the table on one data set and victim, write it and print it.

    A job that shares the work with others only evaluates.
    """
    table = checked(config.table, choices["table"])
    dataset, victim = choices["dataset"], choices["victim"]
    panel = panel_for(table, dataset, victim)
    printed(table, panel)  # a bad file of printed results is reported before hours of work
    where = writable(folder(config.tables, "tables"))
    records_in = writable(folder(config.records, "records"))
    composer = Composer(config, choices, typed)
    # `table` is a copy, but words of rows and columns may refer to other values of the whole config.
    rows, columns = (on(entries, dataset, victim) for entries in (config.table.rows, config.table.columns))
    only = [str(label) for label in config.only] if isinstance(config.only, ListConfig) else config.only
    if only:
        rows = chosen(rows, only, composer)
    rows += added(config.rows)
    applicable(table, rows, columns, f"dataset {dataset} and victim {victim}")
    cells = composer.cells(table, rows, columns)
    distinct(cells)
    readable(cells)
    app.console.print(f"[bold]{escape(table.title)}[/], {quantity(len(cells), 'cell')}, n={config.n}")
    request = Manifest("runners.table", choices["table"], tuple(typed))
    logger: Logger = build(to_plain_dict(config.logger))
    results = Evaluator(settings_of(config), app.console, launch).evaluate(
        [cell for *_, cell in cells], request
    )
    if launch.shard is not None:
        end_job(results)
        return
    placed = [(row, column, result) for (row, column, _), result in zip(cells, results, strict=True)]
    own_setting = (dataset, victim, config.subset)
    if config.audit != "off" and panel and own_setting == (panel.dataset, panel.victim, panel.subset):
        flag_weak(placed, printed(table, panel))
    note = comparability(panel, choices, config, typed)
    frame = frame_of(table, placed, panel=panel, comparable=not note)
    cells_done = {r.cell.command: r for r in results if r.records is not None}  # columns may share a cell
    records = [result.records for result in cells_done.values()]
    all_records = pd.concat(records, ignore_index=True) if records else None
    heading = render.Heading(
        title=table.title,
        note=note,
        setting=f"dataset {dataset}, victim {victim}, n={config.n} images per entry, "
        f"split {config.split}, subset {config.subset}, seed {config.seed}"
        + (", TF32" if config.tf32 else "")
        + (f", only the rows {', '.join(only)}" if only else ""),
        agreement=None if all_records is None else agreement(frame, all_records),
    )
    stem = saved.stem_of(choices, only=only, added=[row.added for row in rows if row.get("added")])
    files = saved.write(frame, heading, where / stem, all_records)
    record_files = [save_records(result, records_in) for result in cells_done.values()]
    width = app.console.width if app.console.is_terminal else console.WIDTH
    app.console.print(console.for_console(frame, heading, show=config.show, width=width), width=width)
    app.tell("written: " + ", ".join(str(file) for file in files))
    logger.log(record_files, table=choices["table"], csv=where / f"{stem}.csv")
    failed = frame[frame.status == "failed"]
    if len(failed):
        raise app.FailedCellsError(
            f"{len(failed)} of {len(cells)} cells failed. The next run retries only these. The first is "
            f"{failed.iloc[0].row} / {failed.iloc[0].column}: {failed.iloc[0].note}"
        )


def checked(table: DictConfig, name: str) -> DictConfig:
    """Return the table's config; by default its title is `name` and its metric is accuracy.

    Raises InputError if it cannot be a table.
    """
    table = OmegaConf.merge({"title": name, "metric": "accuracy"}, table)
    if not table.get("rows") or not table.get("columns") or table.metric not in METRICS:
        raise InputError(f"table: expected rows, columns and a metric ({', '.join(METRICS)})")
    for entry in (entry for kind in ("rows", "columns") for entry in table[kind]):
        if not isinstance(entry, DictConfig) or "label" not in entry:
            like = "{label: DDIP, cell: [purifier=ddip]}"
            raise InputError(f"table.rows, table.columns: expected entries like {like}, got {entry}")
    if unknown := {column.get("metric", table.metric) for column in table.columns} - set(METRICS):
        raise InputError(
            f"table.columns: expected a metric of {', '.join(METRICS)}; got {', '.join(unknown)}"
        )
    if table.get("worst") and table.metric != "accuracy":
        raise InputError(f"table.worst: expected metric accuracy, got {table.metric}; set table.worst=null")
    return table


def applicable(
    table: DictConfig, rows: Sequence[DictConfig], columns: Sequence[DictConfig], where: str
) -> None:
    """Raise InputError if no row or no column is left, or none that the average or the worst can combine."""
    for name, entries in (("rows", rows), ("columns", columns)):
        if not entries:
            raise InputError(
                f"table.{name}: expected at least one that applies to {where}, got none; choose others, or "
                "change what they have under `for`"
            )
    for end in ("average", "worst"):
        if table.get(end) and all(metric_of(table, column) != table.metric for column in columns):
            raise InputError(
                f"table.{end}: expected a column with the table's metric, {table.metric}, got none; add one, "
                f"or set table.{end}=null"
            )


def distinct(cells: Sequence[tuple[DictConfig, DictConfig, Cell]]) -> None:
    """Raise InputError if two entries have the same row and column."""
    seen: set[tuple] = set()
    for row, column, cell in cells:
        eps = column.get("eps", row.get("eps"))
        place = row.label, column.label, eps, cell.knowledge_kind
        if place in seen:
            raise InputError(
                "table: expected rows with their own labels, and columns that differ in label, eps or kind "
                f"of knowledge; got {row.label} / {column.label}{'' if eps is None else f' {eps:g}'} twice"
            )
        seen.add(place)


def readable(cells: Sequence[tuple[DictConfig, DictConfig, Cell]]) -> None:
    """Raise InputError if a column is to be read off the path of an attack that records none."""
    for row, column, cell in cells:
        if column.get("queries") is None:
            continue
        place = f"table.columns: {row.label} / {column.label} has queries={column.queries}"
        attack = get_class(cell.configs["attack"]["_target_"])
        if not getattr(attack, "records_path", False):
            raise InputError(
                f"{place}: expected an attack that records its path, such as hopskipjump, got "
                f"{cell.names['attack']}; name another attack, or take queries out of the column"
            )
        if column.get("eps") is None:
            raise InputError(
                f"{place}: expected the eps at which the path is read in the column too, got none"
            )


def comparability(
    panel: PaperSetting | None, choices: Any, config: DictConfig, typed: Sequence[str] = ()
) -> str:
    """Return why the results may not be compared with the paper's, or empty text if they may.

    The `typed` words may change what a name refers to, and the table itself.
    """
    if panel is None:
        return ""
    if choices["dataset"] == saved.EMBEDDED[0]:
        return (
            "embedded data: compare the shape, not the values "
            f"(the paper: {panel.dataset}, {panel.victim}, n={panel.images})"
        )
    content = [word for word in typed if word.partition("=")[0].rpartition(".")[2] not in WHERE]
    changed = {what: changes_of(content, what) for what in (*OWN, "table")}
    differs = [
        f"{what} {ours} (the paper: {theirs})"
        for what, ours, theirs in (
            *((what, " ".join([choices[what], *changed[what]]), getattr(panel, what)) for what in OWN),
            ("subset", config.subset, panel.subset),
            ("split", config.split, "evaluation"),
        )
        if ours != theirs
    ]
    if config.n < panel.n:
        differs.append(f"n={config.n} images (the paper: {panel.images})")
    if changed["table"]:
        differs.append("entries set on the command line")
    return f"differs from the paper: {', '.join(differs)}; no verdict" if differs else ""


if __name__ == "__main__":
    app.run(main, "table")
