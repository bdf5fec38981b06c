"""The RIDE family compared with plain loops over one image, and its switches."""

import pytest
import torch
from conftest import random_images
from torch import nn

from data.errors import InputError
from purifiers.networks.fcn import FCN
from purifiers.networks.unet import UNet
from purifiers.ride import RIDE, RIDETrace

SMALL = FCN(filters=[8, 8], dropout=[1])


def plain_fcn(network: FCN, shape, seed: int) -> nn.Sequential:
    """Return the same network built of ordinary modules, without dropout."""
    parameters = network.initialise(tuple(shape), torch.Generator().manual_seed(seed))
    layers: list[nn.Module] = []
    for i in range(1, len(network.filters) + 2):
        weight, bias = parameters[f"conv{i}.weight"], parameters[f"conv{i}.bias"]
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        conv.weight.data, conv.bias.data = weight, bias
        layers += [conv, nn.ReLU()]
    layers[-1] = nn.Sigmoid() if network.bounded else nn.Identity()
    return nn.Sequential(*layers).double()


def plain_ride(network, image, seed, *, iterations, checkpoints, alpha, noise=None) -> torch.Tensor:
    """Return the result of Algorithm 2 for one image without noise, or of I-DIP if a fixed input is given."""
    model, current = plain_fcn(network, image.shape, seed), image.unsqueeze(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)
    for _ in range(checkpoints):
        for _ in range(iterations):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(current if noise is None else noise), current).backward()
            optimiser.step()
        estimate = model(current if noise is None else noise).detach()
        current = alpha * current + (1 - alpha) * estimate
    return estimate[0]


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_ride_without_noise_is_algorithm_2(bounded, channels):
    network = FCN(filters=[8, 8], bounded=bounded)
    images, seeds = random_images(3)[:, :channels].double(), [4, 5, 6]
    trace = RIDETrace(network=network, iterations=7, sigma=0.0, noisy_target=False)
    results = RIDE(trace=trace, checkpoints=3).purify(images, seeds, None)
    for image, seed, result in zip(images, seeds, results, strict=True):
        expected = plain_ride(network, image, seed, iterations=7, checkpoints=3, alpha=0.9).clamp(0, 1)
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)


def test_idip_fits_fixed_noise_to_the_image():
    network, image, seed = FCN(filters=[8, 8]), random_images(1).double(), 3
    trace = RIDETrace(network=network, iterations=5, denoise=False)
    result = RIDE(trace=trace, checkpoints=2).purify(image, [seed], None)[0]
    generator = torch.Generator().manual_seed(seed)
    network.initialise(tuple(image.shape[1:]), generator)
    noise = torch.randn(1, *image.shape[1:], generator=generator).double()
    expected = plain_ride(network, image[0], seed, iterations=5, checkpoints=2, alpha=0.9, noise=noise)
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("network", [SMALL, UNet(filters=[8, 16])], ids=["fcn", "unet"])
def test_an_image_does_not_depend_on_its_batch(network):
    """The results are equal to the bit, with everything that is random."""
    trace = RIDETrace(network=network, iterations=6, batch=2, mask=0.8)
    images, seeds = random_images(11), list(range(11))
    together = RIDE(trace=trace, checkpoints=2)(images, seeds=seeds)
    alone = RIDE(trace=trace, checkpoints=2)(images[4:5], seeds=[4])
    flipped = RIDE(trace=trace, checkpoints=2)(images.flip(0), seeds=seeds[::-1])
    assert torch.equal(together[4:5], alone)
    assert torch.equal(together, flipped.flip(0))


def test_the_image_moves_by_equation_9_or_not_at_all():
    """With alpha 0 the second block fits the first estimate, with alpha 1 it fits the image."""
    image = random_images(1)
    iterates = {}
    for alpha in (0.0, 1.0):
        trace = RIDETrace(network=FCN(filters=[8]), iterations=300, sigma=0.01, alpha=alpha, lr=1e-2)
        trace.stream(image, [0], 601, lambda step, x, a=alpha: iterates.__setitem__((a, step), x.clone()))
    assert torch.equal(iterates[0.0, 300], iterates[1.0, 300])
    gap = {a: (iterates[a, 600] - iterates[a, 300]).square().mean().item() for a in (0.0, 1.0)}
    to_image = {a: (iterates[a, 600] - image).square().mean().item() for a in (0.0, 1.0)}
    assert gap[0.0] < to_image[0.0], "with alpha 0 it does not fit its own estimate"
    assert to_image[1.0] < to_image[0.0], "with alpha 1 it does not go on fitting the image"


def test_the_released_update_takes_the_estimate_where_it_differs_least():
    image, seen = random_images(1, 8), []
    settings = {"iterations": 1, "sigma": 0.0, "noisy_target": False, "lr": 1e-12}
    network = FCN(filters=[4])

    def moved(update: str) -> torch.Tensor:
        """Return the image after one update, as a network sees it that copies nothing and learns nothing."""
        trace = RIDETrace(network=network, update=update, **settings)
        current, given = [], FCN.__call__

        def spy(self, parameters, inputs, stack):
            current.append(stack.apart(inputs)[0, 0].detach().clone())
            return given(self, parameters, inputs, stack)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FCN, "__call__", spy)
            trace.stream(image, [0], 3, lambda step, x: seen.append(x))
        return current[-1]

    everywhere, chosen = moved("all"), moved("median")
    estimate = seen[1][0]
    torch.testing.assert_close(everywhere, 0.9 * image[0] + 0.1 * estimate)
    size = (estimate - image[0]).abs().sum(0)
    small = size < size.flatten().sort().values[(size.numel() - 1) // 2]
    torch.testing.assert_close(chosen, torch.where(small, estimate, everywhere))


def test_the_image_is_what_equation_9_makes_of_the_estimates():
    trace, images, seeds = RIDETrace(network=SMALL, iterations=4, alpha=0.75), random_images(2), [1, 2]
    first, second = (RIDE(trace=trace, checkpoints=t)(images, seeds=seeds) for t in (1, 2))
    expected = 0.75 * (0.75 * images + 0.25 * first) + 0.25 * second
    moved = RIDE(trace=trace, checkpoints=2, returns="image")(images, seeds=seeds)
    torch.testing.assert_close(moved, expected)


def test_shorter_runs_are_read_off_longer_ones():
    trace = RIDETrace(network=SMALL, iterations=4)
    images, seeds = random_images(2), [1, 2]
    both = [RIDE(trace=trace, checkpoints=t) for t in (1, 3)]
    for purifier, result in zip(both, trace.run(both, images, seeds, None), strict=True):
        assert torch.equal(result, purifier(images, seeds=seeds))


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 1.0, "denoise": False},
        {"denoise": False},
        {"alpha": 1.0},
        {"noisy_target": False},
        {"mask": 0.9},
        {"batch": 4},
        {"network": FCN(filters=[8, 8])},
        {"loss": "norm"},
        {"amsgrad": True, "lr": 1e-3},
    ],
    ids=str,
)
def test_every_switch_changes_the_result(changes):
    images, settings = random_images(1), {"network": SMALL, "iterations": 12}
    plain = RIDE(trace=RIDETrace(**settings), checkpoints=2)(images, seeds=[0])
    other = RIDE(trace=RIDETrace(**(settings | changes)), checkpoints=2)(images, seeds=[0])
    assert not torch.equal(plain, other)


def test_normalised_images_come_back():
    """The fit works in a normalised space, through a network without a sigmoid."""
    trace = RIDETrace(
        network=FCN(filters=[16], bounded=False),
        iterations=400, sigma=0.0, lr=1e-2, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4],
    )  # fmt: skip
    images = 0.2 + 0.6 * random_images(2)
    result = RIDE(trace=trace, checkpoints=1)(images, seeds=[0, 1])
    assert (result - images).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.1}, "alpha: out of range"),
        ({"mask": 1.0}, "mask: out of range"),
        ({"loss": "l1"}, "mse or norm"),
        ({"mean": [0.5]}, "mean: out of range"),
        ({"iterations": 0}, "iterations: out of range"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RIDETrace(network=SMALL, **settings)


def test_impossible_networks_are_refused():
    with pytest.raises(InputError, match="layers between 1 and 2"):
        FCN(filters=[8, 8], dropout=[3])
    with pytest.raises(InputError, match="at least 4 pixels, got 3x9"):
        RIDE(trace=RIDETrace(network=UNet()))(torch.rand(1, 3, 3, 9), seeds=[0])
    normalised = RIDE(trace=RIDETrace(network=SMALL, mean=[0.1] * 3, std=[1.0] * 3))
    with pytest.raises(InputError, match="one value for each of 1 channels"):
        normalised(torch.rand(1, 1, 8, 8), seeds=[0])
