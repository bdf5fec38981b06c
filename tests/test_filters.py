"""The classical purifiers compared with the libraries that define them."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from conftest import random_images
from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle
from skimage.transform import resize
from torch import nn

from data.errors import InputError
from purifiers.feature_squeezing import FeatureSqueezing
from purifiers.fitting.draws import Draws
from purifiers.mean import Mean
from purifiers.median import Median
from purifiers.tvm import TVM, Bregman, Chambolle, inpaint
from purifiers.tvm_art import TVMArt
from runners.evaluation.metrics import psnr

SEEDS = [0, 1, 2]


def smooth_images(n: int = 3, size: int = 24) -> torch.Tensor:
    coarse = random_images(n, 6)
    clean = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return (clean + 0.05 * noise).clamp(0, 1)


@pytest.mark.parametrize("kernel", [3, 5, 11])
def test_median_is_scipys(kernel):
    images = random_images(3, 17)
    expected = scipy.ndimage.median_filter(images.numpy(), size=(1, 1, kernel, kernel), mode="constant")
    np.testing.assert_array_equal(Median(kernel=kernel)(images, seeds=SEEDS).numpy(), expected)


@pytest.mark.parametrize("kernel", [3, 5])
def test_mean_is_scipys(kernel):
    images = random_images(3, 17)
    expected = scipy.ndimage.uniform_filter(images.numpy(), size=(1, 1, kernel, kernel), mode="mirror")
    np.testing.assert_allclose(Mean(kernel=kernel)(images, seeds=SEEDS).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_feature_squeezing_has_its_levels(bits):
    images = random_images(3, 32)
    out = FeatureSqueezing(bits=bits)(images, seeds=SEEDS)
    assert len(out.unique()) <= 2**bits
    assert (out - images).abs().max() <= 0.5 / (2**bits - 1) + 1e-6
    assert torch.equal(FeatureSqueezing(bits=bits)(out, seeds=SEEDS), out)


@pytest.mark.parametrize(
    ("purifier", "library"),
    [
        (Bregman(weight=5.0), lambda x: denoise_tv_bregman(x, weight=5.0, channel_axis=-1)),
        (Chambolle(weight=0.2), lambda x: denoise_tv_chambolle(x, weight=0.2, channel_axis=-1)),
    ],
    ids=["bregman", "chambolle"],
)
def test_total_variation_is_scikit_images(purifier, library):
    images = smooth_images()
    expected = [library(x.permute(1, 2, 0).double().numpy()) for x in images]
    out = purifier(images, seeds=SEEDS).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(out, np.clip(np.stack(expected), 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("purifier", "library"), [(Bregman(), denoise_tv_bregman), (Chambolle(), denoise_tv_chambolle)]
)
def test_total_variation_takes_grey_images(purifier, library):
    images = smooth_images()[:, :1]
    settings = {"weight": purifier.weight, "max_num_iter": purifier.iterations, "eps": purifier.eps}
    expected = np.stack([library(image[0].double().numpy(), **settings) for image in images])
    out = purifier(images, seeds=SEEDS)
    np.testing.assert_allclose(out[:, 0].numpy(), np.clip(expected, 0, 1), atol=1e-6)


STD = [0.229, 0.224, 0.225]


def test_rides_weights_are_in_units_of_normalised_images():
    """The paper's Chambolle of 0.25 scores like its median of kernel 3; on [0, 1] it blurs far more."""
    photograph = torch.from_numpy(resize(skimage.data.astronaut(), (224, 224), anti_aliasing=True))
    photograph = photograph.permute(2, 0, 1)[None].float()

    def fidelity(purifier) -> float:
        return psnr(purifier(photograph, seeds=[0]), photograph).item()

    median = fidelity(Median(kernel=3))
    assert abs(fidelity(Chambolle(weight=0.25, std=STD)) - median) < 2
    assert fidelity(Chambolle(weight=0.25)) < median - 5


@pytest.mark.parametrize(
    ("normalised", "same"),
    [
        (
            Bregman(weight=1.5, iterations=2000, eps=1e-9, std=[0.25] * 3),
            Bregman(weight=6.0, iterations=2000, eps=1e-9),
        ),
        (Chambolle(weight=0.4, std=[0.25] * 3), Chambolle(weight=0.1)),
    ],
    ids=["bregman", "chambolle"],
)
def test_a_weight_in_normalised_units_is_a_multiple_of_one_in_0_to_1(normalised, same):
    images = smooth_images()
    torch.testing.assert_close(normalised(images, seeds=SEEDS), same(images, seeds=SEEDS), atol=2e-3, rtol=0)


def energy(u: torch.Tensor, images: torch.Tensor, kept: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the energy that TVM minimises, one number per image."""
    down = torch.diff(u, dim=2, append=u[:, :, -1:]).square().sum(1)
    right = torch.diff(u, dim=3, append=u[:, :, :, -1:]).square().sum(1)
    variation = (down + right).sqrt().flatten(1).sum(1)
    return variation + weight / 2 * (kept * (u - images).square()).flatten(1).sum(1)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_tvm_finds_the_minimum(drop):
    """No other image has less energy: neither neighbours of the result nor scikit-image's answer."""
    images, weight = smooth_images().double(), 10.0
    kept = torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) >= drop
    result = inpaint(images, kept, weight=weight, iterations=300, sweeps=10)
    least = energy(result, images, kept, weight)
    generator = torch.Generator().manual_seed(3)
    for size in (1e-3, 1e-2):
        for _ in range(20):
            step = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            other = nn.functional.avg_pool2d(step, 3, 1, 1) * size
            assert (energy(result + other, images, kept, weight) >= least - 1e-6).all()
    if drop == 0:
        theirs = [
            denoise_tv_bregman(x.permute(1, 2, 0).numpy(), weight=weight, eps=1e-6, max_num_iter=1000)
            for x in images
        ]
        theirs = torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2)
        assert (least <= energy(theirs, images, kept, weight) + 1e-3).all()


def test_arts_tvm_lowers_what_it_minimises_and_leaves_numpys_numbers_alone():
    images = random_images(2)

    def objective(image):  # with all values kept, so that nothing is random
        away = (image - images).flatten(2).norm(dim=2)
        rows, columns = torch.diff(image, dim=2).norm(dim=3), torch.diff(image, dim=3).norm(dim=2)
        return away + 0.5 * (rows.sum(2) + columns.sum(2))

    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    smooth = TVMArt(kept=1.0)(images, seeds=[0, 1])
    assert (np.random.get_state()[1] == before).all()
    assert (objective(smooth) < 0.6 * objective(images)).all()
    large = 2**40  # seeds have 63 bits: all of them count
    results = [TVMArt()(images[:1], seeds=[seed]) for seed in (1, 1 + large)]
    assert not torch.equal(*results)


def test_tvm_restores_what_is_dropped():
    """The error is less than a third of the error of the image's mean."""
    images = nn.functional.interpolate(random_images(3, 6), size=(24, 24), mode="bilinear")
    dropped = ~Draws(SEEDS, images.device).chosen(0.5, images.shape[1:])
    assert 0.4 < dropped.double().mean() < 0.6
    error = (TVM(drop=0.5)(images, seeds=SEEDS) - images)[dropped].abs().mean()
    assert error < (images - images.mean((2, 3), keepdim=True))[dropped].abs().mean() / 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Median(kernel=4), "odd number, got 4"),
        (lambda: FeatureSqueezing(bits=9), "1 to 8, got 9"),
        (lambda: TVM(drop=1.0), "below 1, got 1.0"),
        (lambda: Bregman(weight=0.0), "above 0, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
