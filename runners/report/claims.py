"""The verdicts on the papers' claims as a page of the report."""

from collections.abc import Sequence

from runners.claims import shown
from runners.claims.verdicts import Outcome
from runners.report.page import rendered


def claims_page(outcomes: Sequence[Outcome]) -> str:
    """Return the verdicts as a page of the report, which links to the pages of the tables."""
    papers = [
        {
            "name": paper,
            "counted": shown.counted(part),
            "claims": [
                {
                    "text": shown.claim_text(outcome),
                    "verdict": outcome.verdict,
                    "told": shown.verdict_text(outcome).removeprefix(outcome.verdict),
                    "observed": outcome.observed,
                    "setting": shown.setting_text(outcome),
                    "table": outcome.evidence.table.stem if outcome.evidence else "",
                    "departs": "; ".join(outcome.departs),
                }
                for outcome in part
            ],
        }
        for paper, part in shown.by_paper(outcomes)
    ]
    return rendered("claims.html", papers=papers, counted=shown.counted(outcomes), method=shown.METHOD)
