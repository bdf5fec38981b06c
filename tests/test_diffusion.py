"""The chain of a diffusion model with a denoiser that knows the answer."""

import pytest
import torch
from conftest import random_images
from torch import nn

from data.weights import WeightFile
from purifiers.denoiser import Denoiser
from purifiers.diffpure import DiffPure
from purifiers.networks.noise_schedule import variances

NOWHERE = WeightFile("nowhere.pt", "0" * 64)


class Oracle(nn.Module):
    """A denoiser that knows the clean images, and records the levels at which it is asked."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__()
        self.clean, self.asked = 2 * clean - 1, []

    def forward(self, noisy: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        self.asked.append(levels)
        return self.clean


class Unmoved(nn.Module):
    """A denoiser that takes whatever it is given for the clean image."""

    def forward(self, noisy: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return noisy


def purifier(network: nn.Module, **settings) -> DiffPure:
    p = DiffPure(denoiser=Denoiser(weights=NOWHERE, network=network), **settings)
    return p.load_frozen(network.state_dict())


@pytest.mark.parametrize("until", [1, 20])
def test_a_perfect_model_gives_the_clean_image_whatever_came(until):
    clean, attacked = random_images(3), random_images(3, seed=5)
    oracle = Oracle(clean)
    torch.testing.assert_close(
        purifier(oracle, until=until)(attacked, seeds=[1, 2, 3]), clean, atol=1e-3, rtol=0
    )
    signal = variances(1000)[1][:until].flip(0)
    expected = ((1 - signal) / signal).sqrt().float().unsqueeze(1).expand(-1, 3)
    torch.testing.assert_close(torch.stack(oracle.asked), expected)


def test_a_model_that_sees_no_noise_keeps_what_the_forward_process_left():
    images = 0.3 + 0.4 * random_images(4)
    few, many = (purifier(Unmoved(), until=u)(images, seeds=range(4)) for u in (1, 300))
    assert (few - images).abs().mean() < 0.02
    assert (many - images).abs().mean() > 5 * (few - images).abs().mean()


def test_the_forward_process_has_the_models_variances():
    """After all 1000 times of Ho et al. almost nothing of the image is left."""
    signal = variances(1000)[1]
    assert signal[0] == pytest.approx(1 - 1e-4)
    assert signal[-1] == pytest.approx(4.04e-5, rel=0.01)


def test_images_are_noised_to_the_share_that_is_left():
    p, image = purifier(Unmoved(), until=100), torch.full((1, 3, 64, 64), 0.5)

    class Draws:
        def normal(self, shape):
            return torch.ones(1, *shape)

    share = variances(1000)[1][99].item()
    expected = torch.full_like(image, share**0.5 * 0.5 + (1 - share) ** 0.5)
    torch.testing.assert_close(p.noised(image, 99, Draws()), expected)
