"""Renders verdicts for the console, for docs/findings.md and for the report."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.text import Text

from data.errors import InputError
from runners.claims.verdicts import ALPHA, Outcome
from runners.output import plain_table
from runners.tables.render import markdown_table

BEGIN, END = "<!-- claims: begin, written by make claims -->", "<!-- claims: end -->"
VERDICTS = ("holds", "contradicted", "undetermined", "not run")
STYLES = {"holds": "green", "contradicted": "red", "undetermined": "yellow", "not run": "dim"}
METHOD = (
    "Each claim is evaluated on the finished table that comes nearest to the paper's own setting. Accuracies "
    "are compared by McNemar's exact test on the same images; margins, averages and SSIM by a paired "
    "bootstrap; a share with a number by the binomial test. p is corrected by Holm's method for all claims "
    f"of the paper that were evaluated, and decides below {ALPHA:g}. The observed figures are of the "
    "comparison that is hardest for the claim. docs/claims.md has the details."
)


def by_paper(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Outcome]]]:
    """Return the outcomes of each paper, in their order."""
    return [(paper, list(part)) for paper, part in groupby(outcomes, key=lambda outcome: outcome.claim.paper)]


def counted(outcomes: Iterable[Outcome]) -> str:
    """Return in words how many claims have each verdict."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return f"{counts.total()} claims: {verdicts}"


def verdict_text(outcome: Outcome) -> str:
    """Return the verdict with its p-value.

    If the claim is undetermined, the text says how many images would decide it.
    """
    if outcome.verdict == "not run":
        return f"not run: {outcome.reason}"
    text = f"{outcome.verdict}, p = {outcome.p:.2g}"
    if outcome.verdict != "undetermined":
        return text
    if outcome.reason:
        return f"{text}; {outcome.reason}"
    if outcome.needs is None:
        return f"{text}; no number of images would decide these figures"
    return f"{text}; about {outcome.needs:,} images would decide"


def claim_text(outcome: Outcome) -> str:
    """Return what the paper claims, where, by how much, and how we read it."""
    claim = outcome.claim
    printed = "" if claim.prints is None else f"; it prints a difference of {claim.prints:g}"
    reading = f" Read as: {claim.reading[0].lower()}{claim.reading[1:]}" if claim.reading else ""
    return f"{claim.says} ({claim.where}{printed}){reading}"


def setting_text(outcome: Outcome) -> str:
    """Return data set, victim and number of images as text."""
    table = outcome.evidence
    return "" if table is None else f"{table.dataset}, {table.victim}, n = {outcome.n:,}"


def console(outcomes: Sequence[Outcome]) -> Group:
    """Return a table for each paper with one row for each claim that was evaluated.

    The other claims are only counted.
    """
    tables = []
    for paper, part in by_paper(outcomes):
        title = f"{paper}, {counted(part)}"
        shown = plain_table("claim", "verdict", "observed", "on", title=title)
        for outcome in part:
            if outcome.verdict != "not run":
                verdict = Text(verdict_text(outcome), style=STYLES[outcome.verdict])
                shown.add_row(outcome.claim.id, verdict, Text(outcome.observed), Text(setting_text(outcome)))
        tables.append(shown if shown.row_count else Text(title, style="italic"))
    return Group(*tables)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the verdicts as a part of a Markdown document, with one table for each paper."""
    lines = [f"{METHOD} In all {counted(outcomes)}.", ""]
    for paper, part in by_paper(outcomes):
        lines += [f"### The claims of `{paper}`", "", f"{counted(part)}.", ""]
        evaluated = [outcome for outcome in part if outcome.verdict != "not run"]
        if evaluated:
            letters = _letters(evaluated)
            rows = [
                {
                    "claim": claim_text(outcome),
                    "verdict": verdict_text(outcome).replace(outcome.verdict, f"**{outcome.verdict}**", 1),
                    "observed": outcome.observed,
                    "on": setting_text(outcome),
                    "departs": ", ".join(letters[departure] for departure in outcome.departs),
                }
                for outcome in evaluated
            ]
            lines += markdown_table(pd.DataFrame(rows))
            lines += ["", *(f"* {letter}: {departure}" for departure, letter in letters.items())]
            lines += [""] if letters else []
        waiting = [outcome for outcome in part if outcome.verdict == "not run"]
        for reason, claim_ids in _by_reason(waiting):
            lines.append(f"* Not run, {reason[0].lower()}{reason[1:].rstrip('.')}: {', '.join(claim_ids)}.")
        lines += [""] if waiting else []
    return "\n".join(lines).rstrip() + "\n"


def _letters(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return a short name for each departure: a, b, ..., z, aa, ab, ..."""
    departures = dict.fromkeys(departure for outcome in outcomes for departure in outcome.departs)
    return {departure: _letter(i) for i, departure in enumerate(departures)}


def _letter(i: int) -> str:
    before, last = divmod(i, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + last)


def _by_reason(outcomes: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    claim_ids: dict[str, list[str]] = {}
    for outcome in outcomes:
        claim_ids.setdefault(outcome.reason, []).append(outcome.claim.id)
    return list(claim_ids.items())


def written(path: Path, part: str) -> str:
    """Return the content of a document in which `part` replaces the text between the two marks.

    Raises InputError if the document does not have the two marks, each on a line of its own.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"findings: {path}: cannot be read ({error.strerror})") from error
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise InputError(f"findings: {path}: expected one line {BEGIN!r} and below it one line {END!r}")
    before, after = lines[: lines.index(BEGIN) + 1], lines[lines.index(END) :]
    return "\n".join([*before, "", part.rstrip("\n"), "", *after]) + "\n"
