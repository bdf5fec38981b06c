"""Results for the console: of one cell, and of all cells of a sweep."""

from collections.abc import Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from runners.app import FailedCellsError, Job
from runners.evaluator import CellResult
from runners.output import plain_table, quantity
from runners.tables.figures import accuracy, mean, mean_share


def of_cell(result: CellResult) -> Table:
    """Return a table of the results of one cell, one result per line."""
    records, cell, names = result.records, result.cell, result.cell.names
    bare = accuracy(records.adversarial_label == records.label)
    clean = accuracy(records.clean_label == records.label)
    table = Table(title=result.cell.label, show_header=False, title_justify="left")
    rows = {
        "accuracy": accuracy(records.correct).text(1),
        **_draws(records),
        "accuracy after 8-bit rounding": "not scored, since it would double the cost"
        if records.correct_8bit.isna().any()
        else accuracy(records.correct_8bit.astype(bool)).text(1),
        "accuracy without the purifier": bare.text(1),
        "accuracy of the victim on clean images": clean.text(1),
        "SSIM to clean": mean(records.ssim).text(3),
        "images": f"{len(records)} of {names['dataset']}, {records.subset.iloc[0]}",
        "attacker": f"{names['attack']}, knowledge: {names['knowledge']}"
        + (f", {cell.eps}" if cell.eps else ""),
        "largest perturbations": f"linf {records.linf.max() * 255:.2f}/255, l2 {records.l2.max():.3f}",
        "cost of the attack per image": f"at most {quantity(records.queries.max(), 'query', 'queries')}, "
        f"{records.forward_passes.max()} forward and "
        f"{quantity(records.backward_passes.max(), 'backward pass', 'backward passes')}",
        "seconds per image": f"craft {records.craft_seconds.mean():.2f}, "
        f"purify {records.purify_seconds.mean():.2f}"
        + (" (shared by all purifiers of the trace)" if "trace" in cell.configs["purifier"] else ""),
    }
    rows |= {f"! {flag.name}": flag.seen for flag in result.flags}
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _draws(records: pd.DataFrame) -> dict[str, str]:
    """Return the results over the draws of a random purifier, or nothing if there is only one draw."""
    draws = records.draws.iloc[0]
    if draws == 1:
        return {}
    return {
        f"mean accuracy of {draws} draws": mean_share(records.correct_mean).text(1),
        "majority, any, all of the draws": ", ".join(
            accuracy(records[f"correct_{what}"]).text(1) for what in ("majority", "any", "all")
        ),
    }


def of_sweep(jobs: Sequence[Job]) -> Table:
    """Return a table with one row for each cell of a sweep.

    A row holds the words that distinguish the cell, its accuracy, its flags and the seconds per image.
    """
    table = plain_table(title=quantity(len(jobs), "cell"))
    words = [dict(word.split("=", 1) for word in job.words) for job in jobs]
    names = dict.fromkeys(name for settings in words for name in settings)
    differing = [name for name in names if len({settings.get(name) for settings in words}) > 1]
    for name in differing:
        table.add_column(Text(name), no_wrap=True)
    for name in ("accuracy [95 %]", "n", "craft s", "purify s"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("flags", overflow="fold")
    for job, settings in zip(jobs, words, strict=True):
        texts = (*(settings.get(name, "") for name in differing), *_outcome(job))
        table.add_row(*(Text(text) for text in texts))
    return table


def _outcome(job: Job) -> tuple[str, ...]:
    """Return the results of a job's cell as text, or that there are none.

    The reasons why there are none are printed as errors.
    """
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
