"""Print the verdict on every comparative claim of the papers, from finished tables and their records.

    python -m runners.claims
    python -m runners.claims paper=ddip
    python -m runners.claims findings=docs/findings.md

The claims are in results/papers/claims.yaml. The command computes nothing else. With `findings` it writes the
verdicts between two marks of a Markdown file. docs/claims.md describes how a verdict is reached.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("claims")

from pathlib import Path

from omegaconf import DictConfig

from data.errors import InputError
from runners.claims import shown
from runners.claims.shape import check
from runners.claims.statement import claims_of
from runners.claims.verdicts import evidence_of, verdicts
from runners.files import folder, write_whole


def main(config: DictConfig) -> None:
    """Evaluate the claims, print the verdicts, and write them if `findings` is set."""
    tables = folder(config.tables, "tables")
    if not tables.is_dir():
        raise InputError(f"tables: expected a folder of finished tables, got {tables}, which is none")
    claims = claims_of()
    evidence = evidence_of(claims, tables)
    for claim in claims:
        check(claim)
    outcomes = verdicts(claims, evidence)
    if config.paper is not None:
        papers = list(dict.fromkeys(outcome.claim.paper for outcome in outcomes))
        if config.paper not in papers:
            raise InputError(f"paper: expected one of {', '.join(papers)}, got {config.paper!r}")
        if config.findings is not None:
            raise InputError(
                "findings: expected the claims of all papers, got one paper; leave out paper or findings"
            )
        outcomes = [outcome for outcome in outcomes if outcome.claim.paper == config.paper]
    app.console.print(shown.console(outcomes))
    app.tell(shown.counted(outcomes))
    if config.findings is not None:
        path = Path(str(config.findings))
        write_whole(path, shown.written(path, shown.markdown(outcomes)).encode())
        app.tell(f"written: {path}")


if __name__ == "__main__":
    app.run(main, "claims")
