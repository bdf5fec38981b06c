"""The trainer of learned purifiers: repeatable, resumable, and wired into evaluation."""

import pytest
import torch
from test_grid import cell, run

from data.errors import InputError
from data.images import Dataset, Images
from purifiers.comdefend import ComDefend
from purifiers.ncis import NCIS
from purifiers.pixelcnn import PixelCNN
from purifiers.pixeldefend import PixelDefend
from purifiers.training import Training


class Waves(Dataset):
    """A few smooth images, made in no time."""

    label_space = "waves"

    def load(self, split: str) -> Images:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(12, 3, 4, 4, generator=generator)
        images = torch.nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear")
        return Images(tuple(f"w/{i}" for i in range(12)), images, torch.zeros(12, dtype=torch.int64))


class Notes:
    """A checkpoint in memory that stops the training when it is written, once."""

    def __init__(self, stop: bool) -> None:
        self.saved, self.stop = None, stop

    def load(self):
        return self.saved

    def save(self, state):
        self.saved = {name: value.clone() for name, value in state.items()}
        if self.stop:
            self.stop = False
            raise KeyboardInterrupt


def purifier(**training) -> NCIS:
    weights = Training(dataset=Waves(), batch=4, **training)
    return NCIS(weights=weights, filters=8, layers=3, smoothing_kernel=5)


def test_training_is_repeatable_and_leaves_global_randomness_alone():
    built = [purifier(steps=20), purifier(steps=20), purifier(steps=20, seed=1)]
    before = torch.get_rng_state()
    first, second, other = (p.weights.fit(p) for p in built)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["ncis", "comdefend", "pixeldefend with dropout"])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(kind, monkeypatch):
    monkeypatch.setattr("purifiers.training.EVERY", 20)

    def fresh():
        if kind == "ncis":
            return purifier(steps=28)
        weights = Training(dataset=Waves(), batch=4, steps=28)
        if kind == "comdefend":
            return ComDefend(weights=weights, widen=0.05)
        return PixelDefend(weights=weights, network=PixelCNN(filters=4, blocks=1, dropout=0.5))

    whole = (p := fresh()).weights.fit(p)
    notes, stopped, resumed = Notes(stop=True), fresh(), fresh()
    with pytest.raises(KeyboardInterrupt):
        stopped.weights.fit(stopped, checkpoint=notes)
    assert int(notes.saved["step"]) == 20
    again = resumed.weights.fit(resumed, checkpoint=notes)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_training_learns():
    p = purifier(steps=150)
    images = Waves().load("train").images
    untrained = p.objective(images, torch.Generator()).item()
    p.freeze(p.weights.fit(p))
    assert p.objective(images, torch.Generator()).item() < untrained / 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1e30, "steps": 50}, "not finite"),
        ({"steps": 0}, "steps, batch >= 1"),
        ({"lr": -1.0}, "lr > 0"),
        ({"share": 0.0}, "training.share: expected more than 0"),
    ],
)
def test_bad_trainings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        (p := purifier(**settings)).weights.fit(p)


def test_a_batch_larger_than_the_data_is_refused():
    p = NCIS(weights=Training(dataset=Waves(), batch=13), filters=8, layers=3)
    with pytest.raises(InputError, match="at most 12, got 13"):
        p.weights.fit(p)


def test_a_cell_trains_its_purifier_once(tmp_path):
    words = ["purifier.weights.steps=3", "purifier.filters=4", "purifier.layers=2"]
    learned = cell("attack=clean", "purifier=ncis", *words)
    once = cell("attack=clean", "purifier=ncis", *words, "purifier.iterations=1")
    inside = ["purifier=dynamic", "purifier@purifier.purifier=ncis"]
    inside += [word.replace("purifier.", "purifier.purifier.") for word in words]
    first, _ = run(tmp_path, [learned])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "weights").rglob("*") if path.is_file()}
    again, _ = run(tmp_path, [learned, once, cell("attack=clean", *inside)])
    assert all(result.records is not None for result in again), [result.failed for result in again]
    assert first[0].records.purified.tolist() == again[0].records.purified.tolist()
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "weights").rglob("*") if path.is_file()}
    assert len(kept) == 2, "a victim and a purifier"
    assert now == kept, "not for a second run, nor for what only purifying reads, nor inside another"


class Seen(NCIS):
    """Remembers what it is trained on."""

    seen: list[torch.Tensor]

    def objective(self, images, generator):
        self.seen = [*getattr(self, "seen", []), *images]
        return super().objective(images, generator)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 12), (0.5, 6), (0.34, 4)])
def test_a_share_of_the_images_is_trained_on(share, expected):
    weights = Training(dataset=Waves(), batch=4, steps=12, share=share)
    made = Seen(weights=weights, filters=8, layers=3, smoothing_kernel=5)
    weights.fit(made)
    assert len({tuple(image.flatten().tolist()) for image in made.seen}) == expected
