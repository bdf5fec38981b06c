"""Certificates compared with answers in closed form."""

import math

import pandas as pd
import pytest
import torch
from conftest import LinearVictim
from scipy.stats import beta, norm
from torch import nn

from data.weights import WeightFile
from purifiers.denoised_smoothing import DenoisedSmoothing
from purifiers.denoiser import Denoiser
from runners import certify
from runners.certify import Certificate, certificate, certified, counts

NOWHERE = WeightFile("nowhere.pt", "0" * 64)
SIGMA = 0.05


class Unmoved(nn.Module):
    """A denoiser that changes nothing, so that the defense is the bare victim under noise."""

    def forward(self, noisy, levels):
        return noisy


def linear_defense(margin: float):
    """Return a linear victim with a gradient of length 2 as a defense, and a grey image at this margin.

    The margin is twice the distance to the boundary.
    """
    weight = torch.randn(3 * 64, generator=torch.Generator().manual_seed(0))
    weight *= 2 / weight.norm()
    image = torch.full((3, 8, 8), 0.5)
    victim = LinearVictim(weight, margin - float(image.flatten() @ weight))
    purifier = DenoisedSmoothing(denoiser=Denoiser(weights=NOWHERE, network=Unmoved()), sigma=SIGMA)
    purifier.load_frozen({})
    return lambda images, seeds: victim(purifier(images, seeds=seeds, victim=None)), image


@pytest.mark.parametrize("distance", [0.05, -0.08])
def test_the_certificate_of_a_linear_classifier_is_its_distance(distance):
    """Smoothing leaves a linear classifier as it is.

    Its radius is sigma * norm.ppf(p) for p = norm.cdf(distance / sigma), less what the confidence bound
    takes.
    """
    defense, image = linear_defense(2 * distance)
    votes = counts(defense, image, range(8000), classes=2, batch=1000)
    share = votes[int(distance > 0)] / 8000
    assert share == pytest.approx(norm.cdf(abs(distance) / SIGMA), abs=4 * math.sqrt(0.25 / 8000))
    result = certificate(votes, votes, sigma=SIGMA, alpha=0.001)
    assert result.predicted == int(distance > 0)
    assert 0.9 * abs(distance) < result.radius < abs(distance)


def test_draws_of_a_batch_are_those_of_single_images():
    defense, image = linear_defense(0.02)
    seeds = range(300)
    whole, parts = (counts(defense, image, seeds, classes=2, batch=batch) for batch in (300, 7))
    assert whole == parts
    assert sum(whole) == 300
    assert min(whole) > 0


@pytest.mark.parametrize(("right", "of"), [(10_000, 10_000), (9_900, 10_000), (60, 100)])
def test_the_bound_is_clopper_and_pearsons(right, of):
    result = certificate([5, 95], [of - right, right], sigma=0.25, alpha=0.001)
    bound = beta.ppf(0.001, right, of - right + 1)
    assert result == (
        Certificate(1, pytest.approx(0.25 * norm.ppf(bound))) if bound > 0.5 else Certificate(None, 0.0)
    )


def test_all_draws_alike_have_a_finite_radius():
    result = certificate([100, 0], [10_000, 0], sigma=0.25, alpha=0.001)
    assert result.radius == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 10_000)))


def test_the_class_is_chosen_by_other_draws_than_bound_it():
    assert certificate([60, 40], [100, 900], sigma=1.0, alpha=0.001) == Certificate(None, 0.0)


def test_abstained_and_wrong_images_are_not_certified_at_any_radius():
    frame = pd.DataFrame(
        {
            "label": [0, 1, 2, 3],
            "predicted": pd.array([0, 2, None, 3], dtype="Int64"),
            "radius": [0.5, 0.5, 0.0, 0.1],
        }
    )
    values = [certified(frame, radius).value for radius in (0, 0.1, 0.2, 0.5, 0.6)]
    assert values == [50, 50, 25, 25, 0]


TINY = ("n=2", "choosing=4", "counting=30", "alpha=0.05", "purifier.denoiser.weights.steps=1",
        "purifier.denoiser.network.width=8", "purifier.denoiser.weights.batch=2")  # fmt: skip


def test_the_command_writes_a_table_and_a_curve_and_finds_its_counts_again(command, tmp_path, monkeypatch):
    words = (*TINY, f"store={tmp_path}/store", f"certificates={tmp_path}/made")
    status, output, errors = command(certify.main, "certify", *words)
    assert status == 0, errors
    stem = "digits-photos-digits-resnet8-denoised-smoothing"
    contents = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert set(contents) == {f"{stem}.{suffix}" for suffix in ("csv", "md", "png", "pdf")}
    assert len(pd.read_csv(tmp_path / "made" / f"{stem}.csv")) == 2
    assert "Abstained" in contents[f"{stem}.md"].decode()
    assert "abstained" in output

    def asked(*args, **settings):
        raise AssertionError("a draw was made again")

    monkeypatch.setattr(certify, "counts", asked)
    assert command(certify.main, "certify", *words)[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == contents


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("purifier=jpeg", "expected denoised-smoothing"),
        ("counting=0", "counting: expected a whole number, at least 1, got 0"),
        ("alpha=1", "alpha: expected a probability between 0 and 1, got 1"),
        ("radii=[]", "radii: expected"),
        ("victim=resnet56", "knows the labels of"),
    ],
)
def test_what_cannot_be_certified_is_refused_in_one_line(command, tmp_path, word, message):
    words = ("n=1", f"store={tmp_path}/store", f"certificates={tmp_path}", word)
    status, _, errors = command(certify.main, "certify", *words)
    assert status == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
