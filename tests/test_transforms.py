"""Known answers of wavelet denoising, pixel deflection, randomization and super-resolution."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_images
from skimage.restoration import denoise_wavelet
from torch import Tensor

from data.errors import InputError
from purifiers.fitting.draws import Draws
from purifiers.pixel_deflection import PixelDeflection
from purifiers.randomization import Randomization
from purifiers.wavelet import Wavelet, denoise

CPU = torch.device("cpu")


def ramp(n: int, height: int, width: int) -> Tensor:
    """Return images whose every pixel tells its place: channel 0 the row, 1 the column, 2 both."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([y, x, y * width + x]) / (height * width)).expand(n, -1, -1, -1)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Wavelet(sigma=-0.1), "sigma"),
    (lambda: Wavelet(sigma=10.2), "sigma"),
    (lambda: Wavelet(sigma=float("nan")), "sigma"),
    (lambda: PixelDeflection(deflections=0), "deflections"),
    (lambda: PixelDeflection(window=0), "window"),
    (lambda: PixelDeflection(window=2.5), "window"),
    (lambda: PixelDeflection(sigma=2), "sigma"),
    (lambda: Randomization(ratio=1), "ratio"),
    (lambda: Randomization(ratio=float("inf")), "ratio"),
    (lambda: Randomization(resize="cubic"), "nearest or bilinear"),
])  # fmt: skip
def test_bad_settings_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


# Wavelet denoising


@pytest.mark.parametrize("sigma", [0.01, 0.04, 0.2])
def test_wavelet_is_scikit_images(sigma):
    images = random_images(3, 32)
    ours = Wavelet(sigma=sigma)(images, seeds=[0, 1, 2])
    for image, result in zip(images, ours, strict=True):
        expected = denoise_wavelet(
            image.permute(1, 2, 0).double().numpy(), sigma=sigma, convert2ycbcr=True, channel_axis=-1
        )
        np.testing.assert_allclose(result.permute(1, 2, 0), expected.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("size", [28, 31])
def test_wavelet_takes_grey_images(size):
    images = random_images(2, size)[:, :1]
    ours = Wavelet(sigma=0.1)(images, seeds=[0, 1])
    expected = [denoise_wavelet(image.double().numpy(), sigma=0.1) for image in images[:, 0]]
    np.testing.assert_allclose(ours[:, 0], np.clip(expected, 0, 1), atol=1e-6)


def test_wavelet_takes_no_other_number_of_channels():
    with pytest.raises(InputError, match="1 or 3 channels, got 2"):
        denoise(random_images(1)[:, :2], 0.1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_wavelet_leaves_constant_images(value):
    for channels in (1, 3):
        images = torch.full((1, channels, 16, 16), value)
        torch.testing.assert_close(denoise(images, 0.04), images, atol=1e-6, rtol=0)


def test_wavelet_removes_noise():
    clean = ramp(4, 32, 32) * 0.8 + 0.1
    noisy = (clean + 0.04 * (random_images(4, 32) - 0.5) * math.sqrt(12)).clamp(0, 1)
    assert (denoise(noisy, 0.04) - clean).square().mean() < 0.5 * (noisy - clean).square().mean()


# Pixel deflection


@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 20)])
def test_deflection_moves_whole_pixels_from_within_the_window(window, height, width):
    images = ramp(8, height, width)
    p = PixelDeflection(deflections=30, window=window)
    moved = p.deflect(images, Draws(range(8), CPU))
    changed = (moved != images).any(1)
    assert changed.sum((1, 2)).max() <= 30
    assert changed.any((1, 2)).all()
    source = (moved[:, 2] * height * width).round().long()
    assert torch.equal(
        moved, torch.stack([images[0].flatten(1)[:, s.flatten()] for s in source]).view_as(moved)
    )
    dy = source // width - torch.arange(height).view(-1, 1)
    dx = source % width - torch.arange(width)
    assert max(dy.abs().max(), dx.abs().max()) <= window


def test_deflection_chooses_pixels_and_offsets_uniformly():
    """Each pixel has its share of 20,000 single deflections, and so has each offset away from the borders."""
    n, side, window = 20_000, 8, 1
    moved = PixelDeflection(deflections=1, window=window).deflect(ramp(n, side, side), Draws(range(n), CPU))
    source = (moved[:, 2] * side * side).round().long().flatten(1)
    image, place = (source != torch.arange(side * side)).nonzero(as_tuple=True)
    y, x = place // side, place % side
    inside = (y > 0) & (y < side - 1) & (x > 0) & (x < side - 1)
    expected = n / side**2 * 8 / 9  # one of nine neighbours is the pixel itself
    counts = torch.bincount(place[inside], minlength=side**2)
    assert ((counts[counts > 0] - expected).abs() < 5 * math.sqrt(expected)).all()
    assert (counts > 0).sum() == (side - 2) ** 2
    offsets = torch.bincount((source[image, place] - place + side + 1)[inside])
    expected = n * ((side - 2) / side) ** 2 / 9
    assert (offsets > 0).sum() == 8
    assert ((offsets[offsets > 0] - expected).abs() < 5 * math.sqrt(expected)).all()


def test_of_several_deflections_of_one_pixel_the_last_counts(monkeypatch):
    p, images = PixelDeflection(deflections=3, window=2), ramp(1, 1, 5)
    draws = iter([[0, 0, 0], [2, 2, 4], [0, 0, 0], [0, 3, 1]])  # y, x, source y, source x from its lowest
    monkeypatch.setattr(Draws, "below", lambda self, bound, shape: torch.tensor(next(draws)).view(1, 1, 3))
    moved = p.deflect(images, Draws([0], CPU))
    assert (moved[0, 2, 0] * 5).round().tolist() == [0, 1, 3, 3, 3]


@pytest.mark.parametrize(("deflections", "most"), [(1, 1), (9, 3), (10, 4)])
def test_per_channel_deflects_each_channel_on_its_own(deflections, most):
    images = ramp(50, 16, 16)
    p = PixelDeflection(deflections=deflections, per_channel=True)
    changed = p.deflect(images, Draws(range(50), CPU)) != images
    assert 1 <= changed[:, 2].sum((1, 2)).max() <= most
    assert (changed.any(1) & ~changed[:, 2]).any(), "the channels share their places"


def test_deflection_ends_in_denoising():
    images, seeds = random_images(3, 32), [5, 6, 7]
    p = PixelDeflection(deflections=20, sigma=0.1)
    assert torch.equal(p(images, seeds=seeds), denoise(p.deflect(images, Draws(seeds, CPU)), 0.1))
    bare = PixelDeflection(deflections=20, sigma=0)
    assert torch.equal(bare(images, seeds=seeds), p.deflect(images, Draws(seeds, CPU)))
    assert bare(images[:, :1], seeds=seeds).shape == (3, 1, 32, 32)


# Randomization


@pytest.mark.parametrize(("side", "padded"), [(32, 36), (224, 248), (299, 331)])
def test_randomization_pads_to_the_papers_side(side, padded):
    assert Randomization().canvas(torch.zeros(1, 1, side, side), [0]).shape == (1, 1, padded, padded)


@pytest.mark.parametrize("side", range(20, 60))
def test_randomization_pads_to_a_whole_ratio_whatever_its_rounding(side):
    canvas = Randomization(ratio=(side + 3) / side).canvas(torch.zeros(1, 1, side, side), [0])
    assert canvas.shape[2:] == (side + 3, side + 3)


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_randomization_draws_every_pattern_equally_often(resize):
    """The images are white on grey: the white is a square of a side in [10, 13), anywhere in 13 x 13."""
    n = 20_000
    canvas = Randomization(ratio=1.3, resize=resize).canvas(torch.ones(n, 1, 10, 10), range(n))[:, 0]
    assert canvas.shape == (n, 13, 13)
    white = canvas > 0.75
    torch.testing.assert_close(canvas, white * 0.5 + 0.5)
    sides = white.any(2).sum(1)
    assert torch.equal(sides, white.any(1).sum(1))
    assert torch.equal(white.sum((1, 2)), sides**2)
    for side in range(10, 13):
        corners = white[sides == side].flatten(1).int().argmax(1)
        places = (13 - side + 1) ** 2
        expected = n / 3 / places
        counts = torch.bincount(corners, minlength=169)
        assert (counts > 0).sum() == places
        assert ((counts[counts > 0] - expected).abs() < 5 * math.sqrt(expected)).all()


def test_randomization_keeps_the_content():
    """The canvas holds the image enlarged by torch's nearest; the result is near a smooth image."""
    images, seeds = ramp(6, 32, 32) * 0.8 + 0.1, list(range(6))
    for canvas in Randomization().canvas(images, seeds):
        inside = (canvas != 0.5).any(0)
        height, width = inside.any(1).sum().item(), inside.any(0).sum().item()
        expected = F.interpolate(images[:1], size=(height, width), mode="nearest")[0]
        assert torch.equal(canvas[:, inside].view_as(expected), expected)
    smooth = F.interpolate(random_images(6, 4), size=64, mode="bicubic", antialias=True).clamp(0, 1)
    out = Randomization(ratio=1.05)(smooth, seeds=seeds)
    assert (out - smooth)[:, :, 8:-8, 8:-8].abs().mean() < 0.1


def test_randomization_leaves_mid_grey():
    images = torch.full((4, 3, 20, 31), 0.5)
    for resize in ("nearest", "bilinear"):
        out = Randomization(resize=resize)(images, seeds=[1, 2, 3, 4])
        torch.testing.assert_close(out, images, atol=1e-6, rtol=0)


def test_randomizations_gradient_is_exact():
    """It is linear in the image, so the gradient times the image is the change from a black image."""
    p, image = Randomization(resize="bilinear"), random_images(1, 12).requires_grad_()
    weight = random_images(1, 12, seed=3)
    out = (p(image, seeds=[4]) * weight).sum()
    (gradient,) = torch.autograd.grad(out, image)
    change = out - (p(torch.zeros(1, 3, 12, 12), seeds=[4]) * weight).sum()
    torch.testing.assert_close((gradient * image).sum(), change, rtol=1e-4, atol=1e-4)
