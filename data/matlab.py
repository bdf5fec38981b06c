"""MATLAB files, in which some data sets publish their labels and splits."""

from pathlib import Path
from typing import Any

import scipy.io

from data.errors import InputError


def read(path: Path, *, names: tuple[str, ...], hint: str) -> dict[str, Any]:
    """Return the arrays of these names; only arrays are read, and nothing in the file is executed.

    Raises InputError, whose message ends with the hint, for a file that is damaged or lacks an array.
    """
    try:
        content = scipy.io.loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises a dozen kinds of errors for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: expected a MATLAB file, got one that cannot be read ({reason}); {hint}"
        ) from error
    if lacking := [name for name in names if name not in content]:
        raise InputError(f"{path}: expected arrays {', '.join(names)}, got none called {lacking[0]}; {hint}")
    return content
