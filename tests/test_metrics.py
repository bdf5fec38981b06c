import math

import numpy as np
import pytest
import torch
from conftest import random_images
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from data.errors import InputError
from data.similarity import ssim
from runners.evaluation import metrics
from runners.evaluation.scored import majority_of


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_intervals(correct, n, low, high):
    assert metrics.wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_reaches_its_ends():
    assert metrics.wilson(7, 7)[1] == 1.0
    with pytest.raises(ValueError, match="at least 1"):
        metrics.wilson(0, 0)


def pair(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the answers of two defenses, given how often both, only one or neither of them is right."""
    counts = [both, first, second, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),  # they never disagree
        (0, 5, 2 / 2**5),
        (0, 6, 2 / 2**6),
        (7, 7, 1.0),
        (5, 15, 2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2**20),  # Pascal's row 20: 0.041
        (1, 1, 1.0),
    ],
)
def test_mcnemar_is_the_sign_test_on_the_images_that_differ(first, second, p):
    p_value = metrics.mcnemar(*pair(11, first, second, 4))
    n, rarer = first + second, min(first, second)
    closed_form = min(1.0, 2 * sum(math.comb(n, k) for k in range(rarer + 1)) / 2**n)
    assert p_value == pytest.approx(p)
    assert p_value == pytest.approx(closed_form)
    assert p_value == metrics.mcnemar(*reversed(pair(11, first, second, 4))), "the test is not symmetric"
    assert p_value == metrics.mcnemar(*pair(0, first, second, 900)), "images on which they agree do not count"


@pytest.mark.parametrize(
    ("first", "second"), [([True], [True, False]), ([1.0], [0.0]), ([True], [0.5])], ids=str
)
def test_mcnemar_takes_right_and_wrong_of_the_same_images(first, second):
    with pytest.raises(ValueError, match="expected two boolean arrays of one shape"):
        metrics.mcnemar(np.array(first), np.array(second))


def test_ssim_and_psnr_equal_scikit_image():
    a = random_images(4, 32)
    b = (a + 0.1 * random_images(4, 32, seed=1)).clamp(0, 1)
    pairs = [(x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy()) for x, y in zip(a, b, strict=True)]
    settings = {"win_size": 3, "use_sample_covariance": False}
    ours, theirs = (
        ssim(a, b).numpy(),
        [structural_similarity(x, y, data_range=1, channel_axis=2, **settings) for x, y in pairs],
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(
        metrics.psnr(a, b).numpy(), [peak_signal_noise_ratio(y, x, data_range=1) for x, y in pairs], rtol=1e-5
    )


def test_ssim_does_not_depend_on_the_batch():
    a, b = random_images(4, 224), random_images(4, 224, seed=1)
    alone = torch.cat([ssim(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    assert ssim(a, b).equal(alone)


def test_ssim_bites_on_unit_images():
    """With constants for 0-255, SSIM of [0, 1] images never falls below 0.85 (a known bug)."""
    assert ssim(random_images(2), random_images(2, seed=5)).max() < 0.3


@pytest.mark.parametrize("shape", [(2, 3, 2, 8), (2, 3, 8, 2)], ids=str)
def test_ssim_refuses_images_smaller_than_its_window(shape):
    images = torch.zeros(shape)
    with pytest.raises(InputError, match=r"images of at least 3x3 pixels, .* got (2x8|8x2)"):
        ssim(images, images)


def test_norms_of_many_values_are_not_those_of_rounding():
    """A float32 sum over these 150,528 values is 7e-5 off."""
    image = torch.full((1, 3, 224, 224), 0.25)
    _, l2 = metrics.norms(image + 5 / (3 * 224 * 224) ** 0.5, image)
    assert l2.item() == pytest.approx(5, rel=2e-6)


def test_norms():
    a = torch.zeros(1, 1, 2, 2)
    b = torch.tensor([[[[0.3, 0.0], [0.0, -0.4]]]])
    linf, l2 = metrics.norms(a, b)
    assert linf.item() == pytest.approx(0.4)
    assert l2.item() == pytest.approx(0.5)


SHARES = {  # distributions over [0, 1] and their means: (trials, images) drawn from a generator
    "almost never right": (0.05, lambda draws, size: draws.random(size) < 0.05),
    "right half the time": (0.5, lambda draws, size: draws.random(size) < 0.5),
    "seldom wrong": (0.9, lambda draws, size: draws.random(size) < 0.9),
    "two thirds of the attacks or none": (0.6, lambda draws, size: (draws.random(size) < 0.9) * 2 / 3),
    "nearly all or nothing": (0.855, lambda draws, size: (draws.random(size) < 0.9) * 0.95),
    "15 independent attacks": (0.6, lambda draws, size: draws.binomial(15, 0.6, size) / 15),
    "15 related attacks": (0.3, lambda draws, size: draws.binomial(15, draws.beta(0.3, 0.7, size)) / 15),
}


@pytest.mark.parametrize("n", [4, 8, 24, 128])
@pytest.mark.parametrize("name", SHARES)
def test_the_interval_of_shares_covers_the_mean(name, n):
    mean, draw = SHARES[name]
    trials = draw(np.random.default_rng(0), (1500, n)).astype(float)
    intervals = [metrics.share_interval(values) for values in trials]
    assert np.mean([low <= mean <= high for low, high in intervals]) >= 0.92
    assert min(high - low for low, high in intervals) > 0


@pytest.mark.parametrize("n", [1, 2, 4, 10, 128])
@pytest.mark.parametrize("value", [0.0, 2 / 3, 1.0])
def test_equal_shares_have_an_interval_of_some_width(value, n):
    low, high = metrics.share_interval(np.full(n, value))
    assert 0 <= low <= value <= high <= 1
    assert high - low >= metrics.Z**2 / (n + metrics.Z**2) / 2


@pytest.mark.parametrize(("right", "n"), [(0, 8), (3, 8), (81, 263), (15, 148)])
def test_the_interval_of_shares_is_agresti_and_coulls_where_all_are_0_or_1(right, n):
    size = n + metrics.Z**2
    centre = (right + metrics.Z**2 / 2) / size
    half = metrics.Z * math.sqrt(centre * (1 - centre) / size)
    interval = metrics.share_interval(np.arange(n) < right)
    assert interval == pytest.approx((max(centre - half, 0), centre + half))
    assert interval[0] <= metrics.wilson(right, n)[0]
    assert interval[1] >= metrics.wilson(right, n)[1]


@pytest.mark.parametrize("values", [[], [0.5, 1.1], [-0.1], [float("nan")]], ids=str)
def test_the_interval_of_shares_takes_shares(values):
    with pytest.raises(ValueError, match=r"all in \[0, 1\]"):
        metrics.share_interval(np.array(values))


@pytest.mark.parametrize("n", [2, 4, 24])
def test_the_interval_of_a_mean_covers_it(n):
    trials = np.random.default_rng(0).normal(0.9, 0.05, (2000, n))
    covered = [low <= 0.9 <= high for low, high in map(metrics.mean_interval, trials)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[0.3], [0.0123] * 8])
def test_values_without_spread_have_no_interval(values):
    assert np.isnan(metrics.mean_interval(np.array(values))).all()


def test_a_majority_that_ties_goes_to_the_class_drawn_first():
    draws = torch.tensor([[7, 3, 2], [3, 7, 2], [7, 3, 5], [3, 7, 5], [1, 1, 5]])
    assert majority_of(draws).tolist() == [7, 3, 5]
