"""purifybench from Python: evaluate a purifier, clean images with one, load victims and data sets.

    import purifybench

    result = purifybench.evaluate("jpeg", victim=my_network, dataset="cifar10", attack="pgd", n=100)
    print(result)                  # accuracy with its 95 % interval, flags, and what else the records say
    result.records                 # a pandas.DataFrame with one row per image

The functions are thin wrappers of the commands of `runners/`: they compose the same configs, use the same
store and make the same checks. docs/your-own.md explains them.
"""

from importlib import import_module, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "victims", "purifiers", "attacks", "runners")


def _check_packages() -> None:
    """Raise ImportError if another folder hides one of the packages on which this one is built."""
    for name in PACKAGES:
        folder = next(iter(import_module(name).__path__), "nowhere")
        if Path(folder).resolve() != ROOT / name:
            raise ImportError(
                f"purifybench: expected its package {name} in {ROOT}, got {folder}: rename that "
                "folder, or start Python elsewhere"
            )


_check_packages()

from data.errors import InputError, MissingError  # noqa: E402
from data.images import Images  # noqa: E402
from purifybench.evaluation import Evaluation, evaluate  # noqa: E402
from purifybench.loading import load  # noqa: E402
from runners.app import FailedCellsError  # noqa: E402
from runners.purify import purify  # noqa: E402

try:
    __version__ = metadata.version("purifybench")
except metadata.PackageNotFoundError:  # the folder is on Python's path, without having been installed
    __version__ = "unknown"

__all__ = [
    "Evaluation",
    "FailedCellsError",
    "Images",
    "InputError",
    "MissingError",
    "evaluate",
    "load",
    "purify",
]
