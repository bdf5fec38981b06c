"""The time that is told, and refused where it is too long, before any work."""

import shutil

import pytest
from test_grid import CELLS, run, same

from data.errors import InputError


def test_what_is_only_to_be_scored_is_within_any_budget(tmp_path):
    expected, _ = run(tmp_path, CELLS[2:])
    shutil.rmtree(tmp_path / "records")
    results, said = run(tmp_path, CELLS[2:], budget_hours=1e-9)
    same(results, expected)
    assert "estimate" in said
    for stage in ("records", "purified"):
        shutil.rmtree(tmp_path / stage)
    with pytest.raises(InputError, match="above budget_hours=1e-09"):
        run(tmp_path, CELLS[2:], budget_hours=1e-9)
