"""Components are identified by name, version and arguments; edited code never reuses older results."""

import importlib
import re
import shutil
import sys
from collections import Counter
from enum import Enum

import pytest
import torch
from conftest import config_of
from hydra.utils import get_object
from test_grid import cell, run

from data.digits_photos import DigitsPhotos
from data.errors import InputError
from runners.evaluation.component import Component
from runners.evaluation.identity import _plain_value, declares_version, identity, version_of
from runners.evaluation.own_state import own_state, state_behind
from runners.evaluation.tasks import Crafting
from runners.evaluation.weights import load_or_train
from runners.places import CONFIGS
from runners.store.store import Store
from runners.untrusted import targets

BPDA = "attacks.knowledge.BPDA"
GAMMA = """
from mine.powers import STRENGTH
from purifiers.purifier import Purifier

def raised(images, power):
    return images ** power

class Gamma(Purifier):
    gradient = "exact"

    def __init__(self, *, power: float = 1.0) -> None:
        self.power = power

    def purify(self, images, seeds, victim):
        return raised(images, self.power * STRENGTH)
"""
SHIFT = """
from attacks.attack import Attack

class Shift(Attack):
    needs = None
    norm = "linf"

    def __init__(self, *, eps: float = 0.5) -> None:
        self.eps = eps

    def craft(self, model, images, labels):
        return (images + self.eps).clamp(0, 1)
"""
MODEL = """
import torch

class Model(torch.nn.Module):
    weights = None

    def __init__(self, *, label_space: str) -> None:
        super().__init__()
        self.label_space = label_space

    def forward(self, images):
        return -((9.9 * images.mean((1, 2, 3))[:, None] - torch.arange(10)) ** 2)
"""
DATA = """
from data.digits_photos import DigitsPhotos
from data.images import Images

class Darker(DigitsPhotos):
    def load(self, split):
        whole = super().load(split)
        return Images(whole.ids, whole.images * 1.0, whole.labels)
"""
SOURCES = {"gamma": GAMMA, "powers": "STRENGTH = 1.0\n", "shift": SHIFT, "model": MODEL, "darker": DATA}
TARGETS = {
    "purifier": "gamma.Gamma",
    "attack": "shift.Shift",
    "victim": "model.Model",
    "dataset": "darker.Darker",
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Yield a function that writes the files of a user's own package and loads them anew."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two writes may share one second

    def write(**changed: str) -> None:
        for name, text in {**SOURCES, **changed}.items():
            (folder / f"{name}.py").write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
        importlib.invalidate_caches()

    write()
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a store that holds the weights of the small victim."""
    store = tmp_path_factory.mktemp("trained") / "store"
    run(store, [cell("attack=clean", "purifier=none")], audit="off")
    return store


def own_cell(part: str):
    """Return a cell of which one part is the user's own."""
    result = cell("attack=clean", "purifier=none")
    rest = {"label_space": "digits"} if part == "victim" else {}
    result.configs[part] = {"_target_": f"mine.{TARGETS[part]}", **rest}
    result.names[part] = "mine"
    if part == "victim":
        result.configs[part]["label_space"] = get_object(result.configs["dataset"]["_target_"]).label_space
    return result


def named_components() -> set[str]:
    """Return the targets in all configs of a cell's parts, and of the components inside them."""
    named = re.compile(r"_target_: *([\w.]+)")
    text = "\n".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    return {target for target in named.findall(text) if not target.startswith("runners.")}


def test_every_component_declares_its_version_and_has_a_name_of_its_own():
    components = {target: get_object(target) for target in named_components()}
    assert len(components) > 60
    assert [name for name, target in components.items() if not declares_version(target)] == []
    named = Counter(target.__name__ for target in components.values())
    assert [name for name, count in named.items() if count > 1] == []


@pytest.mark.parametrize("words", ["purifier=ddip", "purifier=nrp", "victim=resnet50", "attack=pgd"])
def test_identity_holds_no_path_of_code(words):
    config = config_of(*words.split("="))
    for _, part in targets(config):
        assert part["_target_"] not in str(identity(config))


def test_moving_a_module_changes_nothing(mine):
    versioned = GAMMA.replace('gradient = "exact"', 'version = 3\n    gradient = "exact"')
    mine(gamma=versioned, elsewhere=versioned)
    here, there = ({"_target_": f"mine.{name}.Gamma", "power": 2.0} for name in ("gamma", "elsewhere"))
    assert identity(here) == identity(there)
    assert identity(here)["version"] == "3.1"  # its own, and that of Purifier


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("purifier", {"gamma": GAMMA.replace("return raised(images", "return 1 - raised(images")}),
        ("purifier", {"gamma": GAMMA.replace("images ** power", "images ** (2 * power)")}),
        ("purifier", {"gamma": GAMMA.replace("float = 1.0", "float = 2.0")}),
        ("purifier", {"powers": "STRENGTH = 2.0\n"}),
        ("attack", {"shift": SHIFT.replace("images + self.eps", "images - self.eps")}),
        ("attack", {"shift": SHIFT.replace("float = 0.5", "float = 0.25")}),
        ("victim", {"model": MODEL.replace("9.9", "4.9")}),
        ("dataset", {"darker": DATA.replace("* 1.0", "* 0.5")}),
    ],
)
def test_edited_code_never_meets_older_results(tmp_path, trained, mine, part, changed):
    store = tmp_path / "store"
    shutil.copytree(trained, store)
    first, _ = run(store, [own_cell(part)], audit="off")
    assert first[0].failed is None
    again, output = run(store, [own_cell(part)], audit="off")
    assert "nothing to compute" in output
    assert again[0].provenance["key"] == first[0].provenance["key"]
    mine(**changed)
    after, output = run(store, [own_cell(part)], audit="off")
    assert "nothing to compute" not in output
    assert after[0].failed is None
    assert after[0].provenance["key"] != first[0].provenance["key"]
    columns = ["clean_label", "confidence", "ssim"]
    assert not after[0].records[columns].equals(first[0].records[columns])


def test_files_that_are_not_imported_do_not_matter(mine):
    config = {"_target_": "mine.gamma.Gamma"}
    before = identity(config)
    mine(shift=SHIFT + "\n# another comment\n")
    assert identity(config) == before


def test_a_changed_default_is_noticed_where_a_version_is_declared(mine):
    versioned = GAMMA.replace('gradient = "exact"', 'version = 1\n    gradient = "exact"')
    mine(gamma=versioned)
    before = identity({"_target_": "mine.gamma.Gamma"})
    assert before == identity({"_target_": "mine.gamma.Gamma", "power": 1.0})
    mine(gamma=versioned.replace("float = 1.0", "float = 1.5"))
    assert identity({"_target_": "mine.gamma.Gamma"}) != before


def test_a_file_that_an_argument_names_is_part_of_the_identity(mine, tmp_path):
    weights = tmp_path / "own.bin"
    weights.write_bytes(b"one")
    config = {"_target_": "mine.gamma.Gamma", "power": str(weights)}
    before = identity(config)
    weights.write_bytes(b"two")
    assert identity(config) != before


def test_functions_are_identified_by_their_source(mine):
    mine(gamma="def factory(*, width=3):\n    return width\n")
    before = identity({"_target_": "mine.gamma.factory"})
    assert [before["component"], before["arguments"]] == ["factory", {"width": 3}]
    mine(gamma="def factory(*, width=3):\n    return width + 1\n")
    assert identity({"_target_": "mine.gamma.factory"})["version"] != before["version"]


def test_an_installed_factory_has_a_version():
    assert version_of(get_object("torchvision.models.resnet18")).startswith("source-")


WEIGHED = """
import torch
from attacks.attack import Attack
from purifiers.purifier import Purifier

FILE = {file!r}

class Scaled(Purifier):
    gradient = "exact"

    def __init__(self) -> None:
        {load}

    def purify(self, images, seeds, victim):
        return images

class Moved(Attack):
    needs = None

    def __init__(self, *, eps: float = 0.5) -> None:
        self.eps = eps
        {load}

    def craft(self, model, images, labels):
        return images
"""
LOADS = [
    "self.weight = torch.load(FILE)['weight']",
    "self.parts = {'a': [torch.load(FILE)['weight'].numpy()]}",
    "self.network = torch.nn.Linear(2, 1); self.network.load_state_dict(torch.load(FILE))",
]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("part", ["purifier", "attack"])
def test_state_from_a_path_in_the_code_is_part_of_the_identity(tmp_path, mine, part, load):
    file = tmp_path / "weights.pt"
    mine(weighed=WEIGHED.format(file=str(file), load=load))
    name = {"purifier": "Scaled", "attack": "Moved"}[part]
    identities = []
    for value in (1.0, 1.0, 2.0):
        torch.save({"weight": torch.full((1, 2), value), "bias": torch.zeros(1)}, file)
        identities.append(own_state(get_object(f"mine.weighed.{name}")()))
    assert identities[0] == identities[1] != identities[2]
    config = {"_target_": f"mine.weighed.{name}"}
    if part == "purifier":
        assert load_or_train(config, Store(tmp_path)).identity["weights_sha256"] == identities[2]
    else:
        attack_cell = own_cell("attack")
        chunk = DigitsPhotos().load("evaluation").take([0])
        victim, knowledge = Component(attack_cell.configs["victim"]), Component(attack_cell.knowledge)
        crafting = Crafting(chunk, victim, Component(config), knowledge, None, (), 0, "float32")
        assert crafting.artifact.inputs["attack_state"] == identities[2]


def test_components_that_declare_a_version_are_not_built_for_their_state():
    assert state_behind({"_target_": "attacks.from_torchattacks.PGD", "no_such_argument": 1}) is None


READS = """\
import json, pathlib
import torch
from purifiers.purifier import Purifier

class Gated(Purifier):
    def __init__(self, purifier=None, files=(), file=pathlib.Path("{file}")):
        self.purifier = purifier
        self.gate = torch.tensor(json.loads(file.read_text())) if purifier else None

    def purify(self, images, seeds, victim):
        return images

class Substitute(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(1, 1, 1)
        self.weight.data.fill_(json.loads(pathlib.Path("{file}").read_text()))
        self.bias.data.zero_()
"""


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "mine.reads.Gated"},
        {"_target_": "mine.reads.Gated", "files": ["FILE"]},
        {"_target_": "mine.reads.Gated", "purifier": {"_target_": "purifiers.jpeg.JPEG"}},
    ],
    ids=["a path as default", "a list of files", "read beside an inner purifier"],
)
def test_what_a_file_holds_is_part_of_the_identity_wherever_it_is_named(tmp_path, mine, config):
    file = tmp_path / "numbers.json"
    mine(reads=READS.format(file=file))
    if "files" in config:
        config = config | {"files": [str(file)], "file": None}
    identities = []
    for value in (1.0, 1.0, 2.0):
        file.write_text(str(value))
        identities.append(load_or_train(config, Store(tmp_path)).identity)
    assert identities[0] == identities[1] != identities[2]


def test_the_state_of_a_substitute_is_known_and_must_be_the_same_each_time(tmp_path, mine):
    file, states = tmp_path / "numbers.json", []
    mine(reads=READS.format(file=file))
    for value in (1.0, 2.0):
        file.write_text(str(value))
        states.append(state_behind({"_target_": BPDA, "substitute": {"_target_": "mine.reads.Substitute"}}))
    assert None not in states
    assert states[0] != states[1]
    drawn = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 3, "kernel_size": 1}
    with pytest.raises(InputError, match=r"torch.nn.Conv2d: expected the same weights each time"):
        state_behind({"_target_": BPDA, "substitute": drawn})
    assert state_behind({"_target_": BPDA}) is None


def test_defaults_that_are_members_of_an_enumeration_differ():
    class Mode(Enum):
        FAST = 1
        SLOW = 2

    assert _plain_value(Mode.FAST) != _plain_value(Mode.SLOW)


def test_trained_weights_that_changed_since_the_run_began_are_refused(tmp_path):
    store = Store(tmp_path)
    component = load_or_train(own_cell("attack").configs["victim"], store)
    component.load(store)
    state = store.get_tensors(component.trained)
    store.put_tensors(component.trained, {name: value * 0 for name, value in state.items()})
    with pytest.raises(InputError, match="the store has others now: run again"):
        component.load(store)
    store.remove(component.trained)
    with pytest.raises(InputError, match="the store has none now: run again"):
        component.load(store)
