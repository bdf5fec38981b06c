import hashlib
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from data.errors import InputError, MissingError
from data.weights import HOLDERS, WeightFile


def weight_file(path, content: bytes) -> WeightFile:
    path.write_bytes(content)
    return WeightFile(str(path), hashlib.sha256(content).hexdigest())


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_tensors_come_back(tmp_path, suffix):
    path, tensor = tmp_path / f"w{suffix}", torch.arange(6.0).reshape(2, 3)
    if suffix == ".pt":
        torch.save({"a": tensor}, path)
    elif suffix == ".npz":
        np.savez(path, a=tensor.numpy())
    else:
        safetensors.torch.save_file({"a": tensor}, path)
    loaded = WeightFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest()).load()
    assert torch.equal(loaded["a"], tensor)


def test_the_first_digits_will_do_and_the_whole_digest_is_told(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    whole = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    file = WeightFile(str(tmp_path / "w.pt"), whole[:8])
    assert torch.equal(file.load()["a"], torch.ones(2))
    assert file.digest() == whole
    with pytest.raises(InputError, match="expected sha256 00000000, got"):
        WeightFile(str(tmp_path / "w.pt"), "0" * 8).load()
    for wrong in (whole[:7], whole + "0", "x" * 64):
        with pytest.raises(InputError, match="8 to 64 hexadecimal"):
            WeightFile(str(tmp_path / "w.pt"), wrong)


def test_missing_file_names_path_and_source(tmp_path):
    with pytest.raises(MissingError, match=r"w\.pt do not exist.*DATA_DIR.*the moon"):
        WeightFile(str(tmp_path / "w.pt"), "0" * 64, "the moon").load()


def test_truncated_file(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    file = weight_file(tmp_path / "w.pt", whole)
    (tmp_path / "w.pt").write_bytes(whole[:-100])
    with pytest.raises(
        InputError, match=r"expected sha256 \w{64}, got \w{64} .*the file is truncated, or another file"
    ):
        file.load()


def test_web_page_instead_of_a_checkpoint(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\n<!DOCTYPE html><html>404</html>")
    with pytest.raises(InputError, match="the file is a web page"):
        WeightFile(str(tmp_path / "w.pt"), "0" * 64).load()


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_pickles_are_refused_and_never_executed(tmp_path, suffix):
    target = tmp_path / "executed"
    file = weight_file(tmp_path / f"w{suffix}", pickle.dumps({"a": Bomb(target)}))
    with pytest.raises(InputError, match="cannot be read safely"):
        file.load()
    assert not target.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    file = weight_file(tmp_path / "w.pt", (tmp_path / "w.pt").read_bytes())
    with pytest.raises(InputError, match="cannot be read safely"):
        file.load()


@pytest.mark.parametrize("name", HOLDERS)
def test_tensors_beside_other_things_are_found(tmp_path, name):
    torch.save({"epoch": 3, name: {"a": torch.ones(2)}, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    file = weight_file(tmp_path / "w.pt", (tmp_path / "w.pt").read_bytes())
    assert torch.equal(file.load()["a"], torch.ones(2))


def test_something_else_than_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    file = weight_file(tmp_path / "w.pt", (tmp_path / "w.pt").read_bytes())
    with pytest.raises(InputError, match=r"dictionary of tensors.*got dict of epoch: save"):
        file.load()
