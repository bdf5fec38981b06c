"""Sentences about the adaptive attack on a cell: what it did, and what the protocol also asks for."""

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from attacks.knowledge import Kind
from attacks.members import DRAWS_OF_A_FIT
from purifiers.purifier import Purifier
from runners.validity.flags import SMALL_N


def told_by(records: pd.DataFrame) -> str:
    """Return which members found the examples and how many passes they took, or empty text for other attacks.

    Raises KeyError if the notes list members but come from another attack.
    """
    notes = [json.loads(text) for text in records.notes if text]
    notes = [note for note in notes if "planned" in note]
    if not notes:
        return ""
    counts = Counter(note["by"] for note in notes if note["by"])
    misled = sum(note["misled"] == 1 for note in notes)
    forward, backward = notes[0]["budget"]
    order = {name: place for place, name in enumerate(["the image itself", *notes[0]["planned"]])}
    by = ", ".join(f"{name} {counts[name]}" for name in sorted(counts, key=lambda name: order[name]))
    return (
        f"the adaptive attack has a budget of {forward:,} forward and {backward:,} backward passes per "
        "image, "
        f"and used {records.forward_passes.mean():,.0f} and {records.backward_passes.mean():,.0f} of them on "
        f"average; {misled} of {len(notes)} images misled all {notes[0]['judged']} judging draws; number of "
        f"examples by member: {by or 'none'}; planned members: {', '.join(notes[0]['planned'])}"
    )


def missing(purifier: Purifier, kinds: Sequence[Kind], records: pd.DataFrame) -> str:
    """Return what a complete evaluation of the purifier still needs.

    The text is empty for purifiers that neither draw nor are fitted at test time.
    """
    if not (purifier.stochastic or purifier.per_image_optimization):
        return ""
    criteria = {
        f"{SMALL_N} images": len(records) >= SMALL_N,
        f"{DRAWS_OF_A_FIT} scored draws": records.draws.iloc[0] >= DRAWS_OF_A_FIT,
        "a blind attack": "blind" in kinds,
        "a transfer attack": "transfer" in kinds,
        "attack=adaptive": "everything" in kinds,
        "a query attack": bool({"score", "decision"} & set(kinds)),
        "other seeds": False,  # a table has one seed
    }
    unmet = [criterion for criterion, is_met in criteria.items() if not is_met]
    return f"a complete evaluation also needs: {', '.join(unmet)}"
