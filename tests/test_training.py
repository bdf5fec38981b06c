"""The trainer of learned purifiers: repeatable, resumable, and used by an evaluation."""

import math

import pytest
import torch
from test_grid import cell, run

from data.errors import InputError
from data.images import Dataset, Images
from purifiers.comdefend import ComDefend
from purifiers.ncis import NCIS
from purifiers.networks.pixelcnn import PixelCNN
from purifiers.pixeldefend import PixelDefend
from purifiers.training import Training


class Waves(Dataset):
    """A data set of a few smooth images, which are quickly made."""

    label_space = "waves"

    def load(self, split: str) -> Images:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(12, 3, 4, 4, generator=generator)
        images = torch.nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear")
        return Images(tuple(f"w/{i}" for i in range(12)), images, torch.zeros(12, dtype=torch.int64))


VARIED = {"crop": 9, "flip": True, "average": 0.9, "halve_every": 2}


class Notes:
    """A checkpoint in memory that stops the training once, when it is written after the step `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.saved, self.stop = None, stop

    def load(self):
        return self.saved

    def save(self, state):
        self.saved = {name: value.clone() for name, value in state.items()}
        if int(state["step"]) == self.stop:
            self.stop = None
            raise KeyboardInterrupt


def training(**settings) -> Training:
    """Return a training on one thread.

    oneDNN's threads spin while they wait for each other, and test processes share cores.
    """
    return Training(**{"dataset": Waves(), "batch": 4, "threads": 1} | settings)


def purifier(**settings) -> NCIS:
    return NCIS(weights=training(**settings), filters=8, layers=3, smoothing_kernel=5)


def test_training_is_repeatable_and_leaves_global_randomness_alone():
    built = [purifier(steps=20), purifier(steps=20), purifier(steps=20, seed=1)]
    before = torch.get_rng_state()
    first, second, other = (p.weights.fit(p) for p in built)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["ncis", "ncis, varied", "comdefend", "pixeldefend with dropout"])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(kind, monkeypatch):
    monkeypatch.setattr("purifiers.training.SECONDS", -1)  # a checkpoint after each step

    def fresh():
        if kind.startswith("ncis"):
            return purifier(steps=28, **VARIED if kind.endswith("varied") else {})
        weights = training(steps=28)
        if kind == "comdefend":
            return ComDefend(weights=weights, widen=0.05)
        return PixelDefend(weights=weights, network=PixelCNN(filters=4, blocks=1, dropout=0.5))

    whole = (p := fresh()).weights.fit(p)
    notes, stopped, resumed = Notes(stop=20), fresh(), fresh()
    with pytest.raises(KeyboardInterrupt):
        stopped.weights.fit(stopped, checkpoint=notes)
    assert int(notes.saved["step"]) == 20
    again = resumed.weights.fit(resumed, checkpoint=notes)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_training_learns():
    p = purifier(steps=150)
    images = Waves().load("train").images
    untrained = p.objective(images, torch.Generator()).item()
    p.load_frozen(p.weights.fit(p))
    assert p.objective(images, torch.Generator()).item() < untrained / 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1e30, "steps": 50}, "not finite"),
        ({"steps": 0}, "steps, batch >= 1"),
        ({"lr": -1.0}, "lr > 0"),
        ({"share": 0.0}, "training.share: expected more than 0"),
        ({"batch": 13}, "training.batch: expected at most 12, got 13"),
        ({"crop": 13}, "training.crop: expected at most 12 pixels, the images' shorter side, got 13"),
        ({"crop": 0}, "training.crop: expected a whole number, at least 1, got 0"),
        ({"halve_every": 0}, "training.halve_every: expected a whole number"),
        ({"threads": 1.5}, "training.threads: expected a whole number"),
        ({"average": 1.0}, "training.average: expected a decay between 0 and 1, got 1.0"),
    ],
)
def test_bad_trainings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        (p := purifier(**settings)).weights.fit(p)


def test_a_network_learns_from_images_with_its_channels_only():
    grey = NCIS(weights=training(steps=1), channels=1, filters=8, layers=3)
    with pytest.raises(InputError, match="NCIS: expected images with the channels of its network, 1, got 3"):
        grey.weights.fit(grey)


def test_a_cell_trains_its_purifier_once(tmp_path):
    words = ["purifier.weights.steps=3", "purifier.filters=4", "purifier.layers=2"]
    learned = cell("attack=clean", "purifier=ncis", *words)
    once = cell("attack=clean", "purifier=ncis", *words, "purifier.iterations=1")
    inner_words = ["purifier=dynamic", "purifier@purifier.purifier=ncis"]
    inner_words += [word.replace("purifier.", "purifier.purifier.") for word in words]
    first, _ = run(tmp_path, [learned])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "weights").rglob("*") if path.is_file()}
    again, _ = run(tmp_path, [learned, once, cell("attack=clean", *inner_words)])
    assert all(result.records is not None for result in again), [result.failed for result in again]
    assert first[0].records.purified.tolist() == again[0].records.purified.tolist()
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "weights").rglob("*") if path.is_file()}
    assert len(times) == 2, "a victim and a purifier are trained"
    assert now == times, "a second run, settings of purifying and a wrapper train nothing again"


class Seen(NCIS):
    """A purifier that records the images on which it is trained."""

    seen: list[torch.Tensor]

    def objective(self, images, generator):
        self.seen = [*getattr(self, "seen", []), *images]
        return super().objective(images, generator)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 12), (0.5, 6), (0.34, 4)])
def test_a_share_of_the_images_is_trained_on(share, expected):
    weights = training(steps=12, share=share)
    model = Seen(weights=weights, filters=8, layers=3, smoothing_kernel=5)
    weights.fit(model)
    assert len({tuple(image.flatten().tolist()) for image in model.seen}) == expected


def test_crops_and_flips_show_other_squares_of_the_same_images():
    weights = training(steps=60, crop=7, flip=True)
    model = Seen(weights=weights, filters=4, layers=2, smoothing_kernel=5)
    weights.fit(model)
    whole = Waves().load("train").images
    ways = [
        square.flip(axes)
        for square in whole.unfold(2, 7, 1).unfold(3, 7, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        for axes in ([], [1], [2], [1, 2])
    ]
    possible = {tuple(square.flatten().tolist()) for square in ways}
    squares = [tuple(square.flatten().tolist()) for square in model.seen]
    assert set(squares) <= possible
    assert len(set(squares)) > len(whole), "only one square of each image was shown"


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"halve_every": 2}, [1.0] * 6 + [0.5] * 6 + [0.25] * 3),  # three steps are an epoch
        ({}, [(1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)]),
    ],
)
def test_the_learning_rate_falls_as_it_is_set(settings, rates, monkeypatch):
    used, step = [], torch.optim.Adam.step

    def told(self, *args, **kwargs):
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", told)
    (p := purifier(steps=15, lr=1.0e-3, **settings)).weights.fit(p)
    assert used == pytest.approx([1e-3 * rate for rate in rates])


def test_an_average_of_the_weights_is_returned():
    decay, steps = 0.8, 6
    states = [(p := purifier(steps=n, halve_every=99)).weights.fit(p) for n in range(1, steps + 1)]
    expected = states[0]
    for state in states[1:]:
        expected = {n: decay * value + (1 - decay) * state[n] for n, value in expected.items()}
    averaged = (p := purifier(steps=steps, halve_every=99, average=decay)).weights.fit(p)
    for name, value in averaged.items():
        torch.testing.assert_close(value, expected[name])


class Listed(Waves):
    """A data set that counts the images that are asked for at once, as a data set of files reads them."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def load(self, split):
        raise AssertionError("the whole data set was read")

    def index(self, split):
        whole, sizes = Waves.load(self, split), self.asked

        class Lazy:
            ids, labels = whole.ids, whole.labels

            def take(self, indices):
                sizes.append(len(indices))
                return whole.take(indices)

        return Lazy()


def test_only_the_images_of_a_batch_are_read_at_once():
    dataset = Listed()
    lazy = (p := purifier(steps=5, dataset=dataset)).weights.fit(p)
    whole = (p := purifier(steps=5)).weights.fit(p)
    assert dataset.asked == [4] * 5
    assert all(torch.equal(lazy[name], whole[name]) for name in lazy)


class Counted(NCIS):
    """A purifier that records how many threads its objective has."""

    threads: list[int]

    def objective(self, images, generator):
        self.threads = [*getattr(self, "threads", []), torch.get_num_threads()]
        return super().objective(images, generator)


def test_threads_are_those_of_the_training_and_put_back_after():
    before = torch.get_num_threads()
    weights = training(steps=2, threads=before + 1)
    model = Counted(weights=weights, filters=4, layers=2, smoothing_kernel=5)
    weights.fit(model)
    assert model.threads == [before + 1] * 2
    assert torch.get_num_threads() == before
