"""One table as a self-contained page: its results, the images behind them, and its plots."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from attacks.knowledge import MEANING
from runners.report.image_embedding import EmbeddedImages
from runners.report.pictures import KINDS, Pictures
from runners.tables import render
from runners.tables.reading import Table
from runners.validity.flags import meaning

TEMPLATES = Path(__file__).resolve().parent / "templates"
LIMIT = 10_000_000  # characters of images in a page
SPAN = {"accuracy": 100.0, "ssim": 1.0}  # the largest value of each metric, for its shades
FAR = {"accuracy": 50.0, "ssim": 0.3}  # the difference from the paper at which its shade is deepest


def rendered(template: str, **values: Any) -> str:
    """Return a self-contained page: a template with these values, which are escaped."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(values)


def page(
    table: Table, *, plots: list[dict[str, Any]], traces: list[dict[str, Any]], store: Path, images: int
) -> str:
    """Return the whole page as HTML.

    Args:
        plots: for each plot its id, title, caption, svg, wide and the names of its files for a paper.
        traces: for each decision trace its title, caption and images.
        store: the folder from which images are read.
        images: the largest number of images of each result.
    """
    album, pictures = EmbeddedImages(), Pictures(store)
    by_command = dict(list(table.records.groupby("command"))) if len(table.records) else {}
    entries = [entry for _, entry in table.frame.iterrows()]
    selections = []
    for entry in entries:
        records = by_command.get(entry.command)
        entry_pictures = [] if records is None else pictures.of(records, images)
        selections.append([album.add(picture) for picture in entry_pictures])
    count = album.fitting(selections, images, LIMIT)
    figures = [
        {
            "name": f"{entry.row}, {render.column_name(entry)}",
            "facts": _facts(entry, by_command.get(entry.command)),
            "pictures": selection[:count],
            "shows": _shows(by_command.get(entry.command), len(selection[:count])),
        }
        for entry, selection in zip(entries, selections, strict=True)
    ]
    content = {"kinds": KINDS, "figures": figures, "images": album.used(selections, count)}
    first = table.frame[table.frame.row == table.frame.row.iloc[0]]
    return rendered(
        "table.html",
        title=table.title,
        note=table.note,
        setting=table.setting,
        legend=table.legend,
        metric=table.frame.metric.iloc[0],
        paper=bool(table.frame.paper.notna().any()),
        images=any(selections),
        columns=[{"name": render.column_name(e), "known": e.knowledge_kind} for _, e in first.iterrows()],
        rows=[
            {"name": name, "cells": [_cell(entry) for _, entry in part.iterrows()]}
            for name, part in table.frame.groupby("row", sort=False)
        ],
        plots=plots,
        traces=traces,
        told=json.dumps(content, ensure_ascii=False).replace("<", "\\u003c"),
    )


def _cell(entry: pd.Series) -> dict[str, str]:
    value, paper = render.value_text(entry), render.paper_text(entry)
    span, styles = SPAN.get(entry.metric), []
    if span and pd.notna(entry.value):
        styles.append(f"--v:{min(max(entry.value / span, 0), 1):.2f}")
    if span and pd.notna(entry.delta):
        styles.append(f"--d:{min(abs(entry.delta) / FAR[entry.metric], 1):.2f}")
    interval = render.interval_text(entry)
    spoken = f"{entry.row}, {render.column_name(entry)}: {value or 'no result'}"
    return {
        "value": value,
        "interval": interval,
        "paper": paper,
        "delta": render.delta_text(entry),
        "style": ";".join(styles),
        "side": "" if pd.isna(entry.delta) else "up" if entry.delta > 0 else "down",
        "spoken": spoken
        + (f", interval {interval}" if interval else "")
        + (f", paper {paper}" if paper else ""),
    }


def _facts(entry: pd.Series, records: pd.DataFrame | None) -> list[tuple[str, str, bool]]:
    """Return the facts about a result: name, text, and whether the text is a command."""
    facts = []
    if pd.notna(entry.value):
        facts.append(
            ("ours", f"{render.value_text(entry)}, 95 % {render.interval_text(entry)}, n = {entry.n:g}")
        )
    if pd.notna(entry.paper):
        delta, verdict = render.delta_text(entry), f"; {entry.verdict}" if entry.verdict else ""
        facts.append(
            (
                "the paper",
                f"{render.paper_text(entry)}"
                + (f" (ours minus the paper's: {delta}{verdict})" if delta else ""),
            )
        )
    if entry.knowledge:
        facts.append(("the attacker", f"{entry.knowledge}: {MEANING[entry.knowledge_kind]}"))
    facts += [(f"flag {name}", meaning(name)) for name in entry["flags"].split()]
    if entry.status in ("failed", "skipped"):
        facts.append((entry.status, entry.note))
    elif entry.note:
        facts.append(("note", entry.note))
    if records is not None:
        wrong, bare = ~records.correct, records.adversarial_label != records.label
        counts = (
            f"{len(records):,}: {wrong.sum():,} wrong, {(wrong & ~bare).sum():,} of them right without the"
        )
        facts.append(("images", f"{counts} purifier; {(~wrong & bare).sum():,} are wrong only without it"))
        facts.append(
            (
                "seconds per image",
                f"crafting {records.craft_seconds.mean():.3g}, purifying {records.purify_seconds.mean():.3g}",
            )
        )
    commands = [
        ("evaluate this cell alone", entry.command),
        ("replay it", entry.record and f"python -m runners.replay {entry.record}"),
    ]
    return [(*fact, False) for fact in facts] + [(name, text, True) for name, text in commands if text]


def _shows(records: pd.DataFrame | None, count: int) -> str:
    """Return a sentence that says how many of the images are in the page."""
    if records is None:
        return "No records belong to this entry alone."
    if not count:
        return (
            "No images: the store that this page was made from does not have them. Run the "
            "command of the table with keep_purified=all to make and keep them."
        )
    return f"{count} of {len(records):,} images, wrongly classified ones first."
