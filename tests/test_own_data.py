"""Victims and data sets of other libraries and of a user's own folders; the libraries are stubs."""

import hashlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from conftest import composed
from own_victims import Small
from PIL import Image

from data.errors import InputError, MissingError
from runners.evaluation.component import build, to_plain_dict
from runners.evaluation.weights import load_or_train, trained_weights
from runners.store.store import Store


def config(part, *words):
    return to_plain_dict(composed(*words)[part])


def stub(monkeypatch, name, **held):
    """Put a module of that name and content in the place of the library."""
    for depth in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:depth])
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    for key, value in held.items():
        setattr(sys.modules[name], key, value)


def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


def test_a_model_of_robustbench(monkeypatch, tmp_path):
    requests = []

    def load_model(name, **more):
        requests.append((name, more))
        return seeded()

    stub(monkeypatch, "robustbench.utils", load_model=load_model)
    words = ["victim=own/robustbench", f"victim.model_dir={tmp_path}"]
    with pytest.raises(MissingError, match=r"Standard.pt does not exist .set DATA_DIR, or victim.model_dir"):
        build(config("victim", *words))
    path = tmp_path / "cifar10" / "Linf" / "Standard.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(MissingError, match=rf"set victim.sha256={digest[:16]}"):
        build(config("victim", *words))
    with pytest.raises(InputError, match=rf"expected sha256 0123456789abcdef, got {digest}"):
        build(config("victim", *words, "victim.sha256=0123456789abcdef"))
    assert requests == [], "RobustBench read a file that was not verified"
    words.append(f"victim.sha256={digest}")
    component = load_or_train(config("victim", *words), Store(tmp_path / "store"))
    assert component.weights_sha256 is not None
    assert component.load(Store(tmp_path / "store"))(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert requests[0] == (
        "Standard",
        {"model_dir": str(tmp_path), "dataset": "cifar10", "threat_model": "Linf"},
    )


@pytest.mark.parametrize(
    "words", [["victim.name=Standard_R50", "victim.dataset=imagenet"], ["victim.name=Mine-2024"]]
)
def test_a_model_that_robustbench_would_download_is_refused(monkeypatch, tmp_path, words):
    requests = []
    stub(monkeypatch, "robustbench.utils", load_model=lambda *given, **more: requests.append(given))
    monkeypatch.setattr("timm.is_model", lambda name: name == "mine_2024_cifar10_linf")
    with pytest.raises(InputError, match=r"it downloads those of '\S+' by itself"):
        build(config("victim", "victim=own/robustbench", f"victim.model_dir={tmp_path}", *words))
    assert requests == []


def test_a_classifier_of_transformers(monkeypatch, tmp_path):
    class Auto:
        @staticmethod
        def from_pretrained(path, *, local_files_only, use_safetensors):
            assert local_files_only
            assert use_safetensors
            network = seeded()
            network.forward = lambda pixel_values: SimpleNamespace(logits=network.layers(pixel_values))
            return network

    stub(monkeypatch, "transformers", AutoModelForImageClassification=Auto)
    words = ["victim=own/huggingface", f"victim.network.path={tmp_path}", "victim.size=32"]
    with pytest.raises(MissingError, match=r"holds no config.json"):
        build(config("victim", *words)["network"])
    (tmp_path / "config.json").write_text("{}")
    assert build(config("victim", *words))(torch.rand(2, 3, 64, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("part", "words", "library"),
    [
        ("victim", ["victim=own/robustbench"], "robustbench"),
        ("victim", ["victim=own/huggingface"], "transformers"),
        ("dataset", ["dataset=own/saved"], "datasets"),
    ],
)
def test_a_library_that_is_not_installed_is_named(monkeypatch, part, words, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.utils", None)
    with pytest.raises(MissingError, match=f"needs {library}: install it beside purifybench"):
        build(config(part, *words))


def folder(root, *splits):
    for split in splits or ("",):
        for place, name in enumerate(("cat", "dog")):
            for i in range(2):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 10), (100 * place, 50 * i, 0)).save(path)
    return root


def of_folder(root):
    words = [f"dataset.root={root}", "dataset.size=8", "dataset.resize=null", "dataset.label_space=pets"]
    return build(config("dataset", "dataset=own/folder", *words))


@pytest.mark.parametrize("splits", [(), ("evaluation", "train")])
def test_a_folder_of_images_in_class_folders(tmp_path, splits):
    dataset = of_folder(folder(tmp_path, *splits))
    images = dataset.load("evaluation")
    assert dataset.classes == ("cat", "dog")
    assert images.ids == ("folder/cat/0.png", "folder/cat/1.png", "folder/dog/0.png", "folder/dog/1.png")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.images.shape == (4, 3, 8, 8)
    assert images.images[3, :, 4, 4].tolist() == pytest.approx([100 / 255, 50 / 255, 0])


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path):
    before = of_folder(folder(tmp_path)).load("evaluation")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "._0.png").write_bytes(b"")
    after = of_folder(tmp_path).load("evaluation")
    assert (after.ids, after.labels.tolist()) == (before.ids, before.labels.tolist())


@pytest.mark.parametrize(("mode", "value"), [("I;16", 30000), ("I", 30000), ("F", 0.5)])
def test_images_of_more_than_8_bits_are_refused(tmp_path, mode, value):
    folder(tmp_path)
    Image.new(mode, (12, 10), value).save(tmp_path / "cat" / "2.tiff")
    with pytest.raises(InputError, match=rf"2.tiff: .*\(expected 8 bits per value, got Pillow's mode {mode}"):
        of_folder(tmp_path).load("evaluation")


def test_folders_that_are_none_are_said(tmp_path):
    with pytest.raises(MissingError, match="does not exist"):
        of_folder(tmp_path / "none")
    with pytest.raises(InputError, match="expected a folder for each class"):
        of_folder(tmp_path)
    dataset = of_folder(folder(tmp_path))
    with pytest.raises(MissingError, match="has no split train"):
        dataset.index("train")


class Saved:
    """A stand-in for what load_from_disk returns for a split."""

    features = {"image": None, "label": SimpleNamespace(names=["cat", "dog"])}  # noqa: RUF012
    _fingerprint = "f"

    def __getitem__(self, asked):
        if asked == "label":
            return [0, 1]
        return {"image": Image.new("RGB", (9, 9), (0, 51 * asked, 0)), "label": asked}

    def __len__(self):
        return 2


def test_a_saved_dataset(monkeypatch, tmp_path):
    stub(monkeypatch, "datasets", load_from_disk=lambda path: {"test": Saved()})
    words = ["dataset=own/saved", f"dataset.path={tmp_path}", "dataset.size=8", "dataset.label_space=pets"]
    dataset = build(config("dataset", *words))
    images = dataset.load("evaluation")
    assert (images.ids, images.labels.tolist()) == (("saved/test/0", "saved/test/1"), [0, 1])
    assert images.images[1].amax((1, 2)).tolist() == pytest.approx([0, 0.2, 0])
    assert dataset.classes == ("cat", "dog")
    with pytest.raises(MissingError, match="expected tuning to be one of test, got validation"):
        dataset.load("tuning")
    with pytest.raises(InputError, match="expected the column picture"):
        build(config("dataset", *words, "dataset.image=picture"))


def test_weights_that_are_learnt_from_a_saved_dataset_are_those_of_its_content(monkeypatch, tmp_path):
    stub(monkeypatch, "datasets", load_from_disk=lambda path: {"train": Saved()})
    words = ["dataset=own/saved", f"dataset.path={tmp_path}", "dataset.size=8", "dataset.label_space=pets"]
    learnt = {"_target_": "purifiers.ncis.NCIS", "weights": {"_target_": "purifiers.training.Training"}}
    learnt["weights"]["dataset"] = config("dataset", *words)
    keys = []
    for fingerprint in ("f", "g"):
        monkeypatch.setattr(Saved, "_fingerprint", fingerprint)
        keys.append(trained_weights(learnt, build(learnt)).key)
    assert keys[0] != keys[1]
