"""The trainer of victims: unchanged for the embedded ones, resumable, and the meaning of its parameters."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import config_of
from test_training import Notes, Waves
from torch import nn

from data.digits_photos import DigitsPhotos
from data.errors import InputError, MissingError
from data.flower17 import Flower17
from data.images import Images
from data.listing import FileDataset, Listing
from data.repeatable import repeatable
from data.weights import WeightFile
from runners.evaluation import progress
from runners.evaluation.compatibility import check_split_consistency
from runners.evaluation.progress import Allowance
from runners.evaluation.weights import _learnt_from, load_or_train
from runners.store.store import Store
from victims import recipe
from victims.from_torchvision import Torchvision
from victims.recipe import Recipe
from victims.victim import Victim


class Labelled(Waves):
    """A data set of smooth images of three classes that are wider than they are high."""

    def load(self, split: str) -> Images:
        images = super().load(split)
        return Images(images.ids, images.images[:, :, :10], torch.arange(12) % 3)


class Small(nn.Module):
    """A network with running statistics and dropout, which make a resume hard; it records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(320, 3)
        )
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.layers(x)


def victim(**settings) -> Victim:
    weights = Recipe(dataset=Labelled(), **{"epochs": 3, "batch": 4, "lr": 0.05} | settings)
    return Victim(network=Small(), label_space="waves", mean=[0.0] * 3, std=[1.0] * 3, weights=weights)


def fit(v: Victim, **how) -> dict[str, torch.Tensor]:
    return v.weights.fit(v, **how)


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_without_new_parameters_training_is_version_2_to_the_bit():
    """The loop of version 2 is written down again here."""
    trained, v, data = fit(victim(shift=2, seed=3)), victim(), Labelled().load("train")
    generator = torch.Generator().manual_seed(3)
    with repeatable(v.network, 3):
        v.to(memory_format=torch.channels_last).train()
        optimiser = torch.optim.SGD(
            v.network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=9)
        for _ in range(3):
            order = torch.randperm(12, generator=generator)
            for step in range(3):
                rows = order[step * 4 : step * 4 + 4]
                padded = F.pad(data.images[rows], (2, 2, 2, 2), mode="reflect")
                offsets = torch.randint(5, (4, 2), generator=generator).tolist()
                images = torch.stack(
                    [p[:, y : y + 10, x : x + 12] for p, (y, x) in zip(padded, offsets, strict=True)]
                )
                images = images.contiguous(memory_format=torch.channels_last)
                loss = F.cross_entropy(v(images), data.labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    assert same(trained, v.network.state_dict())


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
@pytest.mark.parametrize("after", [1, 5, 6])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(schedule, after, monkeypatch):
    monkeypatch.setattr(recipe, "SECONDS", -1)  # a checkpoint after each step
    settings = {"schedule": schedule, "shift": 1, "flip": True}
    whole, notes = fit(victim(**settings)), Notes()

    def stop(share):
        if notes.saved is not None and int(notes.saved["step"]) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(victim(**settings), checkpoint=notes, progress=stop)
    resumed = victim(**settings)
    assert same(whole, fit(resumed, checkpoint=notes))
    assert len(resumed.network.seen) == 9 - after


def test_the_cosine_rises_for_three_tenths_of_the_steps_and_falls_to_nothing(monkeypatch):
    rates, step = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    fit(victim(schedule="cosine", epochs=20, lr=0.01))
    assert len(rates) == 60
    assert rates[0] == 0
    assert max(rates) == rates[18] == 0.01
    assert rates[9] == pytest.approx(0.005)
    assert rates[39] == pytest.approx(0.005)
    assert 0 < rates[59] < 1e-4


def test_the_constant_schedule_with_plain_momentum_is_plain_sgd(monkeypatch):
    groups, step = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self: (groups.append(dict(self.param_groups[0])), step(self))[1],
    )
    fit(victim(schedule="constant", nesterov=False, momentum=0.5, lr=0.01, epochs=20))
    assert len(groups) == 60
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in groups} == {(0.01, 0.5, False)}


def test_images_are_mirrored_half_of_the_time_and_moved_over_black():
    mirrored, shifted = victim(flip=True, epochs=20), victim(shift=3, border="black", epochs=20)
    for v in (mirrored, shifted):
        fit(v)
    originals = Labelled().load("train").images
    inputs = torch.cat(mirrored.network.seen)
    plain_ = sum(any(torch.equal(image, original) for original in originals) for image in inputs)
    mirrored_count = sum(
        any(torch.equal(image, original.flip(2)) for original in originals) for image in inputs
    )
    assert plain_ + mirrored_count == len(inputs) == 240
    assert 90 < mirrored_count < 150
    edges = torch.cat(shifted.network.seen)[:, :, :, :3].eq(0).all(1).all(1)  # columns that are black
    assert edges.any(0).all()
    assert not edges.all(0).any()


def test_a_training_begins_from_given_weights_but_for_the_last_layer(tmp_path):
    def mobile(classes: int, start: WeightFile | None = None, **more) -> Victim:
        how = {"epochs": 1, "batch": 12, "lr": 0.05, "schedule": "cosine"} | more
        weights = Recipe(dataset=Labelled(), start=start, **how)
        network = Torchvision(name="shufflenet_v2_x0_5", classes=classes)
        return Victim(network=network, label_space="waves", mean=[0.0] * 3, std=[1.0] * 3, weights=weights)

    state = mobile(1000).network.state_dict()
    path = tmp_path / "given.safetensors"
    safetensors.torch.save_file(state, path)
    start = WeightFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    begun = fit(mobile(3, start))  # one step with a rate of 0
    parameters = [name for name, _ in mobile(3).network.model.named_parameters()]
    assert {n for n in parameters if not torch.equal(begun[n], state[n])} == {"fc.weight", "fc.bias"}
    assert len(begun["fc.bias"]) == 3
    head = fit(mobile(3, start, epochs=4, head_only=True))
    assert {n for n in state if not torch.equal(head[n], state[n])} == {"fc.weight", "fc.bias"}
    assert not torch.equal(head["fc.weight"], begun["fc.weight"])
    scratch = fit(mobile(3))
    assert not torch.equal(scratch["conv1.0.weight"], state["conv1.0.weight"])
    assert torch.equal(scratch["fc.weight"], fit(mobile(3))["fc.weight"]), (
        "the last layer is drawn from the seed"
    )
    with pytest.raises(MissingError, match="do not exist"):
        fit(mobile(3, WeightFile(str(tmp_path / "none.pt"), "0" * 8)))
    for change in ({"odd": torch.ones(1)}, {"conv1.0.weight": torch.ones(1)}, None):
        changed_state = {k: v for k, v in state.items() if change or k != "conv1.0.weight"} | (change or {})
        with pytest.raises(InputError, match=r"weights\.start does not fit: .*(odd|conv1\.0)"):
            mobile(3).network.begin_from(changed_state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "steps"}, "expected schedule one-cycle, cosine or constant"),
        ({"border": "white"}, "border reflect or black"),
        ({"epochs": 0}, "epochs >= 1"),
        ({"shift": -1}, "shift >= 0"),
        ({"head_only": True}, "head_only: expected weights.start"),
        ({"batch": 13}, "batch: expected 1 to 12, got 13"),
    ],
)
def test_impossible_recipes_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        fit(victim(**settings))


def test_a_stopped_victim_goes_on_from_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "SECONDS", -1)
    words = ["victim.weights.epochs=1", "victim.weights.dataset.copies=1", "victim.weights.batch=100"]
    config = config_of("victim", "digits-resnet8", *words)

    def stop(share):
        if share > 0.45:
            raise KeyboardInterrupt

    shares: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        load_or_train(config, Store(tmp_path / "a"), progress=stop)
    resumed = load_or_train(config, Store(tmp_path / "a"), progress=shares.append)
    assert shares[0] == pytest.approx(0.5)
    assert resumed.weights_sha256 == load_or_train(config, Store(tmp_path / "b")).weights_sha256
    assert not list((tmp_path / "a" / "checkpoint").rglob("??????*"))


def test_an_evaluation_refuses_a_training_that_takes_longer_than_it_may(monkeypatch):
    times = iter([0.0, 5.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    slow = Allowance("a victim", hours=1.0)
    slow.check(0.001)
    slow.check(0.002)  # too early to say
    with pytest.raises(
        InputError, match=r"training a victim: 2\.8 h by its first steps, above budget_hours=1;"
    ):
        slow.check(0.003)
    fast, times = Allowance("a victim", hours=3.0), iter([0.0, 20.0, 9e9])
    for share in (0.001, 0.003, 0.004):
        fast.check(share)


class Folder(FileDataset):
    """A data set of the images that are in a folder today."""

    def __init__(self, *names: str) -> None:
        super().__init__(size=4, resize=None)
        self.names = names

    def index(self, split):
        files = tuple(map(Path, self.names))
        return Listing(self.names, torch.zeros(len(self.names)).long(), files, size=4, resize=None)


def test_weights_learnt_from_other_images_of_a_folder_are_others():
    assert _learnt_from(Folder("a", "b")) == _learnt_from(Folder("a", "b"))
    assert _learnt_from(Folder("a", "b")) != _learnt_from(Folder("a", "c"))
    assert _learnt_from(DigitsPhotos()) == {}, "the version of the data set describes its content"


def test_nothing_is_evaluated_on_images_that_it_learnt():
    def flowers(splits):
        return {"_target_": "data.flower17.Flower17", "root": "x", "splits": splits}

    learnt = {"weights": {"dataset": flowers("official")}}
    check_split_consistency("victim", learnt, flowers("official"), Flower17.divided_by)
    check_split_consistency("victim", {"weights": {"path": "x"}}, flowers("drawn"), Flower17.divided_by)
    check_split_consistency("victim", learnt, {"_target_": "data.cifar10.Cifar10"}, ())
    for component in (learnt, {"purifier": learnt}):
        with pytest.raises(InputError, match=r"of which some are evaluated with dataset\.splits=drawn"):
            check_split_consistency("purifier", component, flowers("drawn"), Flower17.divided_by)
