"""Decision traces (runners/trace.py) for the report: confidences along the optimisation, and images."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.errors import InputError
from runners import untrusted
from runners.report import plots
from runners.report.image_embedding import encoded
from runners.tables import render

log = logging.getLogger(__name__)

CAPTION = (
    "The victim's confidence in each class along the optimisation of this figure, run again with the "
    "recorded seeds. Ticks: the decision crosses a boundary between two looks; long ticks: the crossings "
    "that the result is made of. Below: reconstructions on the way, the newest on-boundary images, and the "
    "result."
)


def shown(frame: pd.DataFrame, folder: Path, plots_folder: Path, stem: str) -> list[dict[str, Any]]:
    """Return the title, the caption and the images of each traced cell of the table.

    Each image has a plot, which is also written as PNG and PDF, and a strip of images. A trace that cannot be
    read is left out with a warning.
    """
    traces = []
    for _, entry in frame[frame.record != ""].drop_duplicates("record").iterrows():
        path = folder / f"{entry.record}.npz"
        if path.is_file():
            name = f"{stem}-trace-{entry.record}"
            try:
                with untrusted.readable(str(path)):
                    images = _read(path, plots_folder / name)
            except InputError as error:
                log.warning("left out: %s; python -m runners.trace makes it again", error)
                continue
            title = f"Decision trace: {entry.row}, {render.column_name(entry)}"
            traces.append({"title": title, "caption": CAPTION, "images": images})
    return traces


def _read(path: Path, stem: Path) -> list[dict[str, Any]]:
    """Return the images of one trace; the file may come from anyone."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return _images(untrusted.parsed(str(arrays["told"]), str(path)), arrays, stem)


def _images(trace: dict[str, Any], arrays: dict[str, np.ndarray], stem: Path) -> list[dict[str, Any]]:
    images = []
    for i, name in enumerate(trace["ids"]):
        figure = plots.traced(
            trace["steps"],
            arrays["confidence"][i],
            trace["labels"][i],
            trace["crossings"][i],
            trace["used"][i],
        )
        plots.saved(figure, stem.with_name(f"{stem.name}-{i}"))
        views = [
            (image, f"iteration {step}: {says}")
            for image, step, says in zip(arrays["strip"][i], trace["kept"], trace["says"][i], strict=True)
        ]
        if "on_boundary" in trace:
            boundary = zip(arrays[f"boundary{i}"], trace["on_boundary"][i], strict=True)
            views += [(image, f"on the boundary: {says}") for image, says in boundary]
        views.append((arrays["last"][i], f"result: {trace['final'][i]}"))
        spoken = f"Decision trace of {name}, class {trace['labels'][i]}"
        images.append(
            {
                "about": f"{name}, class {trace['labels'][i]}",
                "svg": plots.svg(figure, f"{stem.name}-{i}", spoken=spoken),
                "strip": [{"src": encoded(image, exact=True), "says": says} for image, says in views],
            }
        )
    return images
