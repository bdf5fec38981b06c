"""The reason of a failure names the line of the component's own code."""

import importlib
import inspect

import pytest
import torch

from runners.evaluation.failures import reason_of
from runners.evaluation.records import from_parquet
from tests.broken import Raises


def caught(call) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("expected an exception")


def line_of(function, text: str) -> int:
    """Return the number of the line of a function that contains a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


RAISED = line_of(Raises.purify, "raise ")


@pytest.mark.parametrize(
    "configs",
    [
        [{"_target_": "tests.broken.Raises"}],
        [{"_target_": "purifiers.jpeg.JPEG"}, {"steps": [{"of": {"_target_": "tests.broken.Raises"}}]}],
    ],
)
def test_the_line_that_raised_is_named(configs):
    error = caught(lambda: Raises().purify(torch.zeros(1, 3, 8, 8), [0], None))
    assert reason_of(error, configs) == f"tests/broken.py line {RAISED}: ZeroDivisionError: on purpose"


def test_what_the_projects_own_code_raises_has_no_line():
    error = caught(lambda: from_parquet(b"no records"))
    assert reason_of(error, [{"_target_": "tests.broken.Raises"}]).startswith("ArrowInvalid: ")


def test_an_exception_without_a_message_is_named():
    assert reason_of(KeyError(), []) == "KeyError: no message"


def test_a_fault_inside_a_library_is_told_at_the_users_line(tmp_path, monkeypatch):
    """The user's component lies outside the project, and calls a module beside it, which calls torch."""
    (tmp_path / "own_parts.py").write_text("import torch\n\n\ndef bend(x):\n    return torch.cat([x, 3])\n")
    (tmp_path / "own_purifier.py").write_text(
        "from own_parts import bend\n\n\nclass Mine:\n    def purify(self, x):\n        return bend(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    purifier = importlib.import_module("own_purifier").Mine()
    error = caught(lambda: purifier.purify(torch.zeros(2)))
    reason = reason_of(error, [{"_target_": "own_purifier.Mine"}])
    assert reason.startswith(f"{tmp_path}/own_parts.py line 5: TypeError: ")
