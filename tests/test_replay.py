"""Record files say where they come from, and a cell can be made again from its file alone."""

import json
import math
import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_grid import DIP, cell, run

from attacks import from_torchattacks as library
from runners import app, replay, trace, untrusted
from runners.evaluate import save_records
from runners.evaluation.identity import version_of
from runners.evaluation.records import PROVENANCE, from_parquet
from runners.validity.record_file import RecordFile
from runners.validity.recorded_cell import cell_of

PGD = ["attack=pgd", "attack.steps=2"]
CELLS = {
    "blind": cell(*PGD, "purifier=jpeg"),
    "bpda": cell(*PGD, "knowledge=bpda", "knowledge.eot=2", "purifier=pixel-deflection"),
    "eot": cell(*PGD, "knowledge=full", "knowledge.eot=2", "purifier=randomization"),
    "decision": cell("attack=hopskipjump", "attack.queries=60", "knowledge=decision", "purifier=jpeg"),
    "fit": cell(*PGD, *DIP, "purifier.steps=4"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    """Return a folder with a store and records, and the record files of the cells."""
    folder = tmp_path_factory.mktemp("made")
    results, _ = run(folder / "store", list(CELLS.values()), n=3)
    assert [r.failed or r.skipped for r in results] == [None] * len(CELLS)
    saved = [save_records(result, folder / "records") for result in results]
    return folder, dict(zip(CELLS, saved, strict=True))


@pytest.fixture
def again(made, command):
    """Return a function that replays a record file.

    It returns the exit status, the output and the errors.
    """
    places = [f"store={made[0]}/store", f"records={made[0]}/records", "workers=1"]

    def call(record: str | Path, *words: str) -> tuple[int, str, str]:
        arguments = replay.words([str(record), *places, *words])
        status, out, err = command(replay.main, "replay", *arguments)
        return status, " ".join(out.replace("│", " ").split()), err

    return call


def changed(path: Path, folder: Path, *, records=None, told=None, metadata=None) -> Path:
    """Write a copy of a record file with functions applied to its contents, and return its path.

    `records`, `told` and `metadata` change the records, the provenance and the metadata.
    """
    file = RecordFile.read(path)
    frame = from_parquet(path.read_bytes())
    frame = frame if records is None else records(frame)
    facts = json.loads(json.dumps(file.provenance))
    if told is not None:
        told(facts)
    schema_metadata = {**pa.Table.from_pandas(frame).schema.metadata, PROVENANCE: json.dumps(facts).encode()}
    schema_metadata = schema_metadata if metadata is None else metadata(schema_metadata)
    copy = folder / "changed.parquet"
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(schema_metadata), copy
    )
    return copy


@pytest.mark.parametrize("name", list(CELLS))
def test_a_replay_is_equal_to_the_bit_and_takes_only_weights_from_the_store(made, again, name):
    before = {p: p.stat().st_mtime_ns for p in made[0].rglob("*")}
    key = RecordFile.read(made[1][name])["key"]
    status, out, err = again(key if name == "blind" else key[:8])
    assert status == 0, (out, err)
    assert "result equal" in out
    assert "3 chunks" not in out
    assert "(2 chunks to craft, 2 to purify; " in out, "nothing was taken from a store"
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
    code, out, err = again(copy)
    assert code == status, err
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
        ({"metadata": lambda held: {PROVENANCE: b"{"}}, "provenance: damaged: expected JSON"),
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
            "configs.purifier: expected the name of a component of this project, got 'purifiers.jpeg.Gone'",
        ),
        ({"told": of("purifier", _target_="runners.gone.JPEG")}, "got 'runners.gone.JPEG'"),
        ({"told": of("purifier", _target_="subprocess.Popen")}, "got 'subprocess.Popen'"),
        ({"told": of("purifier", _target_="runners.replay.Path")}, "got 'runners.replay.Path'"),
        ({"told": of("purifier", quality=75, level=3)}, "purifiers.jpeg.JPEG: "),
        ({"told": lambda f: f["settings"].update(n=2)}, "expected image ids of sha256"),
        (
            {"told": lambda f: f["component_versions"].update(attack=0)},
            "attack: expected attacks.from_torchattacks.PGD version 0, got version "
            f"{version_of(library.PGD)}",
        ),
        ({"told": lambda f: f.update(scoring=0)}, "scoring: expected version 0, got"),
    ],
)
def test_what_cannot_be_run_again_is_one_line_and_status_2(made, again, tmp_path, changes, expected):
    status, _, err = again(changed(made[1]["blind"], tmp_path, **changes))
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert expected in err


def test_a_component_whose_module_has_moved_since_is_found(made, tmp_path):
    path = changed(made[1]["blind"], tmp_path, told=of("purifier", _target_="purifiers.before.JPEG"))
    cell = cell_of(RecordFile.read(path), tmp_path)
    assert cell.configs["purifier"]["_target_"] == "purifiers.jpeg.JPEG"


def test_a_trace_runs_nothing_of_a_record_that_is_not_ours(made, command, tmp_path):
    theirs = {"_target_": "shutil.copyfile", "src": str(made[1]["fit"]), "dst": str(tmp_path / "copied")}
    path = changed(made[1]["fit"], tmp_path, told=lambda f: f["configs"].update(purifier=theirs))
    places = [f"store={made[0]}/store", f"traces={tmp_path}/traces"]
    status, _, err = command(trace.main, "trace", *replay.words([str(path), *places]))
    assert status == 2
    assert "got 'shutil.copyfile'" in err
    assert not (tmp_path / "copied").exists()


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
    assert record.endswith("parquet") or made[1]["blind"].name in err, (
        "the message does not name the existing files"
    )


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
        target
        for path in app.CONFIGS.rglob("*.yaml")
        for target in re.findall(r"_target_: *([\w.]+)", path.read_text())
    }
    assert len(named) > 40
    for target in named:
        if not target.startswith("runners."):  # no record names loggers and paid services
            assert isinstance(untrusted.component(target, "x"), type)


def test_files_are_taken_from_where_they_lie_now(made, tmp_path):
    file = RecordFile.read(made[1]["blind"])
    outside = tmp_path / "elsewhere.pt"
    moved_path = tmp_path / "new" / "weights" / "w.pt"
    moved_path.parent.mkdir(parents=True)
    for path in (outside, moved_path):
        path.touch()
    file.provenance["configs"]["purifier"] |= {
        "path": str(outside),
        "start": {"path": str(tmp_path / "new" / ".." / "elsewhere.pt")},
        "weights": {"path": "/old/weights/w.pt"},
    }
    file.provenance["configs"]["dataset"] |= {"root": "/old"}
    configs = cell_of(file, tmp_path / "new").configs
    for path in (configs["purifier"]["path"], configs["purifier"]["start"]["path"]):
        assert Path(path).is_relative_to(tmp_path / "new"), "a file outside data_dir was opened"
        assert ".." not in Path(path).parts
    assert configs["purifier"]["weights"]["path"] == str(moved_path)
    assert configs["dataset"]["root"] == str(tmp_path / "new")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["0012"], ["record='0012'"]),
        (["it's.parquet", "device=cpu"], ["record='it\\'s.parquet'", "device=cpu"]),
        (["record=9330e908", "device=cpu"], ["record='9330e908'", "device=cpu"]),
        (["record='x'"], ["record='x'"]),
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
