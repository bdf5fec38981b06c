"""The Python interface: the same results as the command line, and the caller's objects as components."""

import os
import subprocess
import sys
import time
from functools import partial

import pandas as pd
import pytest
import torch
from own_victims import Elsewhere, Probable, Small
from PIL import Image
from test_grid import cell, run
from torch import nn

import purifybench
from purifiers.jpeg import JPEG
from purifybench.fingerprint import fingerprint
from runners import app, evaluate, purify
from runners.places import CONFIGS
from runners.words import placed

ROOT = CONFIGS.parent
ORIENTATION = 0x0112  # the EXIF tag


class Net(Small):
    """A network of fixed weights in training mode, as a module is when nobody sets its mode."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__()


def blurred(images, seeds, victim, *, side=3):
    return nn.functional.avg_pool2d(images, side, 1, side // 2)


STRENGTH = {"of": 2}


class Power:
    def __init__(self, power):
        self.power = power

    def __call__(self, images, seeds, victim):
        return images**self.power


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("PURIFYBENCH_STORE", str(tmp_path / "store"))
    return partial(purifybench.evaluate, attack="fgsm", n=3, quiet=True)


def test_names_give_the_records_of_the_command_line(call, command, tmp_path):
    ours = call("jpeg", overrides=["attack.eps=4/255"])
    words = ["purifier=jpeg", "attack=fgsm", "attack.eps=4/255", "n=3", f"records={tmp_path}/records"]
    status, out, err = command(evaluate.main, "evaluate", *words)
    assert status == 0, err
    assert "all records are in the store" in out, "the store is the same, and so are the keys"
    (file,) = (tmp_path / "records").iterdir()
    assert ours.save(tmp_path / "mine").name == file.name
    theirs = pd.read_parquet(file)
    pd.testing.assert_frame_equal(
        ours.records.drop(columns="command"), theirs.drop(columns="command"), check_dtype=False
    )
    assert ours.flags["small_n"] == "3 images"
    assert ours.accuracy.low < ours.accuracy.value <= ours.accuracy.high
    for text in ("accuracy", "[", "without the purifier", "! small_n"):
        assert text in str(ours)
    assert "fgsm/blind/jpeg" in repr(ours)


def test_objects_are_components_and_stay_as_they_are(call):
    net, threads = Net(), torch.get_num_threads()
    first = call(blurred, victim=net)
    assert net.training, "the caller's object was changed"
    assert all(weight.requires_grad for weight in net.parameters())
    assert torch.get_num_threads() == threads
    assert first.provenance["names"]["victim"] == "Net"
    key = first.provenance["key"]
    assert call(blurred, victim=Net()).provenance["key"] == key
    assert call(blurred, victim=Net(1)).provenance["key"] != key, "other weights are another victim"
    assert call(partial(blurred, side=5), victim=net).provenance["key"] != key
    pd.testing.assert_series_equal(
        call(JPEG(quality=50), victim=net).records.purified_label,
        call("jpeg", victim=net, overrides=["purifier.quality=50"]).records.purified_label,
    )


def test_images_of_the_caller(call):
    images = purifybench.load(dataset="digits-photos", n=5)
    assert len(images) == 5
    by_name, by_object = call("jpeg"), call("jpeg", dataset=images)
    common = set(by_object.records.id)
    assert common < set(images.ids)
    assert set(by_name.records.id) == set(images.ids[:3])
    pair = call(blurred, victim=Net(), dataset=(images.images, images.labels))
    assert set(pair.records.id) <= {f"own/{i}" for i in range(5)}


class Hangs:
    def __call__(self, images, seeds, victim):
        time.sleep(60)
        return images


def raises(images, seeds, victim):
    raise ZeroDivisionError("on purpose")


def halved(images, seeds, victim):
    return images[:, :, ::2, ::2]


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 64 * 64, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))


@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        (
            {"victim": Probable()},
            app.FailedCellsError,
            "expected logits, before a softmax, got probabilities",
        ),
        (
            {"victim": Elsewhere()},
            app.InputError,
            "victim: expected weights with values, got far on the device",
        ),
        ({"victim": Wide()}, app.FailedCellsError, "victim: "),
        (
            {"victim": 3},
            app.InputError,
            "victim: expected the name of a config or a torch.nn.Module, got a int",
        ),
        ({"purifier": raises}, app.FailedCellsError, "ZeroDivisionError: on purpose"),
        ({"purifier": halved}, app.FailedCellsError, "shape: expected torch.float32 of shape"),
        (
            {"purifier": Hangs(), "overrides": ["chunk_seconds=0.2"]},
            app.FailedCellsError,
            "chunk_seconds=0.2",
        ),
        ({"purifier": lambda i, s, v: None}, app.FailedCellsError, "returns a tensor, got a NoneType"),
        (
            {"purifier": JPEG},
            app.InputError,
            "purifier: expected the name of a config, a Purifier or a callable",
        ),
        ({"purifier": "jpg"}, app.InputError, "no purifier is called 'jpg' (did you mean 'jpeg'?)"),
        ({"overrides": ["attack.epz=1"]}, app.InputError, "(did you mean 'eps'?)"),
        ({"attack": Net()}, app.InputError, "attack: expected the name of a config, got a Net"),
        (
            {"dataset": torch.zeros(1)},
            app.InputError,
            "dataset: expected the name of a config, purifybench.Images",
        ),
        ({"dataset": (torch.zeros(2, 3, 8, 8), torch.zeros(3))}, app.InputError, "as many ids and labels as"),
        (
            {"dataset": (2 * torch.ones(2, 3, 8, 8), torch.zeros(2))},
            app.InputError,
            "expected values in [0, 1]",
        ),
        (
            {"dataset": (torch.zeros(2, 3, 8, 8), torch.tensor([0.5, 1]))},
            app.InputError,
            "expected whole numbers as labels, got 0.5",
        ),
        (
            {"dataset": (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1))},
            app.InputError,
            "expected int64 labels (N,)",
        ),
        (
            {"victim": Net(), "overrides": ["n=2", "victim.size=32"]},
            app.InputError,
            "expected no words about what is given as an object, got victim.size=32",
        ),
        ({"purifier": blurred, "workers": 2}, app.InputError, "objects cannot be sent to other processes"),
        (
            {"config_dir": "nowhere"},
            app.InputError,
            "config_dir: expected a folder with configs, got nowhere",
        ),
        (
            {"overrides": ["chunk_seconds=0"]},
            app.InputError,
            "chunk_seconds: expected a finite number of seconds",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_is_one_line_and_gives_no_figure(call, given, error, expected):
    with pytest.raises(error) as caught:
        call(given.pop("purifier", "jpeg"), **given)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_what_hangs_fails_in_a_process_of_its_own_too(tmp_path):
    """The other cells are still done."""
    cells = [cell("attack=clean", purifier="SlowOnce"), cell("attack=clean", "purifier=none")]
    results, _ = run(tmp_path, cells, n=2, workers=2, chunk_seconds=1.0)
    assert "TimeLimitError: expected at most chunk_seconds=1 for a chunk" in results[0].failed
    assert len(results[1].records) == 2


def test_fingerprints_tell_objects_by_code_and_content():
    net = Net()
    assert fingerprint(net, "x") == fingerprint(Net().eval().requires_grad_(False), "x")
    assert fingerprint(Power(2), "x") == fingerprint(Power(2), "x")
    assert (
        len({fingerprint(item, "x") for item in (Power(2), Power(3), Power(torch.ones(1)), net, blurred)})
        == 5
    )
    round_about = Power(2)
    round_about.me = round_about
    assert fingerprint(round_about, "x") != fingerprint(Power(2), "x")
    with pytest.raises(app.InputError, match="one that holds a lock"):
        fingerprint(Power(__import__("threading").Lock()), "x")


def test_a_fingerprint_covers_what_code_reads_from_elsewhere(monkeypatch):
    def digests(read):
        return [fingerprint(read, "x"), fingerprint(called, "x"), fingerprint(partial(read), "x")]

    def read(images, seeds, victim):
        return [image * STRENGTH for image in images]

    class Called:
        factor = 2

        def __call__(self, images, seeds, victim):
            return read(images, seeds, victim) if STRENGTH["of"] else images

    called = Called()
    before = digests(read)
    assert digests(read) == before
    monkeypatch.setitem(STRENGTH, "of", 3)
    changed = digests(read)
    assert all(one != other for one, other in zip(before, changed, strict=True))
    read.power = 2
    assert fingerprint(read, "x") not in (before[0], changed[0])
    Called.factor = 3
    assert fingerprint(called, "x") not in (before[1], changed[1])


def test_each_data_set_needs_its_own_number_of_classes(call):
    """A check of the victim that passed says how many classes it has, not that they suffice."""
    images = purifybench.load(dataset="digits-photos", n=4)
    few, many = images.labels, images.labels + 8
    assert call("none", dataset=(images.images, few), n=4).accuracy.n == 4
    for _ in range(2):
        with pytest.raises(app.FailedCellsError, match=r"expected at least \d+ classes, .* got 10 classes"):
            call("none", dataset=(images.images, many), n=4)
    assert call("none", dataset=(images.images, few), n=4, attack="fgsm").accuracy.n == 4


def test_what_a_purifier_raises_about_a_batch_is_one_line(call, monkeypatch):
    with pytest.raises(app.InputError, match="expected images with the channels of its network, 3, got 1"):
        purifybench.purify(torch.rand(2, 1, 32, 32), "comdefend")

    def failing(self, images, seeds, victim):
        raise RuntimeError("no space\non this device")

    monkeypatch.setattr(JPEG, "purify", failing)
    with pytest.raises(app.FailedCellsError, match=r"^no space$"):
        purifybench.purify(torch.rand(2, 3, 32, 32), "jpeg")


def test_load_gives_one_thing():
    net = purifybench.load(victim="digits-resnet8")
    assert not net.training
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(app.InputError, match="got both"):
        purifybench.load(victim="digits-resnet8", dataset="digits-photos")


def test_purify_cleans_tensors(call):
    images = purifybench.load(dataset="digits-photos", n=4).images
    cleaned = purifybench.purify(images, "jpeg", overrides=["purifier.quality=50"])
    expected = JPEG(quality=50)(images, seeds=range(4))
    assert torch.equal(cleaned, expected)
    for bad, message in (
        (images[0], "float32 of shape"),
        (2 * images, "values in"),
        (images[:0], "at least one"),
    ):
        with pytest.raises(app.InputError, match=message):
            purifybench.purify(bad, "jpeg")


def test_purify_cleans_a_folder_and_tells_what_it_could_not(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PURIFYBENCH_STORE", str(tmp_path / "store"))
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    for name, size in (("a.png", 16), ("b.JPG", 16), ("deep/c.png", 24)):
        Image.new("RGB", (size, size), (200, 10, 60)).save(source / name)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    Image.new("RGB", (24, 16)).save(source / "turned.jpg", exif=turned)
    arguments = placed([str(source), str(out), "purifier=jpeg", "chunk=2"], ("images", "out"))
    status, _, err = command(purify.main, "purify", *arguments)
    assert status == 0, err
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.png")) == [
        "a.png",
        "b.png",
        "deep/c.png",
        "turned.png",
    ]
    assert Image.open(out / "deep/c.png").size == (24, 24)
    assert Image.open(out / "turned.png").size == (16, 24)
    (source / "broken.png").write_bytes(b"no image")
    status, _, err = command(purify.main, "purify", *arguments)
    assert status == 1
    assert "4 of 5 images cleaned; first fault: " in err
    for words, message in (
        ([f"images={source}", f"out={source}/deep"], "so that no image is overwritten"),
        ([f"images={tmp_path}/none", f"out={out}"], "expected a folder of images"),
        ([f"images={source}", f"out={out}", "chunk=0"], "chunk: expected at least 1 image"),
    ):
        status, _, err = command(purify.main, "purify", *words)
        assert status == 2
        assert message in err


OUTSIDE = """
import purifybench, sys
assert "purifybench" in sys.modules
from mine.clean import Darker
result = purifybench.evaluate(Darker(), attack="clean", n=2, quiet=True)
print(result.accuracy.n)
"""
DARKER = """
from purifiers.purifier import Purifier

class Darker(Purifier):
    gradient = "exact"

    def purify(self, images, seeds, victim):
        return images * 0.9
"""


def outside(tmp_path, *words):
    """Run Python in a folder of its own, with this project on the path as if it had been installed."""
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "PURIFYBENCH_STORE": str(tmp_path / "store"),
    }
    return subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True)


def test_it_works_from_another_folder_and_refuses_one_that_hides_its_packages(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "clean.py").write_text(DARKER)
    done = outside(tmp_path, "-c", OUTSIDE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("")
    done = outside(tmp_path, "-c", "import purifybench")
    assert done.stderr.splitlines()[-1].startswith("ImportError: purifybench: expected its package data in ")


MODELS = """
import torch

def make(*, width):
    torch.manual_seed(0)
    first, last = torch.nn.Linear(3 * 32 * 32, width), torch.nn.Linear(width, 10)
    return torch.nn.Sequential(torch.nn.Flatten(), first, last)
"""
VICTIM = """
_target_: victims.victim.Victim
label_space: digits
network: {_target_: mine.models.make, width: 7}
mean: [0.0, 0.0, 0.0]
std: [1.0, 1.0, 1.0]
weights: null
"""


@pytest.mark.slow
def test_the_commands_take_a_purifier_and_a_victim_of_another_repository(tmp_path):
    for path, text in (
        ("mine/__init__.py", ""),
        ("mine/clean.py", DARKER),
        ("mine/models.py", MODELS),
        ("configs/purifier/darker.yaml", "_target_: mine.clean.Darker\n"),
        ("configs/victim/linear.yaml", VICTIM),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    words = ["purifier=darker", "victim=linear", "attack=fgsm", "knowledge=full", "n=2", "records=records"]
    done = outside(tmp_path, "-m", "runners.evaluate", "--config-dir", "configs", *words)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "records").iterdir()
    assert file.name.startswith("digits-photos-linear-fgsm-full-darker-n2-")
