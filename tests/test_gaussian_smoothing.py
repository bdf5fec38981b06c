"""Gaussian smoothing compared with SciPy's, and its borders."""

import numpy as np
import pytest
import torch
from conftest import random_images
from scipy.ndimage import correlate

from data.errors import InputError
from purifiers.gaussian_smoothing import GaussianSmoothing, gaussian, smooth


@pytest.mark.parametrize("size", [3, 5, 11])
def test_kernel_is_the_papers(size):
    kernel = gaussian(size, name="kernel").double()
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(kernel, kernel.flip(0))
    sigma = (size - 1) / 6
    assert (kernel[size // 2 + 1] / kernel[size // 2]).item() == pytest.approx(
        np.exp(-0.5 / sigma**2), abs=1e-6
    )


@pytest.mark.parametrize("size", [5, 11])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 13, 7)], ids=str)
def test_smooth_is_scipys_correlate(size, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    kernel = gaussian(size, name="kernel")
    plane = torch.outer(kernel, kernel).double().numpy()
    # SciPy's "mirror" is PyTorch's "reflect": the outermost pixel is not repeated.
    expected = [[correlate(c.double().numpy(), plane, mode="mirror") for c in image] for image in images]
    np.testing.assert_allclose(smooth(images, kernel).numpy(), np.array(expected), atol=1e-6)


def test_it_is_applied_as_often_as_said():
    images, kernel = random_images(2), gaussian(5, name="kernel")
    expected = smooth(smooth(smooth(images, kernel), kernel), kernel)
    assert torch.equal(GaussianSmoothing(iterations=3)(images, seeds=[0, 1]), expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_image_stays(value):
    out = GaussianSmoothing(kernel=11, iterations=50)(torch.full((1, 3, 9, 9), value), seeds=[0])
    assert (out - value).abs().max() < 1e-5


def test_gradient_is_exact():
    images = random_images(1, 8).requires_grad_()
    GaussianSmoothing()(images, seeds=[0])[0, 0, 4, 4].backward()
    assert images.grad[0, 0].sum().item() == pytest.approx(1, abs=1e-5)
    assert images.grad[0, 1:].abs().max() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kernel": 4}, "kernel"), ({"kernel": 1}, "kernel"), ({"iterations": 0}, "iterations")],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        GaussianSmoothing(**settings)


def test_images_too_small_to_reflect_are_refused():
    with pytest.raises(InputError, match="at least 6 pixels"):
        GaussianSmoothing(kernel=11)(random_images(1, 5), seeds=[0])
