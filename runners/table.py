"""Make a table: python -m runners.table table=ddip/table1 n=100."""

from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data.errors import InputError
from runners import app, render
from runners.cell import PARTS, Cell
from runners.components import Config, build, plain
from runners.evaluate import save_records, settings_of
from runners.figures import Figure, accuracy, average, mean, survived, under_all
from runners.grid import CellResult, Grid
from runners.observer import Observer
from runners.records import to_parquet
from runners.winners import marked

PAPERS = Path("results/papers")
METRICS = {"accuracy": "correct", "ssim": "ssim"}  # and the records' column
COLUMNS = ("row", "defense", "column", "eps_255", "attack", "knowledge", "metric", "value", "low", "high",
           "n", "flags", "paper", "delta", "verdict", "best", "p_best", "status", "note",
           "command", "record")  # fmt: skip


class Composer:
    """Configs of cells from the words one would type on the command line."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        choices = HydraConfig.get().runtime.choices
        self.base = {part: (choices[part], plain(config[part])) for part in ("dataset", "victim")}
        self.known: dict[tuple[str, tuple[str, ...]], tuple[str, Config]] = {}

    def cell(self, overrides: list[str]) -> Cell:
        """The cell of these overrides on the table's data set and victim."""
        taken = [part for part in PARTS if part not in self.base]
        if stray := [word for word in overrides if _part_of(word) not in taken]:
            raise InputError(
                f"table: a cell's words set {', '.join(taken)}; got {', '.join(stray)} (dataset, victim and "
                "settings are the whole table's)"
            )
        parts = {**self.base, **{p: self._part(p, overrides) for p in PARTS if p not in self.base}}
        words = [f"{part}={parts[part][0]}" for part in self.base]
        words += [w for w in HydraConfig.get().overrides.task if w.startswith(("dataset.", "victim."))]
        run = [f"n={self.config.n}", f"seed={self.config.seed}", f"split={self.config.split}",
               f"chunk={self.config.chunk}"]  # fmt: skip
        return Cell(
            names={part: name for part, (name, _) in parts.items()},
            configs={part: content for part, (_, content) in parts.items()},
            command=" ".join(["python -m runners.evaluate", *words, *overrides, *run]),
        )

    def _part(self, part: str, overrides: list[str]) -> tuple[str, Config]:
        own = tuple(o for o in overrides if _part_of(o) == part)
        if (part, own) not in self.known:
            words = [*own, f"data_dir='{self.config.data_dir}'"]
            composed = compose("evaluate", words, return_hydra_config=True)
            self.known[part, own] = composed.hydra.runtime.choices[part], plain(composed[part])
        return self.known[part, own]


def _part_of(word: str) -> str:
    """purifier, of purifier=ddip, purifier.steps=9 and network@purifier.trace.network=small."""
    return word.split("=")[0].split(".")[0].split("@")[-1]


def main(config: DictConfig) -> None:
    """A grid of cells in the shape that a paper prints."""
    table = config.table
    if not table.rows or not table.columns or table.metric not in METRICS:
        raise InputError(f"table: expected rows, columns and a metric ({', '.join(METRICS)})")
    if table.get("worst") and table.metric != "accuracy":
        raise InputError(f"table.worst: expected metric accuracy, got {table.metric}; set table.worst=null")
    published_figures(table)
    folder = render.writable(Path(config.tables))
    render.writable(Path(config.records))
    composer = Composer(config)
    dataset = HydraConfig.get().runtime.choices["dataset"]
    cells = [
        (row, column, composer.cell([*words(row, dataset), *words(column, dataset)]))
        for row in table.rows
        for column in table.columns
    ]
    choices = HydraConfig.get().runtime.choices
    logger: Observer = build(plain(config.logger))
    grid = Grid(settings_of(config), app.console, logger, choices["table"])
    app.console.print(f"[bold]{table.title}[/], {len(cells)} cells, n={config.n}")
    results = grid.evaluate([cell for *_, cell in cells])
    placed = [(row, column, result) for (row, column, _), result in zip(cells, results, strict=True)]
    note = comparability(table, choices, config.n)
    frame = frame_of(table, placed, comparable=not note)
    heading = render.Heading(
        title=table.title,
        note=note,
        setting=f"dataset {choices['dataset']}, victim {choices['victim']}, n={config.n} images an entry, "
        f"split {config.split}, seed {config.seed}" + (", TF32" if config.tf32 else ""),
    )
    stem = choices["table"].replace("/", "-")
    files = render.write(frame, heading, folder / stem)
    records = [r.records for r in results if r.records is not None]
    if records:
        path = folder / f"{stem}-records.parquet"
        render.write_whole(path, to_parquet(pd.concat(records, ignore_index=True)))
        files.append(path)
    for result in results:
        if result.records is not None:
            save_records(result, Path(config.records))
    logger.made(stem, frame, files, [r.planned.key for r in results if r.records is not None])
    app.console.print(render.for_console(frame, heading))
    app.console.print("written: " + ", ".join(str(file) for file in files), soft_wrap=True)
    logger.close()
    failed = frame[frame.status == "failed"]
    if len(failed):
        raise app.FailedCellsError(
            f"{len(failed)} of {len(cells)} cells failed; the others are done and the next run retries "
            f"only these. First: {failed.iloc[0].row} / {failed.iloc[0].column}: {failed.iloc[0].note}"
        )


def words(entry: DictConfig, dataset: str) -> list[str]:
    """What a row or column sets, on this data set."""
    return list(entry.get("for", {}).get(dataset, entry.cell))


def comparability(table: DictConfig, choices: Any, n: int) -> str:
    """Why figures may not be compared with the paper's; empty where they may."""
    published = table.published
    if choices["dataset"] == "digits-photos":
        return (
            "embedded data: compare the shape, not the figures "
            f"(the paper: {published.dataset}, {published.victim}, n={published.n})"
        )
    differs = [
        f"{what} {ours} (the paper: {theirs})"
        for what, ours, theirs in (
            ("dataset", choices["dataset"], published.dataset),
            ("victim", choices["victim"], published.victim),
        )
        if ours != theirs
    ]
    if n < published.n:
        differs.append(f"n={n} images (the paper: {published.n})")
    return f"differs from the paper: {', '.join(differs)}; no verdict" if differs else ""


def published_figures(table: DictConfig) -> pd.DataFrame:
    """The paper's figures of this table."""
    path = PAPERS / f"{table.paper}.csv"
    if not path.is_file():
        raise InputError(f"published figures {path} do not exist: run from the repository root")
    figures = pd.read_csv(path)
    wanted = (
        (figures.table == table.published.table)
        & (figures.dataset == table.published.dataset)
        & (figures.victim == table.published.victim)
    )
    return figures[wanted]


def frame_of(
    table: DictConfig, placed: list[tuple[DictConfig, DictConfig, CellResult]], *, comparable: bool
) -> pd.DataFrame:
    """One row an entry: figures, the paper's, and where comparable a verdict."""
    paper = published_figures(table)
    rows: list[dict[str, Any]] = []
    right: dict[int, pd.Series] = {}  # of purifiers, by place in rows
    for row in table.rows:
        mine = [(column, result) for r, column, result in placed if r is row]
        values = [_values(table.metric, result.records, column) for column, result in mine]
        parts = dict(enumerate(values, len(rows)))
        whole = all(part is not None for part in values)
        for (column, result), part in zip(mine, values, strict=True):
            entry = _entry(table, row, column, _figure(table.metric, part), paper, comparable)
            rows.append(entry | _outcome(result))
        missing = [entry for entry in rows[-len(mine) :] if entry["status"] != "done"]
        empty = dict.fromkeys(("knowledge", "command", "flags", "record"), "")
        status = {"status": "done" if whole else "absent", **empty}
        if table.get("average"):
            figure = average(values, 100 if table.metric == "accuracy" else 1) if whole else None
            known = sorted({result.cell.names["knowledge"] for _, result in mine})
            mixed = f"the average mixes attackers of different knowledge: {', '.join(known)}"
            entry = _entry(table, row, table.average, figure, paper, comparable)
            rows.append(entry | status | ({"note": mixed} if len(known) > 1 else {}))
        if table.get("worst"):
            parts[len(rows)] = under_all(values) if whole else None
            figure = _figure(table.metric, parts[len(rows)])
            entry = _entry(table, row, table.worst, figure, paper, comparable)
            raised = {
                flag.name: None for _, result in mine for flag in result.flags
            }  # of any makes it doubtful
            note = render.lacking(missing, len(mine))
            rows.append(entry | status | {"note": note, "flags": " ".join(raised)})
        if table.metric == "accuracy" and mine[0][1].cell.names["purifier"] != "none":
            right |= {place: part for place, part in parts.items() if part is not None}
    return marked(pd.DataFrame(rows), right, len(rows) // len(table.rows))[list(COLUMNS)]


def _values(metric: str, records: pd.DataFrame | None, column: DictConfig) -> pd.Series | None:
    """One value an image, by its id."""
    if records is None:
        return None
    if column.get("queries") is not None:  # read off the path of an attack that looks for the nearest
        values = survived(records.path, eps=column.eps / 255, queries=column.queries)
    else:
        values = records[METRICS[metric]]
    return values.set_axis(records.id)


def _figure(metric: str, values: pd.Series | None) -> Figure | None:
    if values is None:
        return None
    return accuracy(values) if metric == "accuracy" else mean(values)


def _entry(
    table: DictConfig,
    row: DictConfig,
    column: DictConfig,
    figure: Figure | None,
    paper: pd.DataFrame,
    comparable: bool,
) -> dict[str, Any]:
    eps = column.get("eps")
    found = paper[(paper.defense == row.get("defense")) & (paper.attack == column.attack)]
    found = found[found.eps_255 == eps] if eps is not None else found
    if column.get("queries") is not None:
        found = found[found.params == f"queries={column.queries}"]
    theirs = float(found.value.iloc[0]) if len(found) else None
    note = found.note.iloc[0] if len(found) and isinstance(found.note.iloc[0], str) else ""
    verdict = ""
    if figure and theirs is not None and comparable:
        verdict = "matches" if figure.low <= theirs <= figure.high else "differs"
    return {
        "row": row.label,
        "defense": row.get("defense"),
        "column": column.label,
        "eps_255": eps,
        "attack": column.attack,
        "metric": table.metric,
        "value": figure.value if figure else None,
        "low": figure.low if figure else None,
        "high": figure.high if figure else None,
        "n": figure.n if figure else None,
        "paper": theirs,
        "delta": figure.value - theirs if figure and theirs is not None else None,
        "verdict": verdict,
        "note": f"the paper: {note}" if note else "",
    }


def _outcome(result: CellResult) -> dict[str, Any]:
    outcome = {"knowledge": result.cell.names["knowledge"], "command": result.cell.command}
    outcome["flags"] = " ".join(flag.name for flag in result.flags)
    outcome["record"] = result.provenance["key"][:8] if result.provenance else ""  # for runners.replay
    if result.failed is not None:
        return outcome | {"status": "failed", "note": result.failed}
    if result.skipped is not None:
        return outcome | {"status": "skipped", "note": result.skipped}
    return outcome | {"status": "done"}


if __name__ == "__main__":
    app.run(main, "table")
