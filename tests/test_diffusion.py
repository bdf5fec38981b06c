"""Diffusion purification against a network that knows the answer."""

import pytest
import torch
from conftest import losses_of, random_images
from purifiers.networks.diffusion_unet import DiffusionUNet
from torch import nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.diffusion import Diffusion

NOWHERE = WeightFile("nowhere.pt", "0" * 64)


class Oracle(nn.Module):
    """Knows the clean images, and so the noise in any noisy version of them."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__()
        self.clean, self.kept, self.asked = 2 * clean - 1, None, []

    def forward(self, noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        self.asked.append(times.tolist())
        share = self.kept[times].view(-1, 1, 1, 1).to(noisy)
        return (noisy - share.sqrt() * self.clean) / (1 - share).sqrt()


def purifier(network: nn.Module, **settings) -> Diffusion:
    p = Diffusion(weights=NOWHERE, network=network, **settings)
    return p.freeze(p.network.state_dict())


@pytest.mark.parametrize("until", [1, 20])
def test_a_perfect_model_gives_the_clean_image_whatever_came(until):
    clean, attacked = random_images(3), random_images(3, seed=5)
    oracle = Oracle(clean)
    p = purifier(oracle, until=until)
    oracle.kept = p.kept
    torch.testing.assert_close(p(attacked, seeds=[1, 2, 3]), clean, atol=1e-3, rtol=0)
    assert oracle.asked == [[time] * 3 for time in reversed(range(until))]


def test_a_model_that_sees_no_noise_keeps_what_the_forward_process_left():
    class Silent(nn.Module):
        def forward(self, noisy, times):
            return torch.zeros_like(noisy)

    images = 0.3 + 0.4 * random_images(4)
    few, many = (purifier(Silent(), until=u)(images, seeds=range(4)) for u in (1, 300))
    assert (few - images).abs().mean() < 0.02
    assert (many - images).abs().mean() > 5 * (few - images).abs().mean()


def test_the_forward_process_has_the_models_variances():
    """Ho et al.: after all 1000 times next to nothing of the image is left."""
    p = Diffusion(weights=NOWHERE, network=DiffusionUNet(width=8))
    assert p.kept[0] == pytest.approx(1 - 1e-4)
    assert p.kept[-1] == pytest.approx(4.04e-5, rel=0.01)


def test_an_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    p = purifier(DiffusionUNet(width=8), until=10)
    images = random_images(5)
    together = p(images, seeds=range(5))
    torch.testing.assert_close(together[3:4], p(images[3:4], seeds=[3]), atol=2e-6, rtol=0)


def test_training_lowers_the_objective():
    torch.manual_seed(0)
    p = Diffusion(weights=NOWHERE, network=DiffusionUNet(width=8))
    images = nn.functional.interpolate(random_images(8, 4), size=(16, 16), mode="bilinear")
    losses = losses_of(p, images, steps=120, lr=2e-3)
    assert sum(losses[-20:]) < sum(losses[:20]) / 2


@pytest.mark.parametrize("size", [(15, 18), (32, 32)], ids=str)
def test_the_network_takes_any_size(size):
    assert DiffusionUNet(width=8)(torch.zeros(2, 3, *size), torch.tensor([0, 999])).shape == (2, 3, *size)


def test_impossible_times_are_refused():
    with pytest.raises(InputError, match="1 to 1000, got 1001"):
        Diffusion(weights=NOWHERE, network=DiffusionUNet(width=8), until=1001)
