"""Mistakes in a user's own configs, modules and weight files are answered with what is wrong and where."""

import hashlib

import pytest
import torch

from attacks.attack import check_eps
from data.errors import InputError
from data.weights import WeightFile
from runners import evaluate
from runners.composition import composed
from runners.evaluation.component import build, usable
from victims.mnist_cnn import MnistCNN
from victims.victim import Victim


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("purifiers.jpg.JPEG", r"purifiers has no 'jpg' \(did you mean 'jpeg'\?\)"),
        ("purifiers.jpeg.JPG", r"purifiers\.jpeg has no 'JPG' \(did you mean 'JPEG'\?\)"),
        ("no_such_package.blur.Blur", "no module is called 'no_such_package'; it must be installed, in the"),
        ("slip_of_mine.Blur", r"slip_of_mine\.py line 2: SyntaxError: "),
        ("import_of_mine.Blur", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("fault_of_mine.Blur", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_target_that_cannot_be_loaded(target, expected, tmp_path, monkeypatch):
    (tmp_path / "slip_of_mine.py").write_text("import math\nclass Blur(:\n")
    (tmp_path / "import_of_mine.py").write_text("import no_such_package\n")
    (tmp_path / "fault_of_mine.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"^_target_: {target} cannot be loaded: .*{expected}") as error:
        build({"_target_": target})
    assert "\n" not in str(error.value)


def test_a_component_that_raises_without_a_message():
    with pytest.raises(InputError, match=r"^tests\.broken\.Refuses: AssertionError: no message$"):
        build({"_target_": "tests.broken.Refuses"})
    with pytest.raises(InputError, match="used: ValueError: no message"), usable("victim"):
        raise ValueError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_target_: purifiers.jpeg.JPEG\n quality: 75\n", r"mine\.yaml line 2: this is not valid YAML \("),
        ("quality: ${nothing}\n", r"a config refers to \$\{nothing\}, and no setting is called 'nothing'"),
    ],
)
def test_a_config_that_cannot_be_composed(text, expected, tmp_path):
    (tmp_path / "purifier").mkdir()
    (tmp_path / "purifier" / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=expected):
        composed("evaluate", ["purifier=mine"], config_dir=tmp_path)


@pytest.mark.parametrize(("text", "got"), [("quality: 75\n", "quality"), ("", "an empty config")])
def test_a_config_without_a_target(text, got, tmp_path, command):
    (tmp_path / "purifier").mkdir()
    (tmp_path / "purifier" / "mine.yaml").write_text(text)
    words = [f"--config-dir={tmp_path}", "purifier=mine", f"store={tmp_path}/store"]
    status, _, err = command(evaluate.main, "evaluate", *words)
    assert status == 2
    assert err.startswith("error: purifier mine: expected a config with _target_, the name of a class ")
    assert err.endswith(f"got {got}\n")


@pytest.mark.parametrize(
    ("eps", "norm", "meant"),
    [(8, "linf", "8/255"), (16.0, "linf", "16/255"), (1.5, "linf", ""), (2000, "l2", "")],
)
def test_an_eps_in_units_of_pixels(eps, norm, meant):
    with pytest.raises(InputError, match=r"^attack\.eps: expected 0 < eps <= ") as error:
        check_eps(eps, norm)
    assert str(error.value).endswith(f"got {eps} (did you mean {meant}?)" if meant else f"got {eps}")


def test_weights_of_another_network_are_counted_and_not_listed():
    victim = Victim(network=MnistCNN(), label_space="mnist", mean=[0], std=[1], weights=None)
    state = victim.network.state_dict()
    with pytest.raises(InputError, match=r"do not fit the network: tensors: \d+ missing") as error:
        victim.load_frozen({"other": torch.zeros(1)})
    assert f"{len(state)} missing (" in str(error.value)
    assert "1 unexpected (other)" in str(error.value)
    assert len(str(error.value)) < 250


def test_weights_that_are_another_file_name_the_setting(tmp_path):
    path = tmp_path / "mine.pt"
    torch.save({"a": torch.zeros(2)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(
        InputError, match=f"got {digest} .* or set weights.sha256 if this is the file you mean"
    ):
        WeightFile(str(path), "0" * 64).load()
