"""Counter-based random numbers: their distribution, and that each image has its own."""

import math

import pytest
import torch

from purifiers.fitting.draws import Draws

CPU = torch.device("cpu")


def test_normal_numbers_are_normal():
    """The Kolmogorov-Smirnov test at the 0.1 % level and the moments agree with it."""
    x = Draws(range(4), CPU).normal((250_000,)).double()
    for row in x:
        ordered = row.sort().values
        expected = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
        distance = (expected - torch.arange(1, len(ordered) + 1) / len(ordered)).abs().max()
        assert distance < 1.95 / math.sqrt(len(ordered))
    assert x.mean().abs() < 4 / math.sqrt(x.numel())
    assert (x.var() - 1).abs() < 4 * math.sqrt(2 / x.numel())
    assert (x[:, 1:] * x[:, :-1]).mean().abs() < 4 / math.sqrt(x.numel())
    assert (x[0] * x[1]).mean().abs() < 4 / math.sqrt(x.shape[1])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_choices_have_their_share(share):
    chosen = Draws([3], CPU).chosen(share, (100, 1000)).double()
    deviation = math.sqrt(share * (1 - share) / chosen.numel())
    assert abs(chosen.mean().item() - share) <= 4 * deviation + 2**-16


@pytest.mark.parametrize("bound", [1, 2, 21, 1000])
def test_integers_below_a_bound_are_uniform(bound):
    numbers = Draws([3, 4], CPU).below(bound, (50, 1000))
    assert numbers.shape == (2, 50, 1000)
    assert 0 <= numbers.min() <= numbers.max() < bound
    counts = torch.bincount(numbers.flatten(), minlength=bound).double()
    expected = numbers.numel() / bound
    deviation = (2 * (bound - 1)) ** 0.5  # of chi-squared with bound - 1 degrees of freedom
    assert ((counts - expected) ** 2 / expected).sum() <= bound - 1 + 5 * deviation


def test_a_bound_may_differ_by_place():
    bound = torch.tensor([[1, 5], [2**31, 7]])
    numbers = Draws([1, 2], CPU).below(bound, (2,))
    assert (numbers < bound).all()
    assert numbers[0, 0] == 0


@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (4, 32, 32)], ids=str)
def test_an_images_numbers_do_not_depend_on_the_others(shape):
    many, alone = Draws([9, 2**63 + 5, 7], CPU), Draws([2**63 + 5], CPU)
    for _ in range(3):
        assert torch.equal(many.normal(shape)[1], alone.normal(shape)[0])
        assert torch.equal(many.chosen(0.3, shape)[1], alone.chosen(0.3, shape)[0])
        assert torch.equal(many.below(9, shape)[1], alone.below(9, shape)[0])


def test_every_call_and_every_seed_draws_anew():
    draws = Draws([1, 2], CPU)
    first, second = draws.normal((100,)), draws.normal((100,))
    for a, b in [(first[0], first[1]), (first[0], second[0])]:
        assert (a * b).mean().abs() < 0.5
        assert not torch.equal(a, b)


@pytest.mark.parametrize("word", [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1])
def test_no_word_gives_a_number_that_is_not_finite(word, monkeypatch):
    """One word in 2**26 did, which a run of OAG meets, but not a test of a few million numbers."""
    draws = Draws([1], CPU)
    monkeypatch.setattr(Draws, "_bits", lambda self, size, kind: torch.full((1, 2 * size), word, dtype=kind))
    numbers = draws.normal((8,))
    assert torch.isfinite(numbers).all()
    assert numbers.abs().max() <= 6.01
    assert 0 <= draws.below(2**31, (8,)).min() <= draws.below(2**31, (8,)).max() < 2**31
