"""A store with faults: exchanged chunks, pipes instead of files, lost permissions, hidden processes."""

import errno
import io
import logging
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from data.errors import InputError
from runners.evaluation.weights import Training
from runners.report.pictures import Pictures
from runners.store import __main__ as store_command
from runners.store import holder, maintenance
from runners.store.artifact import Artifact
from runners.store.failures import Failure, failure_of, keep_failure
from runners.store.holder import myself
from runners.store.leases import Leases
from runners.store.manifest import Manifest
from runners.store.store import Store

FIRST, SECOND = (Artifact("purified", {"images": name}) for name in ("first", "second"))


@pytest.fixture
def store(tmp_path) -> Store:
    """Return a store of two chunks."""
    store = Store(tmp_path / "store")
    for i, recipe in enumerate((FIRST, SECOND)):
        store.put_tensors(recipe, {"images": torch.full((2, 3, 4, 4), float(i))})
    return store


def housekept(store: Store, *words: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=300, soft_wrap=True)
    return store_command.main(["--store", str(store.root), *words], console), console.file.getvalue()


def test_chunks_that_were_exchanged_are_noticed_and_made_again(store, caplog):
    """Each is whole and matches its own checksum; only its recipe shows that it is in another's place."""
    path, other_path = store.path(FIRST), store.path(SECOND)
    first, second = path.read_bytes(), other_path.read_bytes()
    path.write_bytes(second)
    other_path.write_bytes(first)
    row = {"id": "a", "correct": True, "row": 0} | dict.fromkeys(("clean", "adversarial"), other_path.name)
    assert Pictures(store.root).of(pd.DataFrame([row | {"purified": path.name}]), 1) == []
    assert "its name is not that of its recipe" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert store.get_tensors(FIRST) is None
        assert store.get(SECOND) is None
    assert caplog.text.count("misplaced, its name is not that of its recipe") == 2
    assert not store.has(FIRST)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "not a regular file; remove it"),
        (os.mkdir, "not a regular file; remove it"),
        (lambda path: os.symlink("/dev/zero", path), "not a regular file; remove it"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links"),
    ],
    ids=["pipe", "folder", "device", "loop"],
)
def test_what_is_no_file_is_one_line_and_waits_for_nothing(store, make, reason):
    path = store.path(FIRST)
    path.unlink()
    make(path)
    with pytest.raises(InputError, match=f"cannot read {path} \\(.*{reason}"):
        store.get(FIRST)
    assert store.made_by(FIRST) is None
    assert Pictures(store.root)._chunk("purified", path.name) is None
    code, output = housekept(store, "verify")
    assert code == 2
    assert str(path) in output


def test_a_pipe_for_a_claim_is_waited_for_no_longer_than_any_other(tmp_path):
    os.mkfifo(tmp_path / "x.0")
    assert not Leases(tmp_path).take("x", "a chunk")


def refusing(monkeypatch, number: int) -> None:
    """Let nothing be removed from now on, not even by root, as on a file system that became read-only."""

    def refused(self: Path, missing_ok: bool = False) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "unlink", refused)


def test_a_store_that_turns_read_only_while_training_is_one_line(store, monkeypatch):
    training = Training(store, Artifact("weights", {"of": "x"}))
    training.save({"step": torch.tensor(1)})
    store.leases.take("x", "training")
    refusing(monkeypatch, errno.EROFS)
    with pytest.raises(InputError, match=r"cannot remove .*Read-only file system"):
        store.remove(training.checkpoint)
    store.leases.release("x")
    assert store.leases.held == {}


def test_gc_without_permission_is_one_line(store, monkeypatch):
    Manifest("runners.table", "t", n=1).write(store)
    for recipe in (FIRST, SECOND):
        os.utime(store.path(recipe), (0, 0))
    refusing(monkeypatch, errno.EACCES)
    code, output = housekept(store, "gc", "--yes")
    assert code == 2
    assert "gc: cannot remove" in output
    assert "Permission denied" in output


def test_a_folder_that_may_not_be_read_is_one_line(store, monkeypatch):
    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(maintenance, "opened", refused)
    code, output = housekept(store, "verify")
    assert code == 2
    assert f"{store.path(FIRST)}: Permission denied" in output


def test_a_store_whose_path_looks_like_markup_is_listed(store):
    (store.root.parent / "store[").mkdir()
    root = store.root.rename(store.root.parent / "store[" / "b]")
    code, output = housekept(Store(root), "list")
    assert code == 0
    assert "store[/b]" in output


def test_a_message_that_no_file_can_hold_is_kept_with_escapes(store):
    failure = Failure("ValueError: \ud800", "Traceback: \udcff", "launch")
    assert failure.reason == "ValueError: \\ud800"
    keep_failure(store, "key", failure, images="a/0 to a/1")
    stored = failure_of(store, "key")
    assert (stored.reason, stored.traceback) == ("ValueError: \\ud800", "Traceback: \\udcff")


@pytest.mark.parametrize(
    ("error", "lives"), [(PermissionError, None), (None, None), (ProcessLookupError, False)],
    ids=["another user's", "hidden for another reason", "ended"],
)  # fmt: skip
def test_a_process_that_proc_does_not_show_may_live(monkeypatch, error, lives):
    """With /proc mounted hidepid=2, other users' processes look as if they had ended."""

    def kill(pid: int, number: int) -> None:
        assert number == 0, "the process was sent a signal"
        if error is not None:
            raise error

    monkeypatch.setattr(holder.os, "kill", kill)
    hidden = replace(myself("x"), pid=2**22 + 1)
    assert hidden.lives() is lives
