"""The ways in which a table departs from the paper where a claim is evaluated on it."""

from runners.claims.finished import Finished
from runners.claims.shape import shape_of
from runners.claims.statement import Claim


def departs(claim: Claim, evidence: Finished) -> tuple[str, ...]:
    """Return what differs from the paper: the setting, and what the notes and flags of the entries say."""
    table, differences = evidence.table, {}
    if table.note:
        differences[table.note.removeprefix("differs from the paper: ").removesuffix("; no verdict")] = None
    shape = shape_of(evidence.name, evidence.dataset, evidence.victim)
    for row, column in _places(claim):
        try:
            place = evidence.places.get((shape.row(row), shape.column(column).name))
        except LookupError:
            continue
        if place is None:
            continue
        entry = table.frame.iloc[place]
        ours = [note for note in entry.note.split("; the paper: ")[:1] if note.startswith("ours: ")]
        differences |= dict.fromkeys(f"{entry.row}: {note.removeprefix('ours: ')}" for note in ours)
        if "attack_weak" in entry["flags"].split():
            differences[f"{entry.row}, {column}: the attack is weaker than the paper's (attack_weak)"] = None
    return tuple(differences)


def _places(claim: Claim) -> list[tuple[str, str]]:
    return list(dict.fromkeys(place for pair in claim.pairs() for side in pair if side for place in side))
