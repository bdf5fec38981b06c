"""Evaluate one cell: python -m runners.evaluate dataset=... victim=... attack=... purifier=..."""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("evaluate")

from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from runners.cells.cell import PARTS, Cell
from runners.cells.components import build, plain
from runners.cells.manifest import Request
from runners.cells.records import to_parquet
from runners.cells.settings import Settings
from runners.files import folder, writable, write_whole
from runners.grids import launch
from runners.grids.grid import CellResult
from runners.tables.figures import accuracy, mean
from runners.work.observer import Observer


def settings_of(config: DictConfig) -> Settings:
    """The run settings that both runners share."""
    names = Settings.__dataclass_fields__
    return Settings(**{name: config[name] for name in names})


def save_records(result: CellResult, where: Path) -> Path:
    """Write a cell's records and their provenance as a Parquet file, named by what they are of."""
    key = result.provenance["key"]
    name = "-".join([*result.cell.names.values(), f"n{len(result.records)}", key[:8]]).replace("/", "-")
    path = writable(where) / f"{name}.parquet"
    write_whole(path, to_parquet(result.records, result.provenance))
    return path


def main(config: DictConfig) -> None:
    """One cell, from its composed config."""
    hydra_config = HydraConfig.get()
    choices, overrides = hydra_config.runtime.choices, hydra_config.overrides.task
    OmegaConf.resolve(config)
    cell = Cell(
        names={part: choices[part] for part in PARTS},
        configs={part: plain(config[part]) for part in PARTS},
        command=" ".join(["python -m runners.evaluate", *overrides]),
    )
    records = folder(config.records, "records")
    request = Request("runners.evaluate", cell.label, tuple(overrides))
    logger: Observer = build(plain(config.logger))
    (result,) = launch.evaluate(settings_of(config), [cell], request, jobs=config.jobs, observer=logger)
    if result.planned is not None:
        logger.finished(result.planned, result)
    logger.close()
    if result.skipped is not None:
        raise app.InputError(result.skipped)
    if result.failed is not None:
        raise app.FailedCellsError(f"failed cell {cell.label}: {result.failed}")
    app.console.print(_summary(result))
    app.console.print(f"records: {save_records(result, records)}", soft_wrap=True, markup=False)


def _summary(result: CellResult) -> Table:
    records, cell, names = result.records, result.cell, result.cell.names
    bare = accuracy(records.adversarial_label == records.label)
    clean = accuracy(records.clean_label == records.label)
    table = Table(title=result.cell.label, show_header=False, title_justify="left")
    rows = {
        "accuracy": accuracy(records.correct).text(1),
        **_draws(records),
        "of the examples in 8 bits": "not scored, it would double the cost"
        if records.correct_8bit.isna().any()
        else accuracy(records.correct_8bit.astype(bool)).text(1),
        "without the purifier": bare.text(1),
        "victim on clean images": clean.text(1),
        "SSIM to clean": mean(records.ssim).text(3),
        "images": f"{len(records)}, {names['dataset']}, {records.subset.iloc[0]}",
        "attacker": f"{names['attack']}, knowledge: {names['knowledge']}"
        + (f", {cell.eps}" if cell.eps else ""),
        "largest norms": f"linf {records.linf.max() * 255:.2f}/255, l2 {records.l2.max():.3f}",
        "the attack, an image": f"at most {records.queries.max()} queries, "
        f"{records.forward_passes.max()} forward and {records.backward_passes.max()} backward passes",
        "seconds an image": f"craft {records.craft_seconds.mean():.2f}, "
        f"purify {records.purify_seconds.mean():.2f}"
        + (" (a run that purifiers of one trace share)" if "trace" in cell.configs["purifier"] else ""),
    }
    rows |= {f"! {flag.name}": flag.seen for flag in result.flags}
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _draws(records: pd.DataFrame) -> dict[str, str]:
    """What fresh draws of a random purifier come to."""
    draws = records.draws.iloc[0]
    if draws == 1:
        return {}
    return {
        f"mean of {draws} draws": mean(100 * records.correct_mean).text(1),
        "majority, any, all of them": ", ".join(
            accuracy(records[f"correct_{what}"]).text(1) for what in ("majority", "any", "all")
        ),
    }


if __name__ == "__main__":
    app.run(main, "evaluate")
