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
SPAN = {"accuracy": 100.0, "ssim": 1.0}  # of a metric's shades
FAR = {"accuracy": 50.0, "ssim": 0.3}  # a difference from the paper of the deepest shade


def rendered(template: str, **values: Any) -> str:
    """Return a page that stands by itself: a template with these values, which are escaped."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(values)


def page(
    table: Table, *, plots: list[dict[str, Any]], traces: list[dict[str, Any]], store: Path, images: int
) -> str:
    """Return the whole page as HTML.

    Args:
        plots: id, title, caption, svg, wide and the names of the files for a paper.
        traces: title, caption and images of decision traces.
        store: where images lie.
        images: of each figure at most.
    """
    album, pictures = EmbeddedImages(), Pictures(store)
    by_command = dict(list(table.records.groupby("command"))) if len(table.records) else {}
    entries = [entry for _, entry in table.frame.iterrows()]
    of_entries = []
    for entry in entries:
        known = by_command.get(entry.command)
        shown = [] if known is None else pictures.of(known, images)
        of_entries.append([album.add(picture) for picture in shown])
    count = album.fitting(of_entries, images, LIMIT)
    figures = [
        {
            "name": f"{entry.row}, {render.column_name(entry)}",
            "facts": _facts(entry, by_command.get(entry.command)),
            "pictures": of_entry[:count],
            "shows": _shows(by_command.get(entry.command), len(of_entry[:count])),
        }
        for entry, of_entry in zip(entries, of_entries, strict=True)
    ]
    content = {"kinds": KINDS, "figures": figures, "images": album.used(of_entries, count)}
    first = table.frame[table.frame.row == table.frame.row.iloc[0]]
    return rendered(
        "table.html",
        title=table.title,
        note=table.note,
        setting=table.setting,
        legend=table.legend,
        metric=table.frame.metric.iloc[0],
        paper=bool(table.frame.paper.notna().any()),
        images=any(of_entries),
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
    """The facts about a result: name, text, and whether the text is a command."""
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
        of_all = (
            f"{len(records):,}: {wrong.sum():,} wrong, {(wrong & ~bare).sum():,} of them right without the"
        )
        facts.append(("images", f"{of_all} purifier; {(~wrong & bare).sum():,} are wrong only without it"))
        facts.append(
            (
                "seconds per image",
                f"crafting {records.craft_seconds.mean():.3g}, purifying {records.purify_seconds.mean():.3g}",
            )
        )
    typed = [
        ("evaluate this cell alone", entry.command),
        ("replay it", entry.record and f"python -m runners.replay {entry.record}"),
    ]
    return [(*fact, False) for fact in facts] + [(name, text, True) for name, text in typed if text]


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
