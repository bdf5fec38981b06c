"""Words of a command line that have no name, such as the folders of `runners.purify in/ out/`."""

from collections.abc import Sequence


def placed(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the words with names for the first ones that have none: ["in/"] becomes ["images='in/'"]."""
    given, bare = list(words), 0
    while bare < min(len(given), len(names)) and not given[bare].startswith("-") and "=" not in given[bare]:
        given[bare] = f"{names[bare]}={quoted(given[bare])}"
        bare += 1
    return given


def quoted(value: str) -> str:
    """Quote a value, so that Hydra reads it as one value whatever characters it contains."""
    return "'{}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))
