"""Figures for the console: of one cell, and of all cells of a sweep."""

from collections.abc import Sequence

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from runners.app import FailedCellsError, Job
from runners.evaluator import CellResult
from runners.tables.figures import accuracy, mean, mean_share


def of_cell(result: CellResult) -> Table:
    """The figures of one cell, one below another."""
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
        f"mean of {draws} draws": mean_share(records.correct_mean).text(1),
        "majority, any, all of them": ", ".join(
            accuracy(records[f"correct_{what}"]).text(1) for what in ("majority", "any", "all")
        ),
    }


def of_sweep(jobs: Sequence[Job]) -> Table:
    """One row for each cell: the words that tell it from the others, accuracy, flags and seconds an image."""
    table = Table(title=f"{len(jobs)} cells", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    words = [dict(word.split("=", 1) for word in job.words) for job in jobs]
    names = dict.fromkeys(name for of_job in words for name in of_job)
    differing = [name for name in names if len({of_job.get(name) for of_job in words}) > 1]
    for name in differing:
        table.add_column(Text(name), no_wrap=True)
    for name in ("accuracy [95 %]", "n", "craft s", "purify s"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("flags", overflow="fold")
    for job, of_job in zip(jobs, words, strict=True):
        told = (*(of_job.get(name, "") for name in differing), *_outcome(job))
        table.add_row(*(Text(text) for text in told))
    return table


def _outcome(job: Job) -> tuple[str, ...]:
    """The figures of a job's cell, or that there are none; the reasons are told as errors."""
    if job.problem is not None:
        return ("failed" if isinstance(job.problem, FailedCellsError) else "refused", "", "", "", "")
    records = job.result.records
    figure = accuracy(records.correct)
    return (
        f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]",
        str(figure.n),
        f"{records.craft_seconds.mean():.2f}",
        f"{records.purify_seconds.mean():.2f}",
        " ".join(flag.name for flag in job.result.flags),
    )
