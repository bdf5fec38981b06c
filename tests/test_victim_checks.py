"""A victim is frozen and identified by its content whatever its origin, and checked before its first cell."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from test_grid import cell, files, run

from data.digits_photos import DigitsPhotos
from data.errors import InputError
from data.frozen import state_digest
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from tests import own_victims
from victims import checks
from victims.victim import Victim


def config_of(network: dict, **more) -> dict:
    about = {"label_space": "digits", "mean": [0.5] * 3, "std": [0.25] * 3}
    return {"_target_": "victims.victim.Victim", "network": network, **about, **more}


def own(path, **more) -> dict:
    return config_of({"_target_": "tests.own_victims.LoadsItsOwn", "path": str(path)}, **more)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return DigitsPhotos().load("tuning").images[:8]


@pytest.mark.parametrize("more", [{}, {"weights": None}], ids=["no weights", "weights=null"])
def test_a_victim_that_loads_its_own_weights_is_frozen(tmp_path, images, more):
    path, store = own_victims.written(tmp_path / "w.safetensors"), Store(tmp_path / "store")
    victim = load_or_train(own(path, **more), store).load(store)
    assert not any(part.training for part in victim.modules())
    assert not any(weight.requires_grad for weight in victim.parameters())
    same = Victim(network=own_victims.Small(), label_space="digits", mean=[0.5] * 3, std=[0.25] * 3)
    assert torch.equal(victim(images), same.load_frozen(load_file(path))(images))


def test_a_changed_weight_file_of_its_own_never_meets_older_results(tmp_path):
    path, store = own_victims.written(tmp_path / "w.safetensors"), Store(tmp_path / "store")
    first = load_or_train(own(path), store).key
    assert load_or_train(own(path), store).key == first
    own_victims.written(path, seed=1)
    assert load_or_train(own(path), store).key != first


def test_weights_that_change_between_two_loads_are_refused(tmp_path):
    path, store = own_victims.written(tmp_path / "w.safetensors"), Store(tmp_path / "store")
    spec = load_or_train(own(path), store)
    own_victims.written(path, seed=1)
    with pytest.raises(InputError, match="expected the same weights each time it is loaded, got others"):
        spec.load(store)
    config = config_of({"_target_": "tests.own_victims.Drawn"})
    with pytest.raises(InputError, match="expected the same weights each time"):
        load_or_train(config, store).load(store)


def test_the_digest_is_of_the_content_alone():
    victim = own_victims.Broken()
    digest = state_digest(victim)
    again = own_victims.Broken().to(memory_format=torch.channels_last).train()
    assert state_digest(again) == digest, "the layout or the mode changes the identity"
    victim.network.layers[1].running_var[0] += 1e-6
    assert state_digest(victim) != digest
    victim = own_victims.Broken()
    victim.register_buffer("own", torch.zeros(1), persistent=False)
    assert state_digest(victim) != digest, "tensors outside state_dict are ignored"


BROKEN = [
    (lambda images: images.mean((2, 3)), "module", "a function"),
    (own_victims.Training(), "mode", "training mode of network.layers.1"),
    (own_victims.Learning(), "mode", "requires_grad of network.layers.0.weight"),
    (own_victims.Elsewhere(), "device", "far on meta"),
    (own_victims.Flattened(), "shape", "of shape (80,)"),
    (own_victims.Decides(), "shape", "torch.int64 of shape (8,)"),
    (own_victims.Few(), "shape", "4 classes"),
    (own_victims.Unfinite(), "finite", "NaN or infinity"),
    (own_victims.Probable(), "logits", "probabilities"),
    (own_victims.Noisy(), "repeatable", "others (by up to "),
    (own_victims.CutOff(), "gradient", "none"),
    (own_victims.SetsThreads(), "process", "torch's number of threads"),
]


@pytest.mark.parametrize(("victim", "name", "came"), BROKEN, ids=[type(v).__name__ for v, *_ in BROKEN])
def test_each_fault_of_a_victim_is_caught_by_its_name(images, victim, name, came):
    threads = torch.get_num_threads()
    with pytest.raises(checks.VictimError) as error:
        checks.check(victim, images, classes=10)
    assert error.value.check == name, str(error.value)
    assert came in str(error.value)
    assert "\n" not in str(error.value)
    assert torch.get_num_threads() == threads


def test_a_victim_whose_answers_change_it_is_caught(images):
    with pytest.raises(checks.VictimError) as error:
        checks.check(own_victims.Trains(), images, classes=10)
    assert error.value.check in ("repeatable", "unchanged")


def test_a_sound_victim_passes_and_is_as_it_was(images):
    victim = own_victims.Broken()
    before = copy.deepcopy(victim.state_dict())
    checks.check(victim, images, classes=10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in victim.state_dict().items())


def test_a_random_victim_has_no_figure_and_a_sound_one_is_tried_once(tmp_path, monkeypatch):
    path, tried, check = own_victims.written(tmp_path / "w.safetensors"), [], checks.check

    def noted(victim, images, *, classes):
        tried.append(victim)
        return check(victim, images, classes=classes)

    monkeypatch.setattr(checks, "check", noted)
    noisy, sound = cell("attack=clean", "purifier=none"), cell("attack=clean", "purifier=none")
    noisy.configs["victim"] = config_of({"_target_": "tests.own_victims.Noisy"})
    sound.configs["victim"] = own(path)
    (bad, good), _ = run(tmp_path / "store", [noisy, sound], n=3)
    assert bad.records is None
    assert bad.failed.startswith("victim: repeatable: expected the same logits for the same images again")
    assert len(good.records) == 3
    assert good.provenance["weights"]["victim"]["sha256"] is not None
    assert len(tried) == 2
    other = cell("attack=gaussian", "purifier=none")
    other.configs["victim"] = own(path)
    assert len(run(tmp_path / "store", [sound, other], n=3)[0][1].records) == 3
    assert len(tried) == 2, "a check that passed is repeated"
    assert len(files(tmp_path / "store", "traits")) == 2, "the victim's, and that of the purifier with it"


def test_a_victim_without_a_label_space_is_answered_in_one_line(tmp_path):
    nameless = cell("attack=clean", "purifier=none")
    del nameless.configs["victim"]["label_space"]
    with pytest.raises(InputError, match="expected a label_space in its config, such as 'digits'; got none"):
        run(tmp_path, [nameless], n=2)
