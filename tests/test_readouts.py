"""The results that DIP, DIPDefend and DDIP read off traces made by hand."""

import itertools

import numpy as np
import pytest
import torch
from conftest import LinearVictim, linear_victim, random_images

from data.errors import InputError
from purifiers import ddip as ddip_module
from purifiers.ddip import DDIP
from purifiers.dip import DIP
from purifiers.dipdefend import DIPDefend
from purifiers.fitting.trace import Iterate, TracePurifier


def iterates(trace: torch.Tensor, targets: torch.Tensor, v=None):
    return [Iterate(step, images, targets, v) for step, images in enumerate(trace)]


def readout_of(p: TracePurifier, trace: torch.Tensor, targets: torch.Tensor, v=None) -> torch.Tensor:
    readout = p.readout(targets, v)
    for iterate in iterates(trace, targets, v):
        readout.see(iterate)
    return readout.result()


def test_dip_keeps_the_last_of_its_steps(small_trace):
    images = random_images(2)
    recorded = []
    probe = DIP(trace=small_trace, steps=9)
    probe.readout = lambda *_: type(
        "R", (), {"see": lambda s, i: recorded.append(i), "result": lambda s: images}
    )()
    probe(images, seeds=[0, 1])
    assert [i.step for i in recorded] == list(range(9))
    assert torch.equal(DIP(trace=small_trace, steps=9)(images, seeds=[0, 1]), recorded[-1].images)


def smoothed_peak(psnr: np.ndarray, weight: float) -> int:
    """Return the step that the released criterion picks for one image; -1 if the curve never peaks."""
    s, b, best, highest = [psnr[0]], psnr[1] - psnr[0], -1, psnr[0]
    for t in range(1, len(psnr)):
        s.append(weight * psnr[t] + (1 - weight) * (s[-1] + b))
        if t >= 2:
            b = weight * (s[t] - s[t - 1]) + (1 - weight) * b
            if s[t] > highest:
                best = t
        highest = max(highest, s[t])
    return best


@pytest.mark.parametrize("weight", [0.002, 0.02, 0.3])
def test_dipdefend_stops_where_the_released_criterion_does(small_trace, weight):
    targets, steps = random_images(4), 120
    time = torch.arange(1.0, steps + 1).view(-1, 1, 1, 1, 1)
    wobble = torch.randn(steps, 4, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.01
    # Errors that fall fast, then slowly; the last image only gets worse and never peaks.
    error = torch.cat([0.5 / time + wobble.abs(), 0 * time], 1)[:, :4]
    error[:, 3] = 0.1 + 0.3 * time[:, 0] / steps
    trace = targets + error * torch.sign(0.5 - targets)
    result = readout_of(DIPDefend(trace=small_trace, steps=steps, smoothing=weight), trace, targets)
    for i in range(4):
        psnr = -10 * (trace[:, i] - targets[i]).square().mean((1, 2, 3)).log10().numpy()
        peak = smoothed_peak(psnr.astype(float), weight)
        assert torch.equal(result[i], trace[peak, i]), f"image {i}: expected step {peak}"
    assert smoothed_peak(psnr.astype(float), weight) == -1


def test_psnr_takes_the_worst_tile():
    targets = torch.zeros(1, 1, 64, 64)
    images = targets.clone()
    images[..., 40:, 40:] = 0.1
    worst = (24 * 24 * 0.01) / (32 * 32)
    assert Iterate(0, images, targets, None).psnr.item() == pytest.approx(-10 * np.log10(worst), abs=1e-4)


def line_trace(v: LinearVictim, margins: list[float], targets: torch.Tensor) -> torch.Tensor:
    """Return reconstructions close to the targets that have these margins under the linear victim."""
    direction = v.weight.view(1, *targets.shape[1:]) / v.weight.square().sum()
    base = targets - v.margin(targets).view(-1, 1, 1, 1) * direction
    return torch.stack([base + m * direction for m in margins])


@pytest.fixture
def line():
    v = linear_victim(16)
    targets = 0.4 + 0.2 * random_images(2)
    return v, targets


def ddip(trace, **changes) -> DDIP:
    settings = {
        "steps": 6,
        "maps": 6,
        "warmup": 0,
        "similarity": 0.5,
        "grid": 100,
        "push": 0.5,
        "crossings": 2,
    }
    return DDIP(trace=trace, **(settings | changes))


def test_ddip_meets_the_boundary_and_pushes_away_from_the_input(small_trace, line):
    v, targets = line
    trace = line_trace(v, [-2.0, -2.0, 3.0, 3.0, 3.0, 3.0], targets)
    boundary = 0.6 * trace[1] + 0.4 * trace[2]  # margin 0, which 100 sections hit exactly
    expected = boundary + 0.5 * (boundary - targets)
    torch.testing.assert_close(readout_of(ddip(small_trace), trace, targets, v), expected)
    unpushed = readout_of(ddip(small_trace, push=0.0), trace, targets, v)
    assert v.margin(unpushed).abs().max() < 1e-3


def test_ddip_probabilities_tie_where_logits_do_for_two_classes(small_trace, line):
    v, targets = line
    trace = line_trace(v, [-2.0, -2.0, 3.0, 3.0, 3.0, 3.0], targets)
    logits, probabilities = (
        readout_of(ddip(small_trace, tie=tie), trace, targets, v) for tie in ("logits", "probabilities")
    )
    torch.testing.assert_close(logits, probabilities)


def test_ddip_averages_the_last_k_crossings(small_trace, line):
    v, targets = line
    # t=0 is never a crossing's start (t > t0), so pairs are (1,2), (2,3), (3,4), (4,5)
    trace = line_trace(v, [1.0, 1.0, -1.0, 3.0, -3.0, 1.0], targets)
    result = readout_of(ddip(small_trace, push=0.0), trace, targets, v)
    pairs = [0.5 * trace[3] + 0.5 * trace[4], 0.25 * trace[4] + 0.75 * trace[5]]
    torch.testing.assert_close(result, torch.stack(pairs).mean(0))


@pytest.mark.parametrize("clip", ["mean", "each"])
def test_ddip_of_all_crossings_is_ddip_of_more_than_there_are(small_trace, line, clip):
    v, targets = line
    trace = line_trace(v, [1.0, 1.0, -1.0, 3.0, -3.0, 1.0], targets)
    settings = {"push": 40.0, "tie": "probabilities", "clip": clip}
    all_of_them, enough = (
        readout_of(ddip(small_trace, crossings=k, **settings), trace, targets, v) for k in (None, 9)
    )
    assert not torch.equal(enough, readout_of(ddip(small_trace, crossings=2, **settings), trace, targets, v))
    torch.testing.assert_close(all_of_them, enough)


def test_ddip_of_all_crossings_without_any_keeps_the_last(small_trace, line):
    v, targets = line
    trace = line_trace(v, [1.0, 1.0, 1.0, 1.0, 2.0, 3.0], targets)
    assert torch.equal(readout_of(ddip(small_trace, crossings=None), trace, targets, v), trace[-1])


@pytest.mark.parametrize(
    "changes",
    [{"warmup": 1}, {"warmup": 1, "warmup_unit": "maps"}, {"similarity": 1.01}],
    ids=str,
)
def test_ddip_without_a_crossing_that_counts_keeps_the_mean_of_the_last_k(small_trace, line, changes):
    v, targets = line
    trace = line_trace(v, [1.0, 1.0, -1.0, -2.0, -3.0, -4.0], targets)
    result = readout_of(ddip(small_trace, **changes), trace, targets, v)
    torch.testing.assert_close(result, trace[-2:].mean(0))


def test_ddip_warmup_in_maps_is_longer_than_in_iterations(small_trace):
    unit = {"steps": 1000, "maps": 200, "warmup": 50}
    assert ddip(small_trace, **unit, warmup_unit="iterations").first == 50
    assert ddip(small_trace, **unit, warmup_unit="maps").first == 250
    assert [t for t in range(16) if ddip(small_trace, **unit).is_mapped(t)] == [0, 5, 10, 15]


@pytest.mark.parametrize("steps", [500, 750, 1000, 1250, 1500])
def test_ddip_maps_as_many_reconstructions_whatever_the_length(small_trace, steps):
    purifier = ddip(small_trace, steps=steps, maps=200)
    mapped = [t for t in range(steps) if purifier.is_mapped(t)]
    assert len(mapped) == 200
    gaps = {later - earlier for earlier, later in itertools.pairwise(mapped)}
    assert max(gaps) - min(gaps) <= 1, "the intervals are not equal"


def test_ddip_maps_every_reconstruction_of_a_short_trace(small_trace):
    assert all(ddip(small_trace, steps=60, maps=200).is_mapped(t) for t in range(60))


def test_ddip_clips(small_trace, line):
    v, targets = line
    trace = line_trace(v, [-2.0, -2.0, 3.0, 3.0, 3.0, 3.0], targets)
    for clip in ("mean", "each"):
        pushed = readout_of(ddip(small_trace, push=500.0, clip=clip), trace, targets, v)
        assert 0 <= pushed.min() <= pushed.max() <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tie": "margins"}, "logits or probabilities"),
        ({"crossings": 0}, "crossings: expected at least 1"),
        ({"push": -0.1}, "push"),
        ({"steps": 0}, "steps: expected a whole number"),
    ],
)
def test_ddip_refuses_impossible_settings(small_trace, settings, message):
    with pytest.raises(InputError, match=message):
        ddip(small_trace, **settings)


@pytest.mark.parametrize("crossings", [None, 2])
def test_ddip_asks_about_the_pairs_of_many_images_at_once_where_that_is_allowed(
    small_trace, crossings, monkeypatch
):
    """On a CPU it asks image by image, so that the victim's rounding is each image's own."""
    v, targets = linear_victim(16), 0.4 + 0.2 * random_images(5)
    trace = line_trace(v, [1.0, 1.0, -1.0, 3.0, -3.0, 1.0], targets)
    results, batches = {}, {}
    points = 21 if crossings is None else 42  # per image in one question, at 20 sections per line
    for most in (0, 3 * points * 16 * 16, 2**22):
        monkeypatch.setitem(ddip_module.AT_ONCE, "cpu", most)
        batches[most] = sizes = []
        readout = ddip(small_trace, grid=20, crossings=crossings).readout(targets, v)
        monkeypatch.setattr(readout, "victim", lambda x, sizes=sizes: (sizes.append(len(x)), v(x))[1])
        for iterate in iterates(trace, targets, v):
            readout.see(iterate)
        results[most] = readout.result()
    one, three, all_of_them = batches.values()
    rounds = 4 if crossings is None else 1  # without a K each step asks about its pairs
    assert one == [points] * 5 * rounds
    assert three == [3 * points, 2 * points] * rounds
    assert all_of_them == [5 * points] * rounds
    for result in results.values():
        torch.testing.assert_close(result, results[0])
