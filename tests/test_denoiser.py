"""The shared denoiser, and its purifiers on normal data, whose score is known in closed form."""

import math

import pytest
import torch
from conftest import config_of, losses_of, random_images
from torch import nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.adp import ADP, LARGEST, noise_level
from purifiers.denoised_smoothing import DenoisedSmoothing
from purifiers.denoiser import Denoiser
from purifiers.diffpure import DiffPure
from purifiers.ebm import EBM
from purifiers.fitting.draws import Draws
from purifiers.gdmp import GDMP
from purifiers.networks.denoising_unet import DenoisingUNet
from purifiers.networks.noise_schedule import variances
from purifiers.scoreopt import ScoreOpt
from runners.evaluation.component import build
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from scripts.ship import composed

NOWHERE = WeightFile("nowhere.pt", "0" * 64)
MEAN, SPREAD = 0.2, 0.3  # mean and standard deviation of the normal data, in [-1, 1]


class Normal(nn.Module):
    """A denoiser that returns the expectation of the clean image if its values are normal and independent."""

    def forward(self, noisy, levels):
        variance = levels.to(noisy).view(-1, 1, 1, 1).square()
        return (SPREAD**2 * noisy + variance * MEAN) / (SPREAD**2 + variance)


def on(method, network: nn.Module, **settings):
    purifier = method(denoiser=Denoiser(weights=NOWHERE, network=network), **settings)
    return purifier.load_frozen(network.state_dict())


def test_the_score_is_that_of_the_normal_distribution():
    x = 2 * random_images(3) - 1
    levels = torch.tensor([0.1, 0.5, 2.0])
    expected = -(x - MEAN) / (SPREAD**2 + levels.square().view(-1, 1, 1, 1))
    torch.testing.assert_close(on(EBM, Normal()).score(x, levels), expected)


def test_a_perfect_denoiser_has_the_least_training_loss():
    """The expectation beats a shifted one, and both errors are known in closed form."""
    draws = torch.Generator().manual_seed(0)
    images = ((MEAN + SPREAD * torch.randn(64, 3, 16, 16, generator=draws)) / 2 + 0.5).clamp(0, 1)

    class Off(Normal):
        def forward(self, noisy, levels):
            return super().forward(noisy, levels) + 0.05

    losses = {
        network: Denoiser(weights=NOWHERE, network=network(), log_mean=math.log(SPREAD), log_std=1e-9)
        .objective(images, torch.Generator().manual_seed(1))
        .item()
        for network in (Normal, Off)
    }
    weight = (SPREAD**2 + 0.5**2) / (SPREAD * 0.5) ** 2
    assert losses[Normal] == pytest.approx(weight * SPREAD**2 / 2, rel=0.02)
    assert losses[Off] == pytest.approx(losses[Normal] + weight * 0.05**2, rel=0.01)


def test_training_lowers_the_objective():
    torch.manual_seed(0)
    p = on(DiffPure, DenoisingUNet(width=8))
    p.network.requires_grad_(True)
    images = nn.functional.interpolate(random_images(4, 4), size=(16, 16), mode="bilinear")
    losses = losses_of(p, images, steps=100, lr=4e-3)
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


@pytest.mark.parametrize("size", [(15, 18), (32, 32)], ids=str)
def test_the_network_takes_any_size(size):
    result = DenoisingUNet(width=8)(torch.zeros(2, 3, *size), torch.tensor([0.01, 80.0]))
    assert result.shape == (2, 3, *size)


def test_without_noise_the_network_gives_the_image_back():
    torch.manual_seed(0)
    x = 2 * random_images(2) - 1
    torch.testing.assert_close(DenoisingUNet(width=8)(x, torch.full((2,), 1e-6)), x, atol=1e-5, rtol=0)


def test_adps_step_is_the_share_of_the_way_to_the_score_that_vanishes():
    """At a fixed level s, the score of normal data times s is s (m - x) / v, where v = spread^2 + s^2.

    Over a unit step it falls by s / v, so a share `rate` of the way to 0 is a step of rate * v / s.
    """
    level = 0.4
    p = on(ADP, Normal(), sigma=0.0, steps=1, rate=0.05, stop=0.0)
    images = 0.3 + 0.4 * random_images(3)
    v = SPREAD**2 + level**2

    def direction(images):
        return (MEAN - (2 * images - 1)) * level / v

    p.direction = direction
    torch.testing.assert_close(
        p._step(images, direction(images)), torch.full((3, 1, 1, 1), 0.05 * v / (2 * level))
    )
    mode = MEAN / 2 + 0.5
    torch.testing.assert_close(p(images, seeds=[0, 1, 2]), images + 0.05 * (mode - images))


def test_where_the_score_does_not_fall_adps_step_is_the_largest():
    p, images = on(ADP, Normal()), random_images(2)
    for rise in (0.0, 1.0):
        p.direction = lambda images, rise=rise: 1 + rise * images
        inputs = images.clone().requires_grad_()
        step = p._step(inputs, p.direction(inputs))
        torch.testing.assert_close(step, torch.full((2, 1, 1, 1), LARGEST))
        assert torch.isfinite(torch.autograd.grad(step.sum(), inputs, allow_unused=True)[0]).all()


def test_adp_takes_its_noise_out_of_every_image(tmp_path):
    """Its noise of 0.25 is some 0.2 after clipping. In one step, the denoiser leaves an error of 0.06."""
    store = Store(tmp_path)
    p = load_or_train(config_of("purifier", "adp"), store).load(store)
    images = build(config_of("dataset", "digits-photos")).load("tuning").subset(6, seed=0).images
    error = (p(images, seeds=range(6)) - images).square().mean((1, 2, 3)).sqrt()
    assert error.max() < 0.1


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_adp_draws_at_random_only_where_it_adds_noise(sigma):
    p, images = on(ADP, Normal(), sigma=sigma, steps=2), random_images(1)
    other = p(images, seeds=[1])
    assert torch.equal(p(images, seeds=[0]), other) != p.stochastic


def test_adps_direction_is_the_noise_of_the_level_that_is_estimated():
    images = random_images(2)
    level = 2 * noise_level(images).view(-1, 1, 1, 1)
    expected = (MEAN - (2 * images - 1)) * level / (SPREAD**2 + level**2)
    torch.testing.assert_close(on(ADP, Normal()).direction(images), expected)


def test_the_estimated_noise_level_is_that_of_normal_noise():
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.05, 0.2])
    torch.testing.assert_close(noise_level(0.5 + sigma.view(-1, 1, 1, 1) * noise), sigma, rtol=0.03, atol=0)
    assert noise_level(torch.full((1, 3, 9, 9), 0.5)).item() == pytest.approx(0.01)


def test_an_image_that_adp_has_stopped_stays_as_it_is():
    images = random_images(2)
    still = on(ADP, Normal(), sigma=0.0, stop=LARGEST)
    assert torch.equal(still(images, seeds=[0, 1]), images)


def test_scoreopt_ends_at_the_mode_of_normal_data():
    images = 0.3 + 0.4 * random_images(2)
    p = on(ScoreOpt, Normal(), level=0.5, reach=0.1, steps=400, lr=0.005)
    result = p(images, seeds=[1, 2])
    assert (result - (MEAN / 2 + 0.5)).abs().mean() < 0.01 < (images - (MEAN / 2 + 0.5)).abs().mean()


def test_langevin_dynamics_has_its_known_mean_and_variance():
    """A linear score makes it an autoregression, in which x is normal with a known mean and variance."""
    steps, step, level = 60, 0.04, 0.05
    start = torch.full((1, 3, 64, 64), 0.5)
    samples = 2 * on(EBM, Normal(), steps=steps, step=step, level=level)(start, seeds=[7]) - 1
    factor = 1 - step**2 / 2 / (SPREAD**2 + level**2)
    mean = MEAN - factor**steps * MEAN
    variance = step**2 * (1 - factor ** (2 * steps)) / (1 - factor**2)
    assert mean + 3 * variance**0.5 < 1, "too many values are clipped"
    assert samples.mean().item() == pytest.approx(mean, abs=0.01)
    assert samples.var().item() == pytest.approx(variance, rel=0.05)


def test_denoised_smoothing_denoises_the_noisy_image_once():
    images = 0.4 + 0.2 * random_images(2)
    noise = Draws([5, 6], images.device).normal(images.shape[1:])
    expected = Normal()(2 * (images + 0.1 * noise) - 1, torch.full((2,), 0.2)) / 2 + 0.5
    p = on(DenoisedSmoothing, Normal(), sigma=0.1)
    torch.testing.assert_close(p(images, seeds=[5, 6]), expected)


@pytest.mark.parametrize("guidance", ["mse", "ssim"])
def test_guidance_of_no_weight_is_plain_gdmp(guidance):
    images, seeds = random_images(2), [1, 2]
    plain = on(GDMP, Normal(), until=5, rounds=2)(images, seeds=seeds)
    unmoved = on(GDMP, Normal(), until=5, rounds=2, guidance=guidance, strength=0.0)
    guided = on(GDMP, Normal(), until=5, rounds=2, guidance=guidance, strength=7e5)
    assert torch.equal(unmoved(images, seeds=seeds), plain)
    assert not torch.allclose(guided(images, seeds=seeds), plain, atol=1e-3)


def test_guidance_keeps_the_image_nearer_to_the_given_one():
    images, seeds = random_images(3), [1, 2, 3]
    apart = [
        (on(GDMP, Normal(), guidance=guidance)(images, seeds=seeds) - images).square().mean().item()
        for guidance in ("none", "mse")
    ]
    assert apart[1] < apart[0]


def test_guidance_is_that_of_the_authors_code_for_a_batch_of_100():
    """The code differentiates the mean squared error of the whole batch, with a strength of 60,000."""
    images, goal, time = 2 * random_images(100) - 1, 2 * random_images(100, seed=1) - 1, 20
    purifier, guides = on(GDMP, Normal(), guidance="mse", rounds=1), []
    purifier.noised = lambda *_: goal
    purifier.there_and_back = lambda x, draws, guide: guides.append(guide) or x
    purifier.restore(images / 2 + 0.5, seeds=range(100))
    inputs = images.clone().requires_grad_()
    (uphill,) = torch.autograd.grad(-nn.functional.mse_loss(inputs, goal), inputs)
    share = variances(1000)[1][time].item()
    scale = (1 - share) ** 0.5 / (8 * 2 / 255 / 3 / 60_000 * share**0.5)
    torch.testing.assert_close(guides[0](images, time), scale * uphill)


def test_one_round_of_gdmp_is_diffpure():
    images, seeds = random_images(2), [1, 2]
    gdmp = on(GDMP, Normal(), until=9, rounds=1)
    assert torch.equal(gdmp(images, seeds=seeds), on(DiffPure, Normal(), until=9)(images, seeds=seeds))


METHODS = [
    (ADP, {}),
    (DiffPure, {"until": 5}),
    (GDMP, {"until": 5, "guidance": "mse"}),
    (GDMP, {"until": 3, "rounds": 1, "guidance": "ssim"}),
    (ScoreOpt, {"steps": 4}),
    (EBM, {"steps": 5}),
    (DenoisedSmoothing, {}),
]


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=lambda item: getattr(item, "__name__", ""))
def test_neither_batch_nor_order_matters(method, settings):
    p, images = on(method, Normal(), **settings), random_images(4)
    together = p(images, seeds=range(4))
    mixed = p(images.flip(0), seeds=range(3, -1, -1)).flip(0)
    torch.testing.assert_close(mixed, together, atol=1e-6, rtol=0)
    torch.testing.assert_close(p(images[2:3], seeds=[2]), together[2:3], atol=1e-6, rtol=0)


IMPOSSIBLE = [
    (ADP, {"rate": 0.0}, "rate > 0"),
    (ScoreOpt, {"reach": 0.3}, "reach < level"),
    (EBM, {"step": 0.1}, "step <= level"),
    (DenoisedSmoothing, {"sigma": 0.0}, "more than 0"),
    (GDMP, {"guidance": "mean"}, "none, mse or ssim, got 'mean'"),
    (GDMP, {"rounds": 0}, "rounds >= 1"),
    (DiffPure, {"until": 1001}, "1 to 1000, got 1001"),
]


@pytest.mark.parametrize(("method", "settings", "message"), IMPOSSIBLE, ids=lambda item: str(item)[:30])
def test_impossible_settings_are_refused(method, settings, message):
    with pytest.raises(InputError, match=message):
        on(method, Normal(), **settings)


def test_all_purifiers_of_a_data_set_share_one_denoiser(tmp_path, monkeypatch):
    """One of them trains it, and the others find it in the store."""
    trained = []

    def fit(training, component, **others):
        trained.append(type(component).__name__)
        return component.network.state_dict()

    monkeypatch.setattr("purifiers.training.Training.fit", fit)
    store, hashes = Store(tmp_path), set()
    for name in ("diffpure", "adp", "gdmp", "scoreopt", "lm", "ebm", "denoised-smoothing"):
        config = composed("purifier", name)
        config["denoiser"]["weights"] |= {"steps": 3, "shipped": None}
        spec = load_or_train(config, store)
        hashes.add(spec.weights_sha256)
        assert spec.load(store).frozen
    assert trained == ["Denoiser"]
    assert len(hashes) == 1
