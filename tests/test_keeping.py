"""Which purified images are kept changes the content of the store, but no record."""

import math
import shutil
from pathlib import Path

import pytest

from data.errors import InputError
from runners.evaluation import keeping
from runners.evaluation.keeping import Keeping
from runners.report.pictures import Pictures
from runners.store.artifact import content_of
from runners.store.manifest import Manifest
from tests.test_grid import CELLS, CellResult, files, run, same

IMAGE = 3 * 224 * 224 * 4
QUICK = CELLS[1:3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[CellResult]]:
    """Return a store that keeps everything, and its results."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, QUICK, keep_purified="all")[0]


@pytest.fixture
def store(whole, tmp_path) -> Path:
    """Return a store that holds the trained victim and the outcomes of the purifiers' checks."""
    for stage in ("weights", "traits"):
        shutil.copytree(whole[0] / stage, tmp_path / stage)
    return tmp_path


@pytest.mark.parametrize(
    ("rule", "n", "seconds", "kept"),
    [
        ("auto", 50_000, 0.5, False),
        ("auto", 50_000, 100.0, True),
        ("auto", 16, 0.0, True),
        ("all", 50_000, 0.0, True),
        ("none", 16, 100.0, False),
    ],
    ids=["cheap and many", "costly and many", "few", "all", "none"],
)
def test_what_is_kept(rule, n, seconds, kept):
    assert Keeping(rule, n).keeps(seconds, IMAGE, held=2 * IMAGE) is kept


@pytest.mark.parametrize(
    ("rule", "costly", "left"),
    [("all", 0, 6), ("none", 0, 0), ("auto", 0, 6), ("auto", math.inf, 0)],
)
def test_records_are_the_same_whatever_is_kept(store, whole, monkeypatch, rule, costly, left):
    monkeypatch.setattr(keeping, "COSTLY", costly)
    monkeypatch.setattr(keeping, "LITTLE", 0)
    results, _ = run(store, QUICK, keep_purified=rule)
    same(results, whole[1])
    assert len(files(store, "purified")) == left
    assert "nothing to compute" in run(store, QUICK, keep_purified=rule)[1]
    for part in files(store, "records")[::2]:  # as after a change of the contents of records
        part.unlink()
    results, _ = run(store, QUICK, keep_purified=rule)
    same(results, whole[1])
    entries = results[0].provenance["made_elsewhere"]
    assert "unknown" not in [entry["by"] for entry in entries], (
        "images that are not kept have an unknown maker"
    )


def test_images_that_were_not_kept_are_made_again_when_all_are_wanted(store, whole):
    results, _ = run(store, QUICK, keep_purified="none")
    assert Pictures(store).of(results[0].records, 5) == []
    records = {path: path.stat().st_mtime_ns for path in files(store, "records")}
    again, _ = run(store, QUICK, keep_purified="all")
    same(again, whole[1])
    assert records == {path: path.stat().st_mtime_ns for path in files(store, "records")}
    assert [path.name for path in files(store, "purified")] == sorted(
        {name for result in again for name in result.records.purified}
    )
    assert len(Pictures(store).of(again[0].records, 5)) == 5
    assert "nothing to compute" in run(store, QUICK, keep_purified="all")[1]


def test_damaged_images_are_made_again_when_all_are_wanted(store):
    run(store, QUICK, keep_purified="all")
    path = files(store, "purified")[0]
    intact = path.read_bytes()
    path.write_bytes(intact[:-1])
    run(store, QUICK, keep_purified="all")
    assert content_of(path)


def test_a_table_is_the_same_request_whatever_it_keeps():
    requests = [Manifest("runners.table", "x", ("n=5", *words)) for words in ((), ("keep_purified=none",))]
    assert requests[0].artifact == requests[1].artifact


def test_a_rule_that_there_is_not(tmp_path):
    with pytest.raises(InputError, match="keep_purified: expected auto, all, none, got 'some'"):
        run(tmp_path, keep_purified="some")
