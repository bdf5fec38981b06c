"""Evaluate one cell, or with -m every combination of several values.

    python -m runners.evaluate purifier=jpeg attack=fgsm n=8
    python -m runners.evaluate attack=pgd attack.eps=8/255 knowledge=bpda purifier=comdefend
    python -m runners.evaluate -m attack=fgsm,pgd purifier=none,jpeg,ddip

The result is printed, and written as a record file (docs/records.md).
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("evaluate")

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from data.errors import InputError
from runners.evaluation.cell import PARTS, Cell
from runners.evaluation.component import build, to_plain_dict
from runners.evaluation.devices import devices_of
from runners.evaluation.records import to_parquet
from runners.evaluation.settings import Settings
from runners.evaluator import CellResult, Evaluator
from runners.files import folder, writable, write_whole
from runners.jobs import end_job, launch_of, words_typed
from runners.loggers.logger import Logger
from runners.store.manifest import Manifest
from runners.tables import summary

CHUNK = {"cpu": 8, "cuda": 256}  # images that are worked on together by default


def settings_of(config: DictConfig) -> Settings:
    values = {name: config[name] for name in Settings.__dataclass_fields__}
    if values["chunk"] == "auto":
        values["chunk"] = CHUNK[devices_of(config.device)[0].type]
    return Settings(**values)


def save_records(result: CellResult, where: Path) -> Path:
    """Write a cell's records and their provenance as a Parquet file that is named after the cell."""
    key = result.provenance["key"]
    name = "-".join([*result.cell.names.values(), f"n{len(result.records)}", key[:8]]).replace("/", "-")
    path = writable(where) / f"{name}.parquet"
    write_whole(path, to_parquet(result.records, result.provenance))
    return path


def main(config: DictConfig) -> CellResult | None:
    """Evaluate one cell and print its result. A job that shares the work with others returns None."""
    choices, overrides = HydraConfig.get().runtime.choices, words_typed()
    OmegaConf.resolve(config)
    cell = Cell(
        names={part: choices[part] for part in PARTS},
        configs={part: to_plain_dict(config[part]) for part in PARTS},
        command=" ".join(["python -m runners.evaluate", *overrides]),
    )
    records = writable(folder(config.records, "records"))
    request = Manifest("runners.evaluate", cell.label, tuple(overrides))
    launch = launch_of(config)
    logger: Logger = build(to_plain_dict(config.logger))
    (result,) = Evaluator(settings_of(config), app.console, launch).evaluate([cell], request)
    if launch.shard is not None:
        end_job([result])
        return None
    if result.skipped is not None:
        raise InputError(result.skipped)
    if result.failed is not None:
        raise app.FailedCellsError(f"failed cell {cell.label}: {result.failed}")
    path = save_records(result, records)
    app.console.print(summary.of_cell(result))
    app.tell(f"records: {path}")
    logger.log([path])
    return result


def summarise(jobs: list[app.Job]) -> None:
    """Print one table of all cells of a sweep."""
    cells = [job for job in jobs if job.result is not None or job.problem is not None]
    if cells:  # jobs that share the work of one cell have no result
        app.console.print(summary.of_sweep(cells))


if __name__ == "__main__":
    app.run(main, "evaluate", after=summarise)
