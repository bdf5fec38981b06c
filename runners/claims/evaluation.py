"""All claims, evaluated on the finished tables of a folder."""

from pathlib import Path

from runners.claims.finished import finished
from runners.claims.shape import check
from runners.claims.statement import FILE, claims_of
from runners.claims.verdicts import Outcome, verdicts


def outcomes(tables: Path, path: Path = FILE) -> list[Outcome]:
    """The outcome of each claim of a file, in its order; Hydra must have been told where configs are.

    Raises InputError for a claim that names what no table has, and for records of another schema.
    """
    claims = claims_of(path)
    for claim in claims:
        check(claim)
    return verdicts(claims, finished(tables, sorted({claim.table for claim in claims if claim.table})))
