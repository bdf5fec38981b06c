"""Curves of a table's results over eps, queries or a parameter, and plots of cost against robustness.

All functions are pure functions of a table's frame (runners/tables/frame.py), and of records for queries and
seconds. What varies is read from the commands of the cells, so a table's config does not need to mention
curves.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from runners.evaluation.metrics import survived, wilson

BUDGETS = 24  # points of a curve over queries
FOLLOWS = ("attack.alpha",)  # parameters that may be set to suit another one that varies
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?(/\d+)?")


@dataclass
class Series:
    """One line of a plot: its points with their intervals, in the order of x, and the paper's points."""

    name: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    paper: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    y_label: str = "accuracy in %"
    log_x: bool = False
    joined: bool = True  # whether a series' points are joined


def over_eps(frame: pd.DataFrame) -> list[Panel]:
    """Return plots of accuracy against eps: one panel for each attack and attacker with several eps."""
    clean = {entry.row: entry for entry in _figures(frame).itertuples() if entry.attack == "clean"}
    panels = []
    attacked = _figures(frame)[lambda f: f.eps_255.notna() & (f.command != "")]
    for (_, _, title, queries), part in attacked.assign(title=_titles(attacked)).groupby(
        ["attack", "knowledge_kind", "title", attacked.queries.fillna(0)], sort=False
    ):
        if part.eps_255.nunique() < 2:
            continue
        start = {row: (0.0, entry) for row, entry in clean.items()} if not queries else {}
        series = _series(part, lambda entry: entry.row, lambda entry: entry.eps_255, start)
        panels.append(Panel(title, "eps in 1/255", series))
    return panels


def over_queries(frame: pd.DataFrame, records: pd.DataFrame) -> list[Panel]:
    """Return plots of accuracy against the query budget, one panel for each eps.

    The accuracies are read from the paths of decision attacks.
    """
    budgeted = _figures(frame)[lambda f: f.queries.notna() & f.eps_255.notna()]
    paths = {command: part.path for command, part in records.groupby("command")} if len(budgeted) else {}
    panels = []
    for eps, part in budgeted.groupby("eps_255"):
        series = []
        for row, entries in part.groupby("row", sort=False):
            recorded = paths.get(entries.command.iloc[0])
            if recorded is None:
                continue
            line = Series(
                str(row), paper=[(e.queries, e.paper) for e in entries.itertuples() if _is(e.paper)]
            )
            for budget in np.unique(np.geomspace(10, entries.queries.max(), BUDGETS).round()):
                _add(line, budget, survived(recorded, eps=eps / 255, queries=budget))
            series.append(line)
        if series:
            panels.append(Panel(f"eps {eps:g}/255", "queries", tuple(series), log_x=True))
    return panels


def over_parameters(frame: pd.DataFrame) -> list[Panel]:
    """Return plots of accuracy against a number that varies between otherwise equal cells.

    The number is read from the cells' commands. For a parameter of the attack or the attacker there is one
    line per row. For a parameter of the purifier there is one line per column.
    """
    figures = _figures(frame)
    return [*_over_attacks(figures), *_over_purifiers(figures)]


def cost(frame: pd.DataFrame, records: pd.DataFrame) -> list[Panel]:
    """Return a plot of the seconds per image against robustness, with one point for each purifier.

    Robustness is the worst result of the purifier, or its lowest result under attack. The seconds are those
    of purifying on the machine that made the records; purifiers that share one optimisation share its
    seconds.
    """
    figures = _figures(frame)[lambda f: f.metric == "accuracy"]
    if "purify_seconds" not in records:
        return []
    seconds = records.groupby("command").purify_seconds.mean()
    series = []
    for row, entries in figures.groupby("row", sort=False):
        cell_seconds = [seconds[command] for command in entries.command if command in seconds]
        worst, attacked = entries[entries.attack == "worst"], entries[_attacked(entries)]
        if not cell_seconds or max(cell_seconds) <= 0 or not (len(worst) or len(attacked)):
            continue
        line = Series(str(row), x=[float(np.mean(cell_seconds))])
        lowest = worst if len(worst) else attacked.nsmallest(1, "value")
        line.y, line.low, line.high = ([float(lowest[name].iloc[0])] for name in ("value", "low", "high"))
        series.append(line)
    meaning = "worst case" if (figures.attack == "worst").any() else "lowest under attack"
    if len(series) < 2:
        return []
    label = f"{meaning}, accuracy in %"
    return [Panel("", "seconds per image", tuple(series), label, log_x=True, joined=False)]


def _figures(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the entries that have a result in the table's main metric."""
    return frame[frame.value.notna() & (frame.metric == frame.metric.iloc[0])]


def _attacked(entries: pd.DataFrame) -> pd.Series:
    return (entries.command != "") & (entries.attack != "clean")


def _titles(entries: pd.DataFrame) -> pd.Series:
    """Return the titles: the column's label and the attacker's knowledge."""
    return entries.column.str.rstrip(" ,") + ", " + entries.knowledge_kind


def _is(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _add(line: Series, x: float, right: pd.Series) -> None:
    low, high = wilson(int(right.sum()), len(right))
    line.x.append(float(x))
    line.y.append(100 * float(right.mean()))
    line.low.append(100 * low)
    line.high.append(100 * high)


def _series(
    part: pd.DataFrame,
    name_of: Callable[[object], str],
    x_of: Callable[[object], float],
    start: dict[str, tuple[float, object]] | None = None,
) -> tuple[Series, ...]:
    """Return the lines by name, with their points in the order of x."""
    points_of: dict[str, list[tuple[float, object]]] = {}
    for entry in part.itertuples():
        name = str(name_of(entry))
        first_points = [start[name]] if start and name in start else []
        points_of.setdefault(name, first_points).append((float(x_of(entry)), entry))
    lines = []
    for name, points in points_of.items():
        points.sort(key=lambda point: point[0])
        line = Series(name, x=[x for x, _ in points], paper=[(x, e.paper) for x, e in points if _is(e.paper)])
        line.y, line.low, line.high = (
            [getattr(entry, key) for _, entry in points] for key in ("value", "low", "high")
        )
        lines.append(line)
    return tuple(lines)


def words_of(command: str) -> dict[str, str]:
    """Return what a command sets, without the settings of the run."""
    pairs = [word.split("=", 1) for word in command.split() if "=" in word]
    return {
        name: value for name, value in pairs if "." in name or name in ("attack", "knowledge", "purifier")
    }


def _number(text: str) -> float | None:
    if not NUMBER.fullmatch(text):
        return None
    over, _, under = text.partition("/")
    return float(over) / float(under) if under else float(over)


def varying(words: list[dict[str, str]], parts: tuple[str, ...]) -> Iterator[str]:
    """Yield the names below these parts whose values are numbers that are not everywhere the same."""
    names = dict.fromkeys(name for settings in words for name in settings if name.startswith(parts))
    for name in names:
        values = {settings[name] for settings in words if name in settings}
        if len(values) > 1 and all(_number(value) is not None for value in values):
            yield name


def _over_attacks(figures: pd.DataFrame) -> Iterator[Panel]:
    cells = figures[(figures.command != "") & figures.queries.isna()]
    words = [words_of(command) for command in cells.command]
    for name in varying(words, ("attack.", "knowledge.")):
        if name in FOLLOWS or name == "attack.eps":
            continue
        equal = [
            {k: v for k, v in settings.items() if k not in (name, *FOLLOWS) and not k.startswith("purifier")}
            for settings in words
        ]
        rests = [str(sorted(settings.items())) for settings in equal]
        part = cells.assign(rest=rests, x=[_number(settings.get(name, "")) for settings in words])
        part = part[[name in settings for settings in words]]
        for _, same in part.groupby("rest", sort=False):
            if same.x.nunique() < 2:
                continue
            first = same.iloc[0]
            eps = f", eps {first.eps_255:g}/255" if _is(first.eps_255) else ""
            title = f"{first.attack}{eps}, {first.knowledge_kind}"
            x_label = f"{name.removeprefix('attack.')} of the attack"
            yield Panel(title, x_label, _series(same, lambda e: e.row, lambda e: e.x))


def _over_purifiers(figures: pd.DataFrame) -> Iterator[Panel]:
    named = {e.row: words_of(e.command) for e in figures.itertuples() if e.command}
    rows = {
        row: {k: v for k, v in words.items() if k.split("@")[-1].startswith("purifier")}
        for row, words in named.items()
    }
    for name in varying(list(rows.values()), ("purifier.",)):
        groups: dict[str, dict[str, float]] = {}
        for row, words in rows.items():
            if name in words:
                rest = str(sorted((k, v) for k, v in words.items() if k != name))
                groups.setdefault(rest, {})[row] = _number(words[name])
        for xs in groups.values():
            if len(set(xs.values())) < 2:
                continue
            part = figures[figures.row.isin(xs)]
            series = _series(part, _column, lambda e, xs=xs: xs[e.row])
            title = _common(list(xs)).rstrip("0123456789.=, ") or name
            yield Panel(title, name, series)


def _common(labels: list[str]) -> str:
    """Return the common beginning of all labels."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*labels, strict=False))
    return "".join(letters[0] for letters in same)


def _column(entry: object) -> str:
    return f"{entry.column} {entry.eps_255:g}" if _is(entry.eps_255) else entry.column
