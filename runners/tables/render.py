"""Renders a table as Markdown and LaTeX; runners/tables/console.py prints it. Pure functions of the frame."""

from dataclasses import dataclass

import pandas as pd

from attacks.knowledge import MEANING
from runners.tables.agreement import Agreement
from runners.tables.significance import ALPHA, explained
from runners.validity.flags import SMALL_N, meaning
from runners.validity.registry import MARKS

PLACES = {  # decimals that a metric is printed with
    "accuracy": 1,
    "mean of draws": 1,
    "majority of draws": 1,
    "worst of draws": 1,
    "ssim": 3,
    "seconds/image": 4,
    "attack seconds/image": 1,
    "attack passes/image": 0,
    "gpu-memory": 3,
    "parameters": 2,
}


@dataclass(frozen=True)
class Heading:
    """The text around the results of a table."""

    title: str
    note: str  # why the results may not be compared with the paper's; empty if they may
    setting: str
    agreement: Agreement | None = None  # with the paper's results, if it prints any


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame if each of its results has its number of images and its interval.

    Raises ValueError otherwise. Only the mean of an unbounded value may have no interval.
    """
    ends = frame[["low", "high"]].isna()
    lacks = ends.any(axis=1) & ((frame.metric == "accuracy") | ~ends.all(axis=1))
    bare = frame[frame.value.notna() & (lacks | frame.n.isna())]
    if len(bare):
        first = bare.iloc[0]
        raise ValueError(
            f"expected an interval and n with every result, got none: {first.row}, {first.column}"
        )
    return frame


def column_name(entry: pd.Series) -> str:
    """Return the name of an entry's column, such as Clean, FGSM 8 or PGD 8 bpda.

    It names the kind of attacker unless the attacker is blind.
    """
    name = f"{entry.column} {entry.eps_255:g}" if pd.notna(entry.eps_255) else entry.column
    return name if entry.knowledge_kind in ("", "blind") else f"{name} {entry.knowledge_kind}"


def value_text(entry: pd.Series) -> str:
    """Return the result with its marks, or why there is none.

    `▲` and `~` mark the best, `*` few images, letters other flags, and `=` and `≠` a verdict.
    """
    if pd.isna(entry.value):
        return {"failed": "failed", "skipped": "–", "absent": ""}[entry.status]
    marks = ("▲" if entry.p_best < ALPHA else "~") if entry.best else ""
    marks += "*" if entry.n < SMALL_N else ""
    marks += "".join(mark for name, mark in MARKS.items() if name in entry["flags"].split())
    verdict = {"matches": " =", "differs": " ≠"}.get(entry.verdict, "")
    return f"{entry.value:.{PLACES[entry.metric]}f}{marks}{verdict}"


def interval_text(entry: pd.Series) -> str:
    """Return the 95 % interval, or empty text if there is none."""
    places = PLACES[entry.metric] - (entry.metric in ("accuracy", "ssim"))
    return "" if pd.isna(entry.low) else f"{entry.low:.{places}f}–{entry.high:.{places}f}"


def paper_text(entry: pd.Series) -> str:
    return "" if pd.isna(entry.paper) else f"{entry.paper:.{PLACES[entry.metric]}f}"


def delta_text(entry: pd.Series) -> str:
    return "" if pd.isna(entry.delta) else f"{entry.delta:+.{PLACES[entry.metric]}f}"


LINES = {"ours": value_text, "95 %": interval_text, "paper": paper_text, "Δ": delta_text}


def grid(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the entries as text in the shape of the paper.

    Each defense has several lines, and each attack has one column.
    """
    rows = []
    for name, entries in complete(frame).groupby("row", sort=False):
        for line, text in LINES.items():
            cells = {column_name(e): text(e) for _, e in entries.iterrows()}
            if any(cells.values()):
                rows.append({"Defense": name if line == "ours" else "", "": line, **cells})
    return pd.DataFrame(rows).fillna("")


def legend(frame: pd.DataFrame, heading: Heading) -> list[str]:
    """Return the sentences that explain the results of the table."""
    attackers = sorted(set(frame.knowledge_kind) - {""})
    lines = [
        heading.setting + ".",
        "Attacker's knowledge: " + "; ".join(f"{kind}: {MEANING[kind]}" for kind in attackers) + ".",
        _intervals(frame),
    ]
    if (frame.n.dropna() < SMALL_N).any():
        lines.append(f"* There are fewer than {SMALL_N} images, so the interval is wide.")
    raised = set(" ".join(frame["flags"]).split())
    lines += [f"{mark} {name}: {meaning(name)}." for name, mark in MARKS.items() if mark and name in raised]
    lines += [*_over(frame), *explained(frame)]
    if frame.verdict.any():
        lines.append("= The paper's result lies inside our interval; ≠ it lies outside.")
    if heading.agreement is not None:
        lines.append(f"{heading.agreement.text()}.")
    notes = frame.assign(note=frame.note.str.split("; (?=the paper: )", regex=True)).explode("note")
    for (status, note), part in notes[notes.note != ""].groupby(["status", "note"], sort=False):
        rows = ", ".join(dict.fromkeys(part.row))
        lines.append(f"{rows}: {status + ': ' if status in ('failed', 'skipped') else ''}{note}.")
    return lines


def _intervals(frame: pd.DataFrame) -> str:
    """Return the sentence that says how the intervals are computed (runners/evaluation/metrics.py)."""
    averages = frame[(frame.attack == "average") & (frame.metric == "accuracy")]
    methods = dict.fromkeys("Wilson's" if metric == "accuracy" else "Student's" for metric in frame.metric)
    text = f"The 95 % intervals are {' or '.join(methods)}, over the images"
    return f"{text}; those of averages are Agresti and Coull's." if len(averages) else f"{text}."


def _over(frame: pd.DataFrame) -> list[str]:
    """Return the sentence that says which columns the worst results combine."""
    worst, cells = frame[frame.attack == "worst"], frame[frame.knowledge_kind != ""]
    if worst.value.isna().all():
        return []
    kinds = []
    for kind, part in cells.assign(knowledge_kind="").groupby(cells.knowledge_kind, sort=False):
        names = dict.fromkeys(column_name(entry) for _, entry in part.iterrows())
        kinds.append(f"{kind}: {', '.join(names)}")
    return [
        f"{worst.column.iloc[0]}: the share of images that are right in every column ({'; '.join(kinds)})."
    ]


def lacking(missing: list[dict], across: int) -> str:
    """Return why a row of `across` entries has no worst result: the names of those without records."""
    names = "all columns" if len(missing) == across else ", ".join(column_name(pd.Series(e)) for e in missing)
    return f"there is no worst result without {names}" if missing else ""


def markdown(frame: pd.DataFrame, heading: Heading) -> str:
    """Return the table as a page in GitHub's Markdown."""
    table = grid(frame)
    lines = [f"# {heading.title}", ""]
    lines += [f"**{heading.note}**", ""] if heading.note else []
    lines += markdown_table(table)
    return "\n".join([*lines, "", *(f"- {line}" for line in legend(frame, heading))]) + "\n"


def markdown_table(table: pd.DataFrame) -> list[str]:
    """Return the lines of a frame of text as a table in GitHub's Markdown."""
    head = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    return [*head, *("| " + " | ".join(row) + " |" for row in table.to_numpy())]


def latex(frame: pd.DataFrame, heading: Heading) -> str:
    """Return the table in LaTeX for the package booktabs."""
    escape = str.maketrans({c: f"\\{c}" for c in "%&_#${}"} | {"\\": r"\textbackslash{}", "^": r"\^{}"})
    text = {"–": "--", "≠": "$\\neq$", "Δ": "$\\Delta$", "▲": "$\\triangle$", "~": "$\\sim$", "<": "$<$"}
    text["†"] = "$\\dagger$"

    def clean(cell: str) -> str:
        cell = cell.translate(escape)
        for symbol, macro in text.items():
            cell = cell.replace(symbol, macro)
        return cell

    table = grid(frame).map(clean)
    caption = " ".join([heading.title + ".", heading.note, *legend(frame, heading)])
    rows = [" & ".join(row) + r" \\" for row in table.to_numpy()]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}\centering\small",
            rf"\caption{{{clean(caption)}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(table.columns) - 2)}}}",
            r"\toprule",
            " & ".join(clean(c) for c in table.columns) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )
