"""Log finished results to Weights & Biases.

    python -m runners.log_wandb only=ddip/table1
    python -m runners.log_wandb records=results/records
    WANDB_MODE=offline python -m runners.log_wandb only=ddip/table1

The same is logged as with logger=wandb during a run. docs/dashboards.md describes it.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from data.errors import InputError
from runners import app
from runners.evaluation.component import build, to_plain_dict
from runners.files import folder
from runners.loggers.wandb import WandbLogger
from runners.output import quantity
from runners.tables.reading import Table

log = logging.getLogger(__name__)


def main(config: DictConfig) -> None:
    """Log all record files of a folder, one record file, or only a table and its cells."""
    logger = build(to_plain_dict(config.logger))
    if not isinstance(logger, WandbLogger):
        raise InputError("logger: expected wandb, got another logger")
    records = record_files(folder(config.records, "records"))
    if config.only is None:
        logged, total = logger.send(records), len(records)
    else:
        cells = cells_by_table(tables_of(str(config.only), folder(config.tables, "tables")), records)
        logged = sum(logger.send(files, table=str(config.only), csv=csv) for csv, files in cells.items())
        total = len(cells) + sum(len(files) for files in cells.values())
    before = "; the others had been logged before" if logged < total else ""
    app.tell(f"logged {logged} of {quantity(total, 'run')}{before}")


def record_files(path: Path) -> list[Path]:
    """Return the record file, or those of the folder. Raises InputError if there are none."""
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise InputError(f"records: expected a record file, or a folder with some, got {path}")
    return files


def tables_of(name: str, tables: Path) -> list[Path]:
    """Return the CSV files of a table, on the default data and victim and on others."""
    stem = name.replace("/", "-")
    files = [csv for csv in sorted(tables.glob("*.csv")) if f"{csv.stem}-".startswith(f"{stem}-")]
    if not files:
        raise InputError(f"only: expected a table that lies in {tables}, got {name!r}")
    return files


def cells_by_table(tables: list[Path], records: list[Path]) -> dict[Path, list[Path]]:
    """Return the record files of each table's cells.

    A table that was made elsewhere has none here and is left out with a warning. Raises InputError if no
    table is left.
    """
    cells, errors = {}, []
    for csv in tables:
        try:
            cells[csv] = cells_of(csv, records)
        except InputError as error:
            errors.append(error)
    if not cells:
        raise errors[0]
    for error in errors:
        log.warning("%s; this table is not logged", error)
    return cells


def cells_of(csv: Path, records: list[Path]) -> list[Path]:
    """Return the record files of a table's cells. Raises InputError if one is missing."""
    by_key = {path.stem.rpartition("-")[2]: path for path in records}
    keys = list(dict.fromkeys(key for key in Table.read(csv).frame.record if key))
    if missing := [key for key in keys if key not in by_key]:
        raise InputError(f"records: expected the record files of {csv}, but there is none of {missing[0]}")
    return [by_key[key] for key in keys]


if __name__ == "__main__":
    app.run(main, "log_wandb")
