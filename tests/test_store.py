import json
import logging
import resource
import signal
import subprocess
import sys

import pytest
import torch

from data.errors import InputError
from runners.store.artifact import Artifact, key_of
from runners.store.store import Store

RECIPE = Artifact("purified", {"a": 1})


def test_content_comes_back(tmp_path):
    store = Store(tmp_path / "s")
    assert store.get(RECIPE) is None
    store.put(RECIPE, b"content\nwith lines")
    assert store.get(RECIPE) == b"content\nwith lines"
    assert json.loads(store.path(RECIPE).read_bytes().partition(b"\n")[0])["made_from"] == RECIPE.made_from


def test_tensors_come_back(tmp_path):
    store, tensor = Store(tmp_path), torch.randn(3, 4).T
    store.put_tensors(RECIPE, {"x": tensor})
    assert torch.equal(store.get_tensors(RECIPE)["x"], tensor)


def test_keys_follow_content_not_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def flip(raw: bytes) -> bytes:
    return raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda raw: raw[:-5], lambda raw: b"", lambda raw: b"{}\n" + raw, lambda raw: b"\xff\xfe"],
    ids=["flipped", "truncated", "empty", "foreign header", "garbage"],
)
def test_damage_is_noticed_said_and_mended(tmp_path, caplog, damage):
    store = Store(tmp_path)
    store.put(RECIPE, b"some content here")
    path = store.path(RECIPE)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert store.get(RECIPE) is None
    assert "damaged" in caplog.text
    assert str(path) in caplog.text
    store.put(RECIPE, b"again")
    assert store.get(RECIPE) == b"again"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make this folder"):
        Store(tmp_path / "file" / "store")


FILL = """
import sys
from data.errors import InputError
from runners.store.artifact import Artifact
from runners.store.store import Store
store = Store(sys.argv[1])
store.put(Artifact("a", {"n": 0}), b"x" * 1000)
try:
    store.put(Artifact("a", {"n": 1}), b"x" * 10**6)
except InputError as error:
    print(error)
assert store.get(Artifact("a", {"n": 0})) == b"x" * 1000
assert store.get(Artifact("a", {"n": 1})) is None
"""


def test_no_space_is_a_clear_error_and_earlier_work_stays(tmp_path):
    """The kernel refuses to write beyond 100 kB, as a full disk does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, preexec_fn=limit
    )
    assert run.returncode == 0, run.stderr
    assert "cannot write" in run.stdout
    assert "finished work is kept" in run.stdout
    assert not list(tmp_path.rglob(".part-*"))


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_others_may_read_as_far_as_the_user_lets_them(tmp_path, monkeypatch, mask):
    monkeypatch.setattr("runners.store.store.UMASK", mask)
    store = Store(tmp_path)
    store.put(Artifact("records", {}), b"x")
    assert store.path(Artifact("records", {})).stat().st_mode & 0o777 == 0o666 & ~mask
