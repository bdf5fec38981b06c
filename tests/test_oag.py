"""OAG compared with a plain loop over one image, and the purpose of its parts."""

import pytest
import torch
from conftest import random_images
from torch import nn

from data.errors import InputError
from purifiers.fitting.draws import Draws
from purifiers.oag import OAG, Autoencoder, Generator, OAGTrace
from purifiers.ride import RIDE, RIDETrace


class Plain(nn.Module):
    """The generator built of ordinary modules, for one image."""

    def __init__(self, network: Generator, shape, seed: int) -> None:
        super().__init__()
        drawn = network.initialise(tuple(shape), torch.Generator().manual_seed(seed))
        self.network = network
        self.conv = nn.Conv2d(shape[0], network.filters, network.kernel, network.stride, network.kernel // 2)
        self.conv.weight.data, self.conv.bias.data = drawn["conv.weight"], drawn["conv.bias"]
        self.full = nn.Linear(drawn["full.weight"].numel(), 1)
        self.full.weight.data, self.full.bias.data = drawn["full.weight"].view(1, -1), drawn["full.bias"]

    def forward(self, x):
        x = self.conv(x)
        if self.network.activation == "middle":
            return self.full(x.relu().flatten(1))
        return nn.functional.leaky_relu(self.full(x.flatten(1)), 0.2)


def plain_oag(trace: OAGTrace, image: torch.Tensor, seed: int, network_steps: int) -> torch.Tensor:
    """Return the result of Algorithm 1, written down line by line."""
    reference = (image.unsqueeze(0) - 0.5) * trace.scale
    model, draws = Plain(trace.network, image.shape, seed).double(), Draws([seed], torch.device("cpu"))
    sample = torch.zeros_like(reference)
    for _ in range(network_steps):
        for _ in range(trace.image_steps):
            sample.requires_grad_()
            slope = torch.autograd.grad(model(sample).sum(), sample)[0]
            noise = draws.normal((1, *image.shape))[0].double()
            sample = (sample - trace.noise**2 / 2 * (sample - slope) + trace.noise * noise).detach()
        up = torch.autograd.grad(model(reference).sum(), list(model.parameters()))
        down = torch.autograd.grad(model(sample).sum(), list(model.parameters()))
        with torch.no_grad():
            for p, a, b in zip(model.parameters(), up, down, strict=True):
                p += trace.lr * (a - b)
    return (sample[0] / trace.scale + 0.5).clamp(0, 1)


@pytest.mark.parametrize("activation", ["middle", "last"])
@pytest.mark.parametrize("size", [(16, 16), (13, 18)], ids=str)
def test_oag_is_algorithm_1(activation, size):
    network = Generator(kernel=5, filters=6, stride=3, activation=activation)
    trace = OAGTrace(network=network, image_steps=3, lr=1e-4)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = OAG(trace=trace, network_steps=4).purify(images, [7, 8], None)
    for image, seed, result in zip(images, [7, 8], results, strict=True):
        torch.testing.assert_close(result, plain_oag(trace, image, seed, 4), atol=1e-9, rtol=0)


@pytest.fixture
def purifiers():
    trace = OAGTrace(network=Generator(kernel=5, filters=8), image_steps=4, lr=3e-5, noise=0.1)
    network = Autoencoder(kernel=5, filters=8)
    once = RIDETrace(network=network, iterations=8, sigma=0.0, alpha=1.0, noisy_target=False)
    return OAG(trace=trace, network_steps=5), RIDE(trace=once, checkpoints=1)


def test_an_image_does_not_depend_on_its_batch(purifiers):
    images, seeds = random_images(11), list(range(11))
    for purifier in purifiers:
        together = purifier(images, seeds=seeds)
        flipped = purifier(images.flip(0), seeds=seeds[::-1]).flip(0)
        assert torch.equal(together[4:5], purifier(images[4:5], seeds=[4]))
        assert torch.equal(together, flipped)


def test_the_autoencoder_learns_its_image():
    images = nn.functional.interpolate(random_images(2, 4), size=(17, 16), mode="bilinear")
    network = Autoencoder(kernel=7, filters=32, stride=2)
    once = RIDETrace(network=network, iterations=300, sigma=0.0, noisy_target=False, lr=1e-2)
    result = RIDE(trace=once, checkpoints=1)(images, seeds=[0, 1])
    assert (result - images).square().mean() < 0.2 * images.var()


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="odd size, got 4"):
        Generator(kernel=4)
    with pytest.raises(InputError, match="middle or last"):
        Generator(activation="first")
