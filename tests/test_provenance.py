"""What a record file says about its origin, and what counts as a difference."""

import json
import math
import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_grid import cell, files, run

from runners import table
from runners.evaluate import save_records
from runners.evaluation.records import PROVENANCE, from_parquet, to_parquet
from runners.validity import differences, provenance
from runners.validity.provenance import PACKAGES
from runners.validity.record_file import NEEDED, RecordFile
from runners.validity.recorded_cell import find

CELL = cell("attack=pgd", "attack.steps=2", "purifier=jpeg")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """Return a store and the record file of CELL."""
    folder = tmp_path_factory.mktemp("made")
    (result,), _ = run(folder / "store", [CELL], n=3)
    return folder / "store", save_records(result, folder / "records")


def test_a_record_file_says_all_that_it_takes_to_make_it_again(made):
    store, path = made
    facts = json.loads(pq.read_schema(path).metadata[PROVENANCE])
    assert set(NEEDED) <= set(facts)
    assert {"python", *PACKAGES} == set(facts["versions"])
    assert path.stem.endswith(facts["key"][:8])
    assert facts["configs"] == CELL.configs
    assert facts["names"] == CELL.names
    assert [facts["settings"][name] for name in ("n", "seed", "split", "chunk")] == [3, 0, "evaluation", 2]
    assert [facts["precision"], facts["threads"], facts["device"]["type"]] == ["float32", 1, "cpu"]
    assert facts["command_line"] == shlex.join(sys.orig_argv)
    assert facts["time"].endswith("+00:00")
    ids = from_parquet(path.read_bytes()).id
    assert facts["image_ids_sha256"] == sha256("\n".join(ids).encode()).hexdigest()
    (weights,) = files(store, "weights")
    assert (
        facts["weights"]["victim"]["sha256"] == sha256(weights.read_bytes().partition(b"\n")[2]).hexdigest()
    )
    assert facts["weights"]["purifier"]["sha256"] is None
    assert facts["component_versions"]["victim.weights.dataset"] == "1.1"
    assert facts["made_elsewhere"] == []


def test_provenance_is_beside_the_records_not_in_them(made):
    record = RecordFile.read(made[1])
    plain = from_parquet(made[1].read_bytes())
    pd.testing.assert_frame_equal(plain, from_parquet(to_parquet(plain, record.provenance)))
    assert PROVENANCE not in pq.read_schema(pa.BufferReader(to_parquet(plain))).metadata


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_and_changes_are_told(tmp_path):
    unknown = {"commit": "unknown", "dirty": "unknown"}
    assert provenance.of_code(tmp_path) == unknown, "the folder is no repository"
    git(tmp_path, "init", "-q")
    assert provenance.of_code(tmp_path) == unknown, "the repository has no commit"
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.of_code(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "new").mkdir()
    assert provenance.of_code(tmp_path / "new") == unknown, (
        "a folder inside another repository is not a repository"
    )
    (tmp_path / "new" / "purifier.py").touch()
    assert provenance.of_code(tmp_path)["dirty"] is True, "a new file makes the tree dirty"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "second")
    (tmp_path / "code.py").write_text("a = 2\n")
    assert provenance.of_code(tmp_path)["dirty"] is True, "a changed file makes the tree dirty"


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.of_code() == {"commit": "unknown", "dirty": "unknown"}


def test_chunks_that_another_commit_made_are_told_and_are_the_same(monkeypatch, tmp_path, made):
    subprocess.run(["cp", "-r", str(made[0] / "weights"), str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "of_code", lambda: {"commit": "a", "dirty": False})
    first = run(tmp_path, [CELL], n=2, workers=2)[0][0]
    monkeypatch.setattr(provenance, "of_code", lambda: {"commit": "b", "dirty": False})
    second = run(tmp_path, [CELL], n=4)[0][0]
    assert first.provenance["made_elsewhere"] == []
    assert second.provenance["made_elsewhere"] == [
        {"stage": stage, "chunks": 1, "by": {"commit": "a"}}
        for stage in ("adversarial", "purified", "records")
    ]
    frame = from_parquet(made[1].read_bytes())
    assert second.records.purified[:2].tolist() == frame.purified[:2].tolist(), (
        "no artefact's name depends on its maker"
    )
    for path in files(tmp_path, "records"):
        header = json.loads(path.read_bytes().partition(b"\n")[0])
        path.write_bytes(json.dumps({k: v for k, v in header.items() if k != "made_by"}).encode()
                         + b"\n" + path.read_bytes().partition(b"\n")[2])  # fmt: skip
    third = run(tmp_path, [CELL], n=4)[0][0]
    assert {"stage": "records", "chunks": 2, "by": "unknown"} in third.provenance["made_elsewhere"]


def test_every_figure_of_a_table_has_its_record_file(command, tmp_path, made):
    words = [
        "table=ddip/table1", "n=2", f"store={made[0]}", f"tables={tmp_path}/tables",
        f"records={tmp_path}/records",
        "table.rows=[{label:JPEG,cell:['purifier=jpeg']},{label:Bare,cell:['purifier=none']}]",
        "table.columns=[{label:Clean,attack:clean,cell:['attack=clean']}]",
    ]  # fmt: skip
    assert command(table.main, "table", *words)[0] == 0
    figures = pd.read_csv(tmp_path / "tables" / "ddip-table1.csv")
    cells = figures[figures.command.notna()]
    assert len(cells) == 2
    for key in cells.record:
        path = find(key, tmp_path / "records")
        assert RecordFile.read(path)["settings"]["n"] == 2


@pytest.mark.parametrize(
    ("was", "now", "equal"),
    [
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (None, float("nan"), False),
        ([[1.0, 2.0]], [[1.0, 2.0]], True),
        ([[1.0, 2.0]], [[1.0, math.nextafter(2, 3)]], False),
        ([], [[1.0, 2.0]], False),
        (1, 1.0, False),
    ],
)
def test_equal_means_to_the_bit(was, now, equal):
    tables = [pa.table({"id": ["a"], "value": [value]}) for value in (was, now)]
    assert (differences.of_records(*tables) == []) == equal


def test_a_column_of_one_side_only_is_a_difference():
    with_flag, without_flag = pa.table({"id": ["a"], "flag": [1]}), pa.table({"id": ["a"]})
    assert [d.column for d in differences.of_records(with_flag, without_flag)] == ["flag"]
    assert [d.column for d in differences.of_records(without_flag, with_flag)] == ["flag"]


def test_of_a_long_path_the_place_is_shown():
    long = [[float(i), 0.5] for i in range(500)]
    tables = [pa.table({"id": ["a"], "path": [[*long, [500.0, end]]]}) for end in (0.25, 0.125)]
    text = str(differences.of_records(*tables)[0])
    assert "[500.0, 0.25]" in text
    assert "[500.0, 0.125]" in text
    assert len(text) < 400
