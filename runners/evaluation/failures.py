"""The reason of a failure in one line, with the line of the user's own code that raised the error."""

import inspect
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from traceback import extract_tb
from typing import Any

from hydra.utils import get_object

from runners.places import ROOT
from runners.untrusted import targets

LIBRARIES = {Path(place) for name, place in sysconfig.get_paths().items() if name.endswith("lib")}


def one_line(error: BaseException) -> str:
    """Return the type and the message of an exception in one line."""
    if isinstance(error, SystemExit):
        return f"it asked the whole process to end (SystemExit: {error.code})"
    reason = str(error).splitlines()[0] if str(error) else "no message"
    return f"{type(error).__name__}: {reason}"


def reason_of(error: BaseException, configs: Iterable[Any]) -> str:
    """Return one line with the error and the place in the user's code where it was raised.

    This is a line of the components that these configs name, or of the user's own modules:
    "purifiers/gamma.py line 12: ValueError: ...".
    """
    own = {_source(part["_target_"]) for config in configs for _, part in targets(config)}
    for frame in reversed(extract_tb(error.__traceback__)):
        if (path := Path(frame.filename)) in own or _foreign(path):
            shown = next((path.relative_to(top) for top in (Path.cwd(), ROOT) if top in path.parents), path)
            return f"{shown} line {frame.lineno}: {one_line(error)}"
    return one_line(error)


def _source(target: str) -> Path | None:
    """Return the source file of a target, or None if it has none."""
    try:
        return Path(inspect.getsourcefile(get_object(target)))
    except TypeError:  # written in C, or an object without a class of its own
        return None


def _foreign(path: Path) -> bool:
    """Return whether a file belongs neither to this project nor to Python and its installed packages."""
    return path.is_file() and not any(top in path.parents for top in (ROOT, *LIBRARIES))
