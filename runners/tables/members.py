"""What the adaptive attack did to the images of a cell, in a sentence, and what the protocol asks besides."""

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

    Raises KeyError for notes that another attack made of members.
    """
    notes = [json.loads(text) for text in records.notes if text]
    notes = [note for note in notes if "planned" in note]
    if not notes:
        return ""
    found = Counter(note["by"] for note in notes if note["by"])
    broken = sum(note["misled"] == 1 for note in notes)
    forward, backward = notes[0]["budget"]
    order = {name: place for place, name in enumerate(["the image itself", *notes[0]["planned"]])}
    by = ", ".join(f"{name} {found[name]}" for name in sorted(found, key=lambda name: order[name]))
    return (
        f"the adaptive attack has a budget of {forward:,} forward and {backward:,} backward passes per "
        "image, "
        f"and used {records.forward_passes.mean():,.0f} and {records.backward_passes.mean():,.0f} of them on "
        f"average; {broken} of {len(notes)} images misled all {notes[0]['judged']} judging draws; number of "
        f"examples by member: {by or 'none'}; planned members: {', '.join(notes[0]['planned'])}"
    )


def missing(purifier: Purifier, kinds: Sequence[Kind], records: pd.DataFrame) -> str:
    """Return what a complete evaluation of a defense that draws or is fitted at test time still needs, or
    empty text for other defenses."""
    if not (purifier.stochastic or purifier.per_image_optimization):
        return ""
    asked = {
        f"{SMALL_N} images": len(records) >= SMALL_N,
        f"{DRAWS_OF_A_FIT} scored draws": records.draws.iloc[0] >= DRAWS_OF_A_FIT,
        "a blind attack": "blind" in kinds,
        "a transfer attack": "transfer" in kinds,
        "attack=adaptive": "everything" in kinds,
        "a query attack": bool({"score", "decision"} & set(kinds)),
        "other seeds": False,  # a table has one
    }
    lacking = [what for what, there in asked.items() if not there]
    return f"a complete evaluation also needs: {', '.join(lacking)}"
