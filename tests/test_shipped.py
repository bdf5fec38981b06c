"""Weights that come with the project are used for exactly the parameters that made them."""

import hashlib
import json

import pytest
import torch
from omegaconf import OmegaConf

from data.errors import InputError
from purifiers.ncis import NCIS
from purifiers.training import Training
from runners.evaluation import shipped
from runners.evaluation.component import build
from runners.evaluation.shipped import RECIPE, recipe_of, shipped_content, to_ship
from runners.evaluation.weights import Training as CheckpointedTraining
from runners.evaluation.weights import load_or_train, trained_weights
from runners.places import CONFIGS, WEIGHTS
from runners.store.store import Store
from scripts import ship
from scripts.ship import composed, right_on_tuning, shipped_names, trained

NAMES = shipped_names()


def refuse(share: float) -> None:
    raise AssertionError("a training has begun")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_used_without_a_training(name, tmp_path):
    config, store = composed(NAMES[name], name), Store(tmp_path)
    spec = load_or_train(config, store, progress=refuse)
    stated = json.loads((WEIGHTS / f"{name}.json").read_text())
    assert spec.weights_sha256 == stated["sha256"] == config["weights"]["shipped"]["sha256"]
    assert json.loads(build(config).weights.shipped.metadata()[RECIPE]) == stated["recipe"]
    assert not any(value.requires_grad for value in spec.load(store).network.parameters())


def test_shipped_weights_are_few_megabytes():
    assert 0 < sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 12e6


@pytest.mark.parametrize(
    ("part", "name", "change", "used"),
    [
        ("victim", "digits-resnet8", {}, True),
        ("victim", "digits-resnet8", {"weights": {"epochs": 9}}, False),
        ("victim", "digits-resnet8", {"weights": {"dataset": {"copies": 1}}}, False),
        ("victim", "digits-resnet8", {"network": {"width": 17}}, False),
        ("victim", "digits-resnet8", {"mean": [0.4, 0.5, 0.5]}, False),
        ("purifier", "comdefend", {"weights": {"lr": 0.002}}, False),
        ("purifier", "comdefend", {"weights": {"share": 0.5}}, False),
        ("purifier", "comdefend", {"noise": 10.0}, False),
    ],
)
def test_a_changed_parameter_is_trained_anew(part, name, change, used):
    config = OmegaConf.to_container(OmegaConf.merge(composed(part, name), change))
    assert (shipped_content(config, build(config)) is not None) == used


def test_another_version_of_a_class_is_trained_anew(monkeypatch):
    config = composed("victim", "digits-resnet8")
    before = recipe_of(config)
    monkeypatch.setattr("victims.recipe.Recipe.version", 99)
    assert recipe_of(config) != before


TINY = {
    "_target_": "purifiers.ncis.NCIS",
    "filters": 4,
    "layers": 2,
    "weights": {
        "_target_": "purifiers.training.Training",
        "dataset": {"_target_": "data.digits_photos.DigitsPhotos", "copies": 1},
        "steps": 3,
        "shipped": {"_target_": "data.weights.WeightFile", "path": "results/weights/tiny.safetensors"},
    },
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Return the config of a tiny purifier in a project that ships its weights."""
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    folder = tmp_path / "results" / "weights"
    folder.mkdir(parents=True)
    bare = TINY | {"weights": {name: item for name, item in TINY["weights"].items() if name != "shipped"}}
    content = to_ship(
        trained("tiny", bare, Store(tmp_path / "first"))[0], recipe_of(bare, NCIS.inference_only)
    )
    (folder / "tiny.safetensors").write_bytes(content)
    named = TINY["weights"]["shipped"] | {"sha256": hashlib.sha256(content).hexdigest()}
    return TINY | {"weights": TINY["weights"] | {"shipped": named}}


def test_a_training_done_again_makes_what_was_shipped(tiny, tmp_path):
    content = shipped_content(tiny, build(tiny))
    assert content == to_ship(
        trained("tiny", tiny, Store(tmp_path / "again"))[0], recipe_of(tiny, NCIS.inference_only)
    )
    used = shipped_content(tiny | {"iterations": 1}, build(tiny | {"iterations": 1}))
    assert used == content, "parameters of purifying are no part of the training"
    assert load_or_train(tiny, Store(tmp_path / "store"), progress=refuse).weights_sha256


def test_weights_that_were_trained_before_give_way_to_the_shipped_ones(tiny, tmp_path):
    file, store = tmp_path / tiny["weights"]["shipped"]["path"], Store(tmp_path / "store")
    content = file.read_bytes()
    file.unlink()
    trained_here = load_or_train(tiny, store)
    file.write_bytes(content)
    spec = load_or_train(tiny, store, progress=refuse)
    assert spec.weights_sha256 == hashlib.sha256(content).hexdigest() != trained_here.weights_sha256
    assert store.get(spec.trained) == content


def test_weights_that_the_store_has_are_trained_again_to_be_shipped(tiny, tmp_path, monkeypatch):
    store, fit, begun = Store(tmp_path / "store"), Training.fit, []
    monkeypatch.setattr(Training, "fit", lambda *given, **named: begun.append(1) or fit(*given, **named))
    load_or_train(tiny, store)
    (first, cost), (second, again) = (trained("tiny", tiny, store) for _ in range(2))
    assert len(begun) == 2, "the shipped weights need no training, and each call is one"
    assert cost is not None
    assert again is not None
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_cost_of_a_training_that_was_continued_is_unknown(tiny, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    kept = CheckpointedTraining(store, trained_weights(tiny, build(tiny)))
    kept.save({"step": torch.tensor(1)})
    monkeypatch.setattr(Training, "fit", lambda *given, **named: {"weight": torch.zeros(1)})
    assert trained("tiny", tiny, store)[1] is None
    assert trained("tiny", tiny, store)[1] is not None


def test_a_damaged_file_is_refused_and_a_missing_one_is_said(tiny, tmp_path, caplog):
    file = tmp_path / tiny["weights"]["shipped"]["path"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="expected sha256"):
        shipped_content(tiny, build(tiny))
    file.unlink()
    assert shipped_content(tiny, build(tiny)) is None
    assert "tiny.safetensors does not exist: its weights are trained here" in caplog.text


def test_unknown_names_are_not_shipped():
    with pytest.raises(InputError, match=r"expected names of .*digits-resnet8.*; got jpeg"):
        ship.main(["jpeg"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-resnet8", "comdefend"])
def test_a_training_done_again_is_as_accurate_as_is_stated(name, tmp_path):
    """The accuracies agree within four standard errors, since other kinds of CPU round otherwise."""
    config = composed(NAMES[name], name)
    stated = json.loads((WEIGHTS / f"{name}.json").read_text())
    right, count = right_on_tuning(NAMES[name], config, trained(name, config, Store(tmp_path))[0])
    share = stated["tuning_images_right"] / count
    assert count == stated["tuning_images"]
    assert abs(right / count - share) < 4 * (2 * share * (1 - share) / count) ** 0.5


def test_every_shipped_file_belongs_to_a_config():
    assert {file.stem for file in WEIGHTS.iterdir()} <= set(NAMES)
    assert all((CONFIGS / part / f"{name}.yaml").is_file() for name, part in NAMES.items())
