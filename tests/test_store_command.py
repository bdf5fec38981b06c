"""The store of a finished table: its status, what may be removed, and what can be taken elsewhere."""

import io
import os
import re
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from runners.evaluation.settings import Settings
from runners.evaluator import Evaluator
from runners.store import __main__ as store_command
from runners.store import maintenance, status
from runners.store.artifact import Artifact, key_of
from runners.store.manifest import Manifest, manifests
from runners.store.status import status_of
from runners.store.store import Store
from tests.test_grid import cell, run, same

REQUEST = Manifest("runners.table", "ddip/table1", ("n=5", "chunk=2"))
CELLS = [
    cell("attack=clean", "purifier=none"),
    cell("attack=fgsm", "purifier=jpeg"),
    cell("attack=fgsm", purifier="Raises"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> tuple[Path, list]:
    """Return a store with a table one of whose three cells failed, and the results of the table."""
    folder = tmp_path_factory.mktemp("table") / "store"
    settings = Settings(
        n=5, seed=0, split="evaluation", subset="random", chunk=2, store=str(folder), device="cpu",
        tf32=False, workers=1, budget_hours=1.0, audit="cheap", draws=3,
    )  # fmt: skip
    return folder, Evaluator(settings, Console(file=io.StringIO())).evaluate(CELLS, REQUEST)


@pytest.fixture
def folder(table, tmp_path) -> Path:
    """Return a copy of that store whose files are not young any more."""
    shutil.copytree(table[0], tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (time.time() - 2 * maintenance.YOUNG,) * 2)
    return tmp_path / "store"


def said(main, *words) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    return main([str(word) for word in words], console), console.file.getvalue()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_status_tells_what_is_done_and_what_failed_and_why(folder):
    code, output = said(store_command.main, "--store", folder, "status")
    assert code == 0
    assert "ddip/table1 chunk=2 n=5: 6 of 9 chunks done, 3 failed" in output
    assert "Raises, eps 8/255, chunk 0 and 2 more: " in output
    assert "ZeroDivisionError: on purpose" in output
    path = Path(re.search(r"traceback: (\S+)", output)[1])
    assert path.is_file()


def test_status_tells_what_runs_where_and_what_is_missing(folder):
    store = Store(folder)
    (manifest,) = manifests(store)
    first, second = (chunks for label, chunks in manifest.cells.items() if "Raises" not in label)
    for chunks, i in ((first, 0), (first, 1), (second, 2)):
        (folder / "records" / chunks[i][3][:2] / chunks[i][3]).unlink()
    assert store.leases.take(first[0][1], "Identity: a/0 to a/1")
    state = status_of(store, manifest)
    assert (state.done, state.in_hand, state.missing, len(state.failed), state.total) == (3, 1, 2, 3, 9)
    assert not state.complete
    output = said(store_command.main, "--store", folder, "status")[1]
    assert re.search(rf"running  Identity: a/0 to a/1: \S+, process {os.getpid()}, for \d+ s", output)
    store.leases.release(first[0][1])


def test_time_left_is_of_the_work_that_is_left(folder):
    store = Store(folder)
    (manifest,) = manifests(store)
    chunks = next(iter(manifest.cells.values()))
    for chunk in chunks[:2]:
        (folder / "records" / chunk[3][:2] / chunk[3]).unlink()
    seconds = {chunk[1]: 100.0 for chunk in chunks}
    assert status_of(store, replace(REQUEST, cells=manifest.cells, seconds=seconds)).left == 200.0


def test_status_of_nothing(tmp_path):
    code, output = said(store_command.main, "--store", tmp_path / "none", "status")
    assert code == 2
    assert "expected a folder, got none; choose one with --store" in output
    Store(tmp_path / "empty")
    assert (
        "no table has been requested yet"
        in said(store_command.main, "--store", tmp_path / "empty", "status")[1]
    )


def test_retry_asks_again_for_tables_with_failures(folder, monkeypatch):
    commands = []

    def failing(words: list[str]) -> SimpleNamespace:
        commands.append(words[1:])
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(status.subprocess, "run", failing)
    code, output = said(store_command.main, "--store", folder, "retry", "hydra/launcher=slurm")
    assert code == 1
    place = f"store={folder}"
    assert commands == [["-m", "runners.table", "n=5", "chunk=2", place, "hydra/launcher=slurm"]]
    assert f"again: python -m runners.table n=5 chunk=2 {place} hydra/launcher=slurm" in output
    said(store_command.main, "--store", folder, "retry", "hydra/launcher=slurm", "shard=range(8)")
    assert commands[1][2:] == [
        "n=5",
        "chunk=2",
        place,
        "hydra/launcher=slurm",
        "shard=range(8)",
        "--multirun",
    ]
    assert commands[2][2:] == ["n=5", "chunk=2", place, "hydra/launcher=slurm", "workers=0"]
    said(store_command.main, "--store", folder, "retry", "store=elsewhere")
    assert commands[3] == ["-m", "runners.table", "n=5", "chunk=2", "store=elsewhere"]
    shutil.rmtree(folder / "failures")
    assert "nothing has failed" in said(store_command.main, "--store", folder, "retry")[1]


@pytest.mark.parametrize(
    ("words", "codes", "expected"),
    [(["n=5"], [-9], 137), (["shard=range(8)"], [-9, 0], 137), (["shard=range(8)"], [1, 0], 1)],
    ids=["killed", "jobs killed", "jobs failed"],
)
def test_retry_fails_when_one_of_its_commands_does(folder, monkeypatch, words, codes, expected):
    monkeypatch.setattr(status.subprocess, "run", lambda _: SimpleNamespace(returncode=codes.pop(0)))
    assert said(store_command.main, "--store", folder, "retry", *words)[0] == expected
    assert not codes


@pytest.mark.parametrize(
    "word",
    [
        "a._target_=os.system",
        "hydra.launcher.setup=[rm]",
        "hydra/launcher=x",
        "--config-dir=/tmp",
        "+a=b",
        "table=../../tmp/theirs",
        "victim={_args_: [1]}",
        "records=/etc",
        "logger.entity=theirs",
    ],
)
def test_a_manifest_of_someone_else_runs_no_command_of_theirs(folder, word):
    """Archives bring manifests, so `retry` repeats only words that set parameters."""
    store = Store(folder)
    (manifest,) = manifests(store)
    Manifest("runners.table", "evil", (word,), cells=manifest.cells).write(store)
    with pytest.raises(ValueError, match="is not repeated"):
        _ = next(m for m in manifests(store) if m.name == "evil").command()
    with pytest.raises(ValueError, match="got an interpolation"):
        Manifest("runners.table", "evil", ("a=${x}",))
    with pytest.raises(ValueError, match=r"expected runners\.table"):
        _ = Manifest("os", "x").command()


def test_list_tells_sizes_by_table_and_kind(folder):
    Store(folder).put(Artifact("records", {"of": "nothing"}), b"x" * 3 * 2**20)
    code, output = said(store_command.main, "--store", folder, "list")
    assert code == 0
    assert re.search(r"ddip/table1\s+│ chunk=2 n=5\s+│ \d+\s+│ 0\.\d\s+│ 3 ", output)
    assert re.search(r"no table\s+│\s+│ 1\s+│ 3\.0", output)


def test_verify_names_what_is_damaged_or_misplaced(folder):
    assert said(store_command.main, "--store", folder, "verify")[0] == 0
    first, second = sorted(path for path in (folder / "purified").rglob("*") if path.is_file())[:2]
    first.write_bytes(first.read_bytes()[:-1])
    misplaced = second.with_name(second.name[:-1] + ("0" if second.name[-1] != "0" else "1"))
    second.rename(misplaced)
    code, output = said(store_command.main, "--store", folder, "verify")
    assert code == 1
    assert f"damaged, its checksum differs: {first}" in output
    assert f"misplaced, its name is not that of its recipe: {misplaced}" in output
    assert "2 damaged" in output


def test_gc_removes_what_no_table_needs_and_only_when_told(folder, table):
    store = Store(folder)
    before = files(folder)
    store.put(Artifact("purified", {"of": "nothing"}), b"old")
    old = store.path(Artifact("purified", {"of": "nothing"}))
    os.utime(old, (0, 0))
    store.put(Artifact("purified", {"of": "a run that has just begun"}), b"young")
    code, output = said(store_command.main, "--store", folder, "gc")
    assert code == 0
    assert output.startswith("1 files")
    assert old.exists(), "a dry run removed something"
    assert said(store_command.main, "--store", folder, "gc", "--yes")[0] == 0
    assert not old.exists()
    assert before <= files(folder), "something that the table needs is gone"
    young = store.path(Artifact("purified", {"of": "a run that has just begun"}))
    assert young.exists()
    results, printed = run(folder, CELLS[:2])
    assert "nothing to compute" in printed
    same(results, table[1][:2])


def test_gc_forgets_a_table_when_told(folder):
    code, output = said(store_command.main, "--store", folder, "gc", "--drop", "ddip/table9")
    assert code == 2
    assert "there are ddip/table1" in output
    assert said(store_command.main, "--store", folder, "gc", "--drop", "ddip/table1", "--yes")[0] == 0
    left = {path.split("/")[0] for path in files(folder)}
    assert left == {"weights"}, "weights may have been trained alone, and their training takes long"
    code, output = said(store_command.main, "--store", folder, "gc", "--yes")
    assert code == 2, "without any manifest gc would remove everything"


@pytest.mark.parametrize("how", ["truncated", "of another version"])
def test_gc_removes_nothing_while_a_manifest_cannot_be_read(folder, how):
    store = Store(folder)
    Manifest("runners.table", "another").write(store)
    path = store.path(REQUEST.artifact)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        store.put(REQUEST.artifact, b'{"version": 0}')
    before = files(folder)
    for _ in range(2):  # nor does the first attempt forget the manifest
        code, output = said(store_command.main, "--store", folder, "gc", "--yes")
        assert code == 2
        assert str(path) in output
        assert files(folder) == before


def test_a_table_is_taken_to_another_store(folder, table, tmp_path):
    archive, elsewhere = tmp_path / "a.tar", tmp_path / "elsewhere"
    assert said(store_command.main, "--store", folder, "export", "ddip/table1", archive)[0] == 0
    code, output = said(store_command.main, "--store", elsewhere, "import", archive)
    assert code == 0, output
    results, printed = run(elsewhere, CELLS[:2])
    assert "nothing to compute" in printed
    same(results, table[1][:2])
    assert "existed already" in said(store_command.main, "--store", elsewhere, "import", archive)[1]
    code, output = said(store_command.main, "--store", folder, "export", "oag/table1", archive)
    assert code == 2
    assert "there are ddip/table1" in output


def test_an_import_replaces_what_is_damaged(folder, tmp_path):
    archive = tmp_path / "a.tar"
    said(store_command.main, "--store", folder, "export", "ddip/table1", archive)
    damaged = next(path for path in (folder / "records").rglob("*") if path.is_file())
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    code, output = said(store_command.main, "--store", folder, "import", archive)
    assert code == 0, output
    assert output.startswith("1 files added")
    assert damaged.read_bytes() == whole


def _archive(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../evil", tarfile.REGTYPE),
        ("/tmp/evil", tarfile.REGTYPE),
        ("records/../../evil", tarfile.REGTYPE),
        ("claims/x.0", tarfile.REGTYPE),
        ("claims/ab/" + "ab" * 32, tarfile.REGTYPE),
        ("failures/ab/" + "ab" * 32, tarfile.REGTYPE),
        ("records/ab/" + "ab" * 32, tarfile.GNUTYPE_SPARSE),
        ("records/ab/" + "ab" * 32, tarfile.SYMTYPE),
        ("records/ab/" + "ab" * 32, tarfile.REGTYPE),
        ("records/ab/" + "cd" * 32, tarfile.REGTYPE),
    ],
    ids=[
        "up",
        "absolute",
        "up from within",
        "a claim",
        "a claim by key",
        "a failure",
        "sparse",
        "a link",
        "no artefact",
        "another folder",
    ],
)
def test_an_archive_with_anything_else_in_it_is_refused(tmp_path, name, kind):
    archive = _archive(tmp_path / "a.tar", (name, b"x\ny" if kind == tarfile.REGTYPE else b""), kind=kind)
    before = {path for path in tmp_path.parent.rglob("*") if "elsewhere" not in str(path)}
    code, output = said(store_command.main, "--store", tmp_path / "elsewhere", "import", archive)
    assert code == 2, output
    assert name in output
    assert not files(tmp_path / "elsewhere")
    assert before == {path for path in tmp_path.parent.rglob("*") if "elsewhere" not in str(path)}


def test_an_artefact_under_another_recipes_name_is_refused(tmp_path):
    """Otherwise an archive could provide any content for any cell."""
    store = Store(tmp_path / "store")
    store.put(Artifact("records", {"of": "one"}), b"content")
    raw = store.path(Artifact("records", {"of": "one"})).read_bytes()
    key = Artifact("records", {"of": "another"}).key
    archive = _archive(tmp_path / "a.tar", (f"records/{key[:2]}/{key}", raw))
    code, output = said(store_command.main, "--store", tmp_path / "elsewhere", "import", archive)
    assert code == 2
    assert "its name is not that of its recipe" in output


@pytest.mark.parametrize("content", [b"no archive", b""], ids=["text", "empty"])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    code, output = said(store_command.main, "--store", tmp_path / "elsewhere", "import", tmp_path / "a.tar")
    assert code == 2
    assert "cannot read" in output


def test_ten_thousand_chunks_are_listed_in_less_than_a_second(tmp_path):
    keys = [key_of({"i": i}) for i in range(10_000)]
    for key in keys:
        path = tmp_path / "records" / key[:2] / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    store = Store(tmp_path)
    manifest = replace(REQUEST, cells={"cell": [["c", "p", "i", key] for key in keys]})
    begin = time.perf_counter()
    assert status_of(store, manifest).done == 10_000
    assert time.perf_counter() - begin < 1
