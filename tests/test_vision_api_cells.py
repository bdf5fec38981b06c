"""The parts of the table of vision APIs: pairs, metrics, the choice of iterations and kept answers."""

import pandas as pd
import pytest
import torch
from torch import nn

from attacks.knowledge import Transfer
from data.errors import InputError
from runners import app
from runners.evaluation.stages import Worker
from runners.evaluation.weights import ComponentLoader
from runners.store.store import Store
from runners.vision_api.answers import Asker
from runners.vision_api.columns import Entry, Filler, Row
from runners.vision_api.pairs import Pair, find
from runners.vision_api.restored import Restorer, criterion, figure, score
from runners.vision_api.services.response import Calls, LabelResponse, ServiceError
from tests.vision_api import corner_image


def pair(name: str, clean: str, adversarial: str) -> Pair:
    image = torch.zeros(3, 4, 4)
    answers = [LabelResponse(tuple(labels), (1.0,) * len(labels)) for labels in (clean, adversarial)]
    return Pair(name, image, image, *answers)


class Scripted:
    """A stand-in for an `Asker`, to which an image is the number of an answer."""

    def __init__(self, answers: list[str], most: int) -> None:
        self.answers, self.asked = answers, 0
        self.service = type("Service", (), {"labels": most})

    def answer(self, image: int) -> LabelResponse:
        self.asked += 1
        if self.answers[image] == "!":
            raise ServiceError("down")
        labels = tuple(self.answers[image])
        return LabelResponse(labels, (1.0,) * len(labels))


def test_pairs_are_those_whose_labels_differ_entirely_in_the_order_of_the_candidates():
    asker = Scripted(["abc", "def", "abc", "dec", "ab", "def", "abc", "de", "xyz", "abc", "abc", "xyz"], 3)
    candidates = [(f"i{i}", 2 * i, 2 * i + 1) for i in range(6)]
    result = find(candidates, asker, 2)
    assert [p.id for p in result.pairs] == ["i0", "i4"]
    assert (result.looked_at, result.shared, result.short) == (5, 1, 2)
    assert asker.asked == 9  # of i2 only the clean image, i5 not at all
    assert [p.id for p in find(candidates, asker, 9).pairs] == ["i0", "i4", "i5"]


def test_a_candidate_without_an_answer_is_not_passed_over():
    with pytest.raises(ServiceError):
        find([("i0", 0, 1), ("i1", 2, 3)], Scripted(["abc", "!", "abc", "def"], 3), 1)


@pytest.mark.parametrize(
    ("clean", "purified", "expected"),
    [
        ("abcde", "abcde", (1.0, 1, 1)),
        ("abcde", "edcba", (1.0, 0, 1)),
        ("abcde", "axyzb", (0.4, 1, 1)),
        ("abcde", "xbcde", (0.8, 0, 0)),
        ("abcde", "ab", (0.4, 1, 1)),  # fewer than five: those missing have not come back
        ("abcde", "", (0.0, 0, 0)),
        ("abcde", "xyzvwa", (0.0, 0, 0)),  # a sixth label does not count
    ],
)
def test_the_papers_metrics(clean, purified, expected):
    scores = score(LabelResponse(tuple(clean), ()), LabelResponse(tuple(purified), ()), 5)
    assert tuple(scores.values()) == pytest.approx(expected)


def test_figures_have_the_intervals_of_wilson_and_of_agresti_and_coull():
    names = {"top1_clean": [1.0, 1, 0, 1], "prediction-accuracy_clean": [0.2, 0.4, 0.6, 0.8]}
    records = pd.DataFrame({**names, "prediction-accuracy_adversarial": [0.0, 0.2, 0.2, 0.2]})
    top1, share = figure(records, "top1", "clean"), figure(records, "prediction-accuracy", "clean")
    assert (top1.value, top1.n) == (0.75, 4)
    assert (top1.low, top1.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert share.value == pytest.approx(0.5)
    assert (share.low, share.high) == pytest.approx((0.2308, 0.7692), abs=1e-4)
    assert criterion(records).value == pytest.approx((0.5 + 0.15) / 2)


def test_of_equal_iterations_the_fewest_are_chosen(tmp_path, monkeypatch):
    shares = {1: 0.25, 2: 0.5, 3: 0.5}

    def records(pairs, spec, asker):
        share = shares[spec.config["iterations"]]
        return pd.DataFrame({f"prediction-accuracy_{kind}": [share] * 2 for kind in ("clean", "adversarial")})

    worker = Worker(Store(tmp_path), torch.device("cpu"), "float32")
    restorer = Restorer(worker, 0, 4)
    loader = ComponentLoader(worker.store, worker.device, app.console, 24)
    monkeypatch.setattr(restorer, "records", records)
    filler = Filler(None, restorer, [], 4, 2, loader, app.console)
    config = {"_target_": "purifiers.gaussian_smoothing.GaussianSmoothing", "kernel": 5, "iterations": 7}
    entry = Entry(Row("GS", "gs", "gs", config, (1, 2, 3)))
    filler._choose(entry, [pair("a", "ab", "cd")], None)
    assert entry.iterations == 2
    assert {i: made.value for i, made in entry.tried.items()} == shares


def test_an_ensemble_answers_with_the_logarithm_of_the_mean_probability():
    images, networks = torch.rand(4, 3), [nn.Linear(3, 5), nn.Linear(3, 5)]
    view = Transfer(average="probabilities").view(None, None, networks)
    mean = torch.stack([network(images).softmax(1) for network in networks]).mean(0)
    assert torch.allclose(view(images, []).exp(), mean, atol=1e-6)
    assert torch.allclose(view(images, []).softmax(1), mean, atol=1e-6)
    logits = Transfer().view(None, None, networks)(images, [])
    assert torch.allclose(logits, sum(network(images) for network in networks) / 2, atol=1e-6)
    with pytest.raises(InputError, match="expected logits or probabilities, got 'votes'"):
        Transfer(average="votes")


def test_answers_are_kept_by_pixels_and_by_what_was_asked(tmp_path, vision):
    image = corner_image()
    first = Asker(vision.client("azure"), Store(tmp_path), Calls(9)).answer(image)
    again = Asker(vision.client("azure"), Store(tmp_path), Calls(9))
    assert again.answer(image) == again.answer(image + 1e-4) == first  # the same 8-bit values
    assert vision.counted("azure") == 1
    assert again.kept == 2
    assert len(Asker(vision.client("azure", labels=2), Store(tmp_path), Calls(9)).answer(image).labels) == 2
    again.answer(1 - image)
    assert vision.counted("azure") == 3


def test_no_credential_is_kept(tmp_path, vision):
    for vendor in ("aws", "azure", "clarifai", "google"):
        Asker(vision.client(vendor), Store(tmp_path), Calls(9)).answer(corner_image())
    kept = b"".join(
        file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".json"
    )
    assert b"class 0" in kept
    assert b"s3cret" not in kept
    assert b"AKIDLOCAL" not in kept
