"""Evaluate the cell of a record file again, from that file alone, and compare.

    python -m runners.replay 1a2b3c4d
    python -m runners.replay results/records/NAME.parquet
    python -m runners.replay 1a2b3c4d device=cpu workers=2

The exit status is 0 if the records are equal, 1 if they are not, and 2 if the cell cannot be evaluated here.
docs/records.md describes what is compared.
"""

import io
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from runners import app, untrusted
from runners.evaluation.devices import configure_torch
from runners.evaluation.records import to_parquet
from runners.evaluation.schema import COSTS
from runners.evaluator import CellResult, Evaluator
from runners.files import folder
from runners.store.store import Store
from runners.validity import differences
from runners.validity.provenance import Facts
from runners.validity.record_file import RecordFile
from runners.validity.recorded_cell import cell_of, check_code, device_for, find, ready_weights, settings_of
from runners.words import quoted

SHOWN = 5  # differences that are printed


def main(config: DictConfig) -> None:
    """Exit with status 0 if the records are equal, 1 if they are not, 2 if the cell cannot be run again."""
    recorded = RecordFile.read(find(config.record, folder(config.records, "records")))
    result, weights = remade(recorded, config)
    if (ids := result.provenance["image_ids_sha256"]) != recorded["image_ids_sha256"]:
        raise InputError(
            f"dataset {result.cell.names['dataset']}: expected image ids of sha256 "
            f"{recorded['image_ids_sha256']}, got {ids}"
        )
    with untrusted.readable(str(recorded.path)):
        report(recorded, result, weights)


def remade(
    recorded: RecordFile, config: DictConfig, *, only: frozenset[str] | None = None
) -> tuple[CellResult, list[str]]:
    """Run the recorded cell again; return its result and where its weights came from.

    Raises InputError for what cannot be run again, and FailedCellsError if it fails now.

    Args:
        config: `data_dir` says where data and weight files are now, `store` is the store that trained weights
            are taken from, `device` (null for that of the record) and `workers` are those of the run.
        only: the ids of the images that are run again; None for all.
    """
    data_dir, kept = folder(config.data_dir, "data_dir"), Store(folder(config.store, "store"))
    check_code(recorded)
    cell = cell_of(recorded, data_dir)
    device = device_for(recorded, config.device)
    with tempfile.TemporaryDirectory(prefix="replay-") as own, untrusted.readable(str(recorded.path)):
        settings = settings_of(recorded, store=own, device=device, workers=config.workers)
        chosen = configure_torch(settings.device, tf32=settings.tf32)  # the same as for any training
        weights = ready_weights(recorded, cell, kept=kept, fresh=Store(own), device=chosen)
        result = Evaluator(settings, app.console, only=only).evaluate([cell])[0]
    if result.skipped is not None:
        raise InputError(f"{recorded.path}: cannot run again: {result.skipped}")
    if result.failed is not None:
        raise app.FailedCellsError(f"{recorded.path}: the cell failed now: {result.failed}")
    return result, weights


def report(recorded: RecordFile, result: CellResult, weights: list[str]) -> None:
    """Print what was compared and what differs.

    Raises FailedCellsError if the records are not equal; on another device or with other versions, only if
    decisions differ.
    """
    was, is_ = recorded.provenance, result.provenance
    now = pq.read_table(io.BytesIO(to_parquet(result.records)))
    unequal = differences.of_records(recorded.records, now)
    same_kind = differences.same_kind(was, is_)
    equal = differences.equal_decisions(recorded.records, now)
    rows = [
        ("record", str(recorded.path)),
        ("made by", f"commit {was['commit']}{_marked(was)}, {was['time']}, {was['device']['name']}"),
        ("replayed by", f"commit {is_['commit']}{_marked(is_)}, {is_['device']['name']}"),
        ("weights", "\n".join(weights) or "none"),
        *differences.of_provenance(was, is_),
        ("compared", f"{len(now)} images, to the bit, all columns but {', '.join(COSTS)}"),
        ("result", "not equal" if unequal else "equal"),
        *(("differs", str(difference)) for difference in unequal[:SHOWN]),
    ]
    if len(unequal) > SHOWN:
        rows.append(("", f"and {len(unequal) - SHOWN} more columns"))
    if unequal and not same_kind:
        rows.append(("decisions", f"other device or versions; equal on {equal} of {len(now)} images"))
    table = Table(title=f"replay of {result.cell.label}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    app.console.print(table)
    if unequal and same_kind:
        raise app.FailedCellsError(f"not equal: {', '.join(difference.column for difference in unequal)}")
    if unequal and equal < len(now):
        raise app.FailedCellsError(f"decisions differ on {len(now) - equal} of {len(now)} images")


def _marked(facts: Facts) -> str:
    return " (with changes that were not committed)" if facts["dirty"] is True else ""


def words(argv: list[str]) -> list[str]:
    """Return the command line, with a first word that sets nothing as the record.

    The record is quoted, since a key such as 9330e908 looks like a number.
    """
    first, rest = argv[:1], argv[1:]
    if first and not first[0].startswith("-") and ("=" not in first[0] or Path(first[0]).is_file()):
        first = [f"record={first[0]}"]
    return [_quoted(word) if word.startswith("record=") else word for word in [*first, *rest]]


def _quoted(word: str) -> str:
    name, _, value = word.partition("=")
    return word if value[:1] in ("'", '"') else f"{name}={quoted(value)}"


if __name__ == "__main__":
    sys.argv[1:] = words(sys.argv[1:])
    app.run(main, "replay")
