"""Draws curves (runners/report/curves.py) in one style: PNG and PDF for a paper, SVG for the report.

The colours are those of Okabe and Ito (2008), which colour-blind people can distinguish, and lines differ in
their markers as well. Our results are filled points with 95 % intervals, and the paper's are hollow points.
"""

import html
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from runners.files import write_whole
from runners.report.curves import Panel, Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
MARKERS = "osD^vPX*"
INK = "#191a1b"  # of text and axes; the report's SVG has the page's own colour instead
ACROSS = 3
DODGE = 0.008  # horizontal distance of two series, as a share of the largest x
STYLE = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # labels are plain text, even with two dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


def drawn(panels: Sequence[Panel]) -> Figure:
    """Return a plot of the panels side by side, with one legend below."""
    across = 2 if len(panels) == 4 else min(len(panels), ACROSS)
    down = math.ceil(len(panels) / across)
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    looks = {name: (COLOURS[i % 8], MARKERS[i % 8], "-" if i < 8 else "--") for i, name in enumerate(names)}
    lines = math.ceil(len(names) / (4 if across > 1 else 2))
    width, height = (3.0 * across if across > 1 else 4.6), 2.4 * down + 0.2 * lines + 0.35
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles: dict[str, object] = {}
        for panel, axes in zip(panels, grid.flat, strict=False):
            for i, series in enumerate(panel.series):
                offset = DODGE * (i - (len(panel.series) - 1) / 2)  # so that no interval hides another
                handles[series.name] = _line(axes, panel, series, looks[series.name], offset)
            _dress(axes, panel)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=4 if across > 1 else 2
        )
    return figure


def _line(axes: Axes, panel: Panel, series: Series, look: tuple[str, str, str], aside: float) -> object:
    colour, marker, style = look
    right = max(x for line in panel.series for x in line.x)
    shift = aside * right if panel.joined and not panel.log_x else 0.0
    spread = [
        [max(y - low, 0) for y, low in zip(series.y, series.low, strict=True)],
        [max(high - y, 0) for y, high in zip(series.y, series.high, strict=True)],
    ]
    many = len(series.x) > 10
    handle = axes.errorbar(
        [x + shift for x in series.x], series.y, yerr=None if many else spread, color=colour,
        marker="" if many else marker,
        linestyle=style if panel.joined else "none", capsize=2, elinewidth=0.7,
    )  # fmt: skip
    if many:  # a band, because error bars would hide one another
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.15, linewidth=0)
    if series.paper:
        x, y = zip(*series.paper, strict=True)
        axes.plot(
            [value + shift for value in x],
            y,
            color=colour,
            marker=marker,
            linestyle="none",
            markerfacecolor="none",
            markersize=6.5,
        )
    return handle


def _dress(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log_x:
        axes.set_xscale("log")
        _plain_numbers(axes, panel)
    if panel.y_label.endswith("%"):
        axes.set_ylim(-3, 103)


def _plain_numbers(axes: Axes, panel: Panel) -> None:
    """Label a logarithmic axis with plain numbers.

    Matplotlib's own labels are mathematical notation such as "$10^{-1}$", which STYLE prints as it stands.
    """
    positive = [x for series in panel.series for x in series.x if x > 0]
    ratio = max(positive, default=1) / min(positive, default=1)
    digits = [*range(1, 10)] if ratio < 10 else [1, 2, 5] if ratio < 100 else [1]
    axes.xaxis.set_major_locator(LogLocator(subs=digits))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def traced(steps: Sequence[int], confidence: np.ndarray, label: int, crossings: Sequence[int],
           used: Sequence[int]) -> Figure:  # fmt: skip
    """Plot the victim's confidences (steps, classes) along an optimisation.

    The true class and the four other classes with the highest confidence are drawn. Ticks mark the crossings
    of the victim's decision; those of used crossings are longer.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        others = [int(other) for other in confidence.max(0).argsort()[::-1] if other != label][:4]
        for place, index in enumerate([label, *others]):
            name = f"class {index} (the label)" if index == label else f"class {index}"
            width = 2.2 if index == label else 1.0
            axes.plot(steps, 100 * confidence[:, index], color=COLOURS[place], linewidth=width, label=name)
        axes.vlines(list(crossings), -3, 2, color=INK, linewidth=0.6)
        axes.vlines(list(used), -3, 8, color=INK, linewidth=1.4)
        axes.set(xlabel="iterations", ylabel="confidence in %", ylim=(-3, 103))
        figure.legend(loc="outside lower center", ncols=5)
    return figure


def saved(figure: Figure, stem: Path) -> list[Path]:
    paths = []
    with matplotlib.rc_context(STYLE):
        for suffix in ("png", "pdf"):
            file = io.BytesIO()
            # Without these entries the bytes of the file are the same each time.
            metadata = {"Software": None} if suffix == "png" else {"CreationDate": None}
            figure.savefig(
                file, format=suffix, facecolor="white" if suffix == "png" else "none", metadata=metadata
            )
            paths.append(stem.parent / f"{stem.name}.{suffix}")
            write_whole(paths[-1], file.getvalue())
    return paths


def svg(figure: Figure, name: str, *, spoken: str) -> str:
    """Return a figure as SVG that can be embedded in a page.

    Text and axes have the page's colour, and no other figure of the page has the same ids.
    """
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|matplotlib\.axis|xtick|ytick|text|legend|LineCollection|'
                  r'FillBetweenPolyCollection|PathCollection)_\d+"', "", text)  # fmt: skip
    for size in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(spoken)}" ', 1)
