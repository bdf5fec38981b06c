"""Record files say where they come from, and a cell is made again from its file alone."""

import json
import math
import runpy
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_grid import QUICK, cell, files, run

from runners import app, differences, provenance, replay, table
from runners.evaluate import save_records
from runners.provenance import NEEDED, PACKAGES, RecordFile
from runners.records import PROVENANCE, from_parquet, to_parquet

PGD = ["attack=pgd", "attack.steps=2"]
CELLS = {
    "blind": cell(*PGD, "purifier=jpeg"),
    "bpda": cell(*PGD, "knowledge=bpda", "knowledge.eot=2", "purifier=pixel-deflection"),
    "eot": cell(*PGD, "knowledge=full", "knowledge.eot=2", "purifier=randomization"),
    "decision": cell("attack=hopskipjump", "attack.queries=150", "knowledge=decision", "purifier=jpeg"),
    "fit": cell(*PGD, "purifier=dip", "purifier.steps=4"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    """A folder with a store and records, and the cells' record files."""
    folder = tmp_path_factory.mktemp("made")
    results, _ = run(folder / "store", list(CELLS.values()), n=3)
    assert [r.failed or r.skipped for r in results] == [None] * len(CELLS)
    saved = [save_records(result, folder / "records") for result in results]
    return folder, dict(zip(CELLS, saved, strict=True))


@pytest.fixture
def again(made, monkeypatch, capsys):
    """Replays: exit status, what was printed, what was said on errors."""
    monkeypatch.delenv("DATA_DIR", raising=False)
    places = [f"store={made[0]}/store", f"records={made[0]}/records", "workers=1"]

    def call(record: str | Path, *words: str) -> tuple[int, str, str]:
        typed = replay.words([str(record), *places, *words])
        monkeypatch.setattr(sys, "argv", ["replay", *typed])
        try:
            app.run(replay.main, "replay")
            status = 0
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status, " ".join(out.replace("│", " ").split()), err

    return call


def changed(path: Path, folder: Path, *, records=None, told=None, metadata=None) -> Path:
    """A copy of a record file, with functions applied to its records and to its provenance."""
    file = RecordFile.read(path)
    frame = from_parquet(path.read_bytes())
    frame = frame if records is None else records(frame)
    facts = json.loads(json.dumps(file.provenance))
    if told is not None:
        told(facts)
    held = {**pa.Table.from_pandas(frame).schema.metadata, PROVENANCE: json.dumps(facts).encode()}
    held = held if metadata is None else metadata(held)
    copy = folder / "changed.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(held), copy)
    return copy


def test_a_record_file_says_all_that_it_takes_to_make_it_again(made):
    store, path = made[0] / "store", made[1]["blind"]
    told = json.loads(pq.read_schema(path).metadata[PROVENANCE])
    assert set(NEEDED) <= set(told)
    assert {"python", *PACKAGES} == set(told["versions"])
    assert path.stem.endswith(told["key"][:8])
    assert told["configs"] == CELLS["blind"].configs
    assert told["names"] == CELLS["blind"].names
    assert [told["settings"][name] for name in ("n", "seed", "split", "chunk")] == [3, 0, "evaluation", 2]
    assert [told["precision"], told["threads"], told["device"]["type"]] == ["float32", 1, "cpu"]
    assert "pytest" in told["command_line"]
    assert told["time"].endswith("+00:00")
    ids = from_parquet(path.read_bytes()).id
    assert told["image_ids_sha256"] == sha256("\n".join(ids).encode()).hexdigest()
    (weights,) = files(store, "weights")
    assert told["weights"]["victim"]["sha256"] == sha256(weights.read_bytes().partition(b"\n")[2]).hexdigest()
    assert told["weights"]["purifier"]["sha256"] is None
    assert told["component_versions"]["victim.weights.dataset"] == 1
    assert told["made_elsewhere"] == []


def test_provenance_is_beside_the_records_not_in_them(made):
    whole = RecordFile.read(made[1]["blind"])
    plain = from_parquet(made[1]["blind"].read_bytes())
    pd.testing.assert_frame_equal(plain, from_parquet(to_parquet(plain, whole.provenance)))
    assert PROVENANCE not in pq.read_schema(pa.BufferReader(to_parquet(plain))).metadata


@pytest.mark.parametrize("name", list(CELLS))
def test_a_replay_is_equal_to_the_bit_and_takes_only_weights_from_the_store(made, again, name):
    before = {p: p.stat().st_mtime_ns for p in made[0].rglob("*")}
    key = RecordFile.read(made[1][name])["key"]
    status, out, err = again(key if name == "blind" else key[:8])
    assert status == 0, (out, err)
    assert "result equal" in out
    assert "3 chunks" not in out
    assert "for 2 chunks to craft and 2 to purify" in out, "nothing came from a store"
    assert before == {p: p.stat().st_mtime_ns for p in made[0].rglob("*")}


def test_weights_that_the_store_lacks_are_trained_again(made, again, tmp_path):
    status, out, _ = again(made[1]["blind"], f"store={tmp_path}/empty")
    assert status == 0
    assert "trained again" in out


def nudged(column: str, row: int, value):
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        frame[column] = [value(v) if i == row else v for i, v in enumerate(frame[column])]
        return frame

    return change


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("blind", "ssim", lambda v: math.nextafter(v, 2)),
        ("decision", "path", lambda v: [*v[:-1], [v[-1][0], math.nextafter(v[-1][1], 9)]]),
        ("eot", "adversarial", lambda v: "0" * 64),
        ("bpda", "correct", lambda v: not v),
    ],
)
def test_one_changed_value_is_found_and_named(made, again, tmp_path, name, column, value):
    copy = changed(made[1][name], tmp_path, records=nudged(column, 1, value))
    status, out, err = again(copy)
    assert status == 1
    assert err == f"error: not equal: {column}\n"
    image = from_parquet(made[1][name].read_bytes()).id[1]
    assert f"differs {column} of {image}:" in out
    assert "(1 of 3 images)" in out


OLDER = {"torch": "1.0"}


@pytest.mark.parametrize(
    ("column", "value", "status", "said"),
    [
        ("ssim", lambda v: v + 1e-6, 0, "equal on 3 of 3 images"),
        ("purified_label", lambda v: v + 1, 1, "equal on 2 of 3 images"),
    ],
)
@pytest.mark.parametrize("why", ["versions", "chunks"])
def test_other_versions_are_told_and_decisions_compared(
    made, again, tmp_path, column, value, status, said, why
):
    def told(facts):
        if why == "versions":
            facts["versions"] |= OLDER
        else:
            facts["made_elsewhere"] = [{"stage": "records", "chunks": 2, "by": {"versions.torch": "1.0"}}]

    copy = changed(made[1]["blind"], tmp_path, records=nudged(column, 0, value), told=told)
    got, out, err = again(copy)
    assert got == status, err
    assert said in out
    assert f"differs {column}" in out
    assert ("versions.torch 1.0 ->" if why == "versions" else "2 chunks of the recorded run") in out


def test_another_commit_alone_excuses_nothing(made, again, tmp_path):
    copy = changed(
        made[1]["blind"],
        tmp_path,
        records=nudged("psnr", 2, lambda v: v + 1e-9),
        told=lambda facts: facts.update(commit="f" * 40, dirty=True),
    )
    status, out, _ = again(copy)
    assert status == 1
    assert f"commit {'f' * 40} (with changes" in out


def of(part: str, **changes):
    return lambda facts: facts["configs"][part].update(changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metadata": lambda held: {}}, "holds no provenance"),
        ({"metadata": lambda held: {PROVENANCE: b"{"}}, "its provenance is not JSON"),
        ({"told": lambda f: f.update(format=0)}, "of another format: expected 1, got 0"),
        ({"told": lambda f: f.pop("weights")}, "its provenance lacks weights"),
        ({"told": lambda f: f["settings"].pop("n")}, "other settings than now (n)"),
        ({"records": lambda frame: frame[:2]}, "damaged: expected image ids of sha256"),
        (
            {"told": lambda f: f["weights"]["victim"].update(sha256="0" * 64)},
            f"weights of victim: expected sha256 {'0' * 64}, got ",
        ),
        (
            {"told": of("purifier", _target_="purifiers.jpeg.Gone")},
            "purifier: expected purifiers.jpeg.Gone version 1, got no such component",
        ),
        ({"told": of("purifier", _target_="purifiers.gone.JPEG")}, "version 1, got no such component"),
        ({"told": of("purifier", _target_="subprocess.Popen")}, "not one of this project's"),
        ({"told": of("purifier", _target_="runners.replay.Path")}, "not a class of that module"),
        ({"told": of("purifier", quality=75, level=3)}, "purifiers.jpeg.JPEG: "),
        ({"told": lambda f: f["settings"].update(n=2)}, "expected image ids of sha256"),
        ({"told": of("victim", label_space="letters")}, "knows the labels of 'letters'"),
        (
            {"told": lambda f: f["component_versions"].update(attack=1)},
            "attack: expected attacks.from_torchattacks.PGD version 1, got version 2",
        ),
        ({"told": lambda f: f.update(scoring=0)}, "scoring: expected version 0, got"),
    ],
)
def test_what_cannot_be_run_again_is_one_line_and_status_2(made, again, tmp_path, changes, expected):
    status, _, err = again(changed(made[1]["blind"], tmp_path, **changes))
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert expected in err


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("ffffffff", "no record has the key 'ffffffff'"),
        ("digits", "no record has the key 'digits'"),
        ("nowhere.parquet", "expected a Parquet file of records, got"),
    ],
)
def test_an_unknown_record_is_one_line_and_status_2(made, again, record, expected):
    status, _, err = again(record)
    assert status == 2
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert record.endswith("parquet") or made[1]["blind"].name in err, "it says which there are"


@pytest.mark.parametrize("kept", [0, 4, 3000])
def test_a_truncated_file_is_one_line_and_status_2(made, again, tmp_path, kept):
    copy = tmp_path / "cut.parquet"
    copy.write_bytes(made[1]["blind"].read_bytes()[:kept])
    status, _, err = again(copy)
    assert status == 2
    assert err.startswith(f"error: {copy}: expected a Parquet file of records")
    assert len(err.strip().splitlines()) == 1


def test_every_config_names_components_that_a_replay_accepts():
    named = {
        line.partition("_target_:")[2].split()[0]
        for path in app.CONFIGS.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if line.strip().startswith("_target_:")
    }
    assert len(named) > 40
    for target in named:
        assert replay.version_of(target) >= 1


def test_files_are_taken_from_where_they_lie_now(made, tmp_path):
    file = RecordFile.read(made[1]["blind"])
    stays = tmp_path / "here.pt"
    moved = tmp_path / "new" / "weights" / "w.pt"
    moved.parent.mkdir(parents=True)
    for path in (stays, moved):
        path.touch()
    file.provenance["configs"]["purifier"] |= {"path": str(stays), "weights": {"path": "/old/weights/w.pt"}}
    file.provenance["configs"]["dataset"] |= {"root": "/old"}
    configs = replay.cell_of(file, tmp_path / "new").configs
    assert configs["purifier"]["path"] == str(stays)
    assert configs["purifier"]["weights"]["path"] == str(moved)
    assert configs["dataset"]["root"] == str(tmp_path / "new")


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_and_changes_are_told(tmp_path):
    unknown = {"commit": "unknown", "dirty": "unknown"}
    assert provenance.of_code(tmp_path) == unknown, "no repository"
    git(tmp_path, "init", "-q")
    assert provenance.of_code(tmp_path) == unknown, "no commit"
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.of_code(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "new").mkdir()
    assert provenance.of_code(tmp_path / "new") == unknown, "a folder in someone's repository is not one"
    (tmp_path / "new" / "purifier.py").touch()
    assert provenance.of_code(tmp_path)["dirty"] is True, "a new file"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "second")
    (tmp_path / "code.py").write_text("a = 2\n")
    assert provenance.of_code(tmp_path)["dirty"] is True, "a changed file"


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.of_code() == {"commit": "unknown", "dirty": "unknown"}


def test_chunks_that_another_commit_made_are_told_and_are_the_same(monkeypatch, tmp_path, made):
    subprocess.run(["cp", "-r", str(made[0] / "store" / "weights"), str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "of_code", lambda: {"commit": "a", "dirty": False})
    first = run(tmp_path, [CELLS["blind"]], n=2, workers=2)[0][0]
    monkeypatch.setattr(provenance, "of_code", lambda: {"commit": "b", "dirty": False})
    second = run(tmp_path, [CELLS["blind"]], n=4, workers=2)[0][0]
    assert first.provenance["made_elsewhere"] == []
    assert second.provenance["made_elsewhere"] == [
        {"stage": stage, "chunks": 1, "by": {"commit": "a"}}
        for stage in ("adversarial", "purified", "records")
    ]
    kept = from_parquet(made[1]["blind"].read_bytes())
    assert second.records.purified[:2].tolist() == kept.purified[:2].tolist(), "no name depends on the maker"
    for path in files(tmp_path, "records"):
        header = json.loads(path.read_bytes().partition(b"\n")[0])
        path.write_bytes(json.dumps({k: v for k, v in header.items() if k != "made_by"}).encode()
                         + b"\n" + path.read_bytes().partition(b"\n")[2])  # fmt: skip
    third = run(tmp_path, [CELLS["blind"]], n=4)[0][0]
    assert {"stage": "records", "chunks": 2, "by": "unknown"} in third.provenance["made_elsewhere"]


def test_every_figure_of_a_table_has_its_record_file(monkeypatch, tmp_path, made):
    words = [
        "table=ddip/table1", "n=2", *QUICK, f"store={made[0]}/store", f"tables={tmp_path}/tables",
        f"records={tmp_path}/records",
        "table.rows=[{label:JPEG,cell:['purifier=jpeg']},{label:Bare,cell:['purifier=none']}]",
        "table.columns=[{label:Clean,attack:clean,cell:['attack=clean']}]",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["table", *words])
    app.run(table.main, "table")
    figures = pd.read_csv(tmp_path / "tables" / "ddip-table1.csv")
    cells = figures[figures.command.notna()]
    assert len(cells) == 2
    for key in cells.record:
        found = replay.find(key, tmp_path / "records")
        assert RecordFile.read(found)["settings"]["n"] == 2


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
    more, fewer = pa.table({"id": ["a"], "flag": [1]}), pa.table({"id": ["a"]})
    assert [d.column for d in differences.of_records(more, fewer)] == ["flag"]
    assert [d.column for d in differences.of_records(fewer, more)] == ["flag"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["0012"], ["record='0012'"]),
        (["it's.parquet", "device=cpu"], ["record='it\\'s.parquet'", "device=cpu"]),
        (["record=x"], ["record=x"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_a_bare_word_is_the_record(typed, expected):
    assert replay.words(typed) == expected


def test_the_command_line_takes_a_bare_key(made, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["replay", "00000000", f"records={made[0]}/records"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(replay.__file__, run_name="__main__")
    assert "no record has the key '00000000'" in capsys.readouterr().err


def test_of_a_long_path_the_place_is_shown():
    long = [[float(i), 0.5] for i in range(500)]
    tables = [pa.table({"id": ["a"], "path": [[*long, [500.0, end]]]}) for end in (0.25, 0.125)]
    text = str(differences.of_records(*tables)[0])
    assert "[500.0, 0.25]" in text
    assert "[500.0, 0.125]" in text
    assert len(text) < 400
