"""Explains why the class or function that a config names as its `_target_` cannot be loaded."""

import pkgutil
import sys

from runners.config_errors import did_you_mean
from runners.evaluation.failures import one_line


def why_not_loaded(target: str, error: ImportError) -> str:
    """Return which part of the name does not exist and the nearest one that does, or the import's error.

    Args:
        target: the dotted name, such as "purifiers.jpeg.JPEG".
        error: what Hydra raised when it looked the name up.
    """
    cause = error.__cause__ or error
    if isinstance(cause, SyntaxError):
        return f"{cause.filename} line {cause.lineno}: {one_line(cause)}"
    if isinstance(cause, ModuleNotFoundError) and not f"{target}.".startswith(f"{cause.name}."):
        return one_line(cause)  # a module that the component itself imports
    if not isinstance(cause, ModuleNotFoundError | AttributeError):
        return one_line(cause)
    parts = target.split(".")
    for i in range(len(parts) - 1, 0, -1):
        if (module := sys.modules.get(".".join(parts[:i]))) is not None:
            inner = [part.name for part in pkgutil.iter_modules(getattr(module, "__path__", []))]
            known = [name for name in (*vars(module), *inner) if not name.startswith("_")]
            return f"{module.__name__} has no {parts[i]!r}{did_you_mean(parts[i], known)}"
    return f"no module is called {parts[0]!r}; it must be installed, in the current folder or on PYTHONPATH"
