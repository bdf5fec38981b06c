"""NRP's networks, its self-supervised perturbation and its training."""

import hashlib

import pytest
import torch
from conftest import config_of, losses_of, random_images
from torch import nn

from data.errors import InputError, MissingError
from data.weights import WeightFile
from purifiers.networks.nrp import RandomFeatures
from purifiers.nrp import NRP, relativistic_loss
from runners.evaluation.component import build
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from victims.cifar_resnet import CifarResNet
from victims.features import Features
from victims.victim import Victim

WEIGHTS = WeightFile(path="nowhere.pt", sha256="0" * 64)
EPS = 16 / 255


def small(**settings) -> NRP:
    torch.manual_seed(0)
    settings = {"features": RandomFeatures(filters=8), "steps": 5} | settings
    return NRP(weights=WEIGHTS, blocks=1, filters=8, growth=4, **settings)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(("network", "expected"), [("nrp", 16_550_275), ("resG", 1_702_211)])
def test_parameters_are_as_many_as_published(network, expected):
    """Table 2 of the supplement of NCIS prints 16.6 M and 1.70 M."""
    assert sum(p.numel() for p in NRP(weights=WEIGHTS, network=network).network.parameters()) == expected


def test_parameters_are_named_as_in_the_public_checkpoints():
    names = set(small(network="nrp").network.state_dict())
    assert {"conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "RRDB_trunk.0.RDB3.conv5.bias"} <= names
    assert {"trunk_conv.weight", "trunk_conv.bias"} <= names
    assert len(names) == 4 + 3 * 5 * 2
    names = set(small(network="resG").network.state_dict())
    assert names == {
        f"{layer}.{kind}"
        for layer in ("conv_first", "recon_trunk.0.conv1", "recon_trunk.0.conv2", "conv_last")
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("network", ["nrp", "resG"])
def test_output_is_on_256_levels(network):
    images = random_images(2)
    purifier = small(network=network)
    purifier.load_frozen(purifier.network.state_dict())
    out = purifier(images, seeds=[0, 1])
    assert (out * 255 - (out * 255).round()).abs().max() < 1e-4
    assert purifier.gradient == "bpda"
    exact = small(network=network, round_to_8_bits=False)
    exact.load_frozen(purifier.network.state_dict())
    assert (exact(images, seeds=[0, 1]) - out).abs().max() <= 0.5 / 255 + 1e-6
    assert exact.gradient == "exact"


def test_perturbation_keeps_its_budget_and_moves_features():
    images, purifier = random_images(4), small(steps=20)
    images[0], images[1] = 0, 1  # at the ends of the range
    before = images.clone()
    perturbed = purifier.perturb(images, generator())
    assert torch.equal(images, before)
    assert (perturbed - images).abs().max() <= EPS + 1e-6
    assert 0 <= perturbed.min() <= perturbed.max() <= 1
    assert not perturbed.requires_grad

    def moved(x):
        return (purifier.features(x) - purifier.features(images)).square().mean()

    noise = EPS * torch.randn(images.shape, generator=generator()).sign()
    assert moved(perturbed) > 1.5 * moved((images + noise).clamp(0, 1))


def test_perturbation_against_linear_features_is_as_large_as_can_be():
    """|w.(x' - x)| is largest if every pixel has moved by eps, all with w or all against it."""
    weight = torch.randn(48, generator=generator())

    class Linear(nn.Module):
        def forward(self, x):
            return x.flatten(1) @ weight

    images = 0.3 + 0.4 * random_images(3, 4)
    perturbed = small(features=Linear(), steps=40).perturb(images, generator())
    reached = ((perturbed - images).flatten(1) @ weight).abs()
    assert torch.allclose(reached, (EPS * weight.abs().sum()).expand(3), rtol=1e-4)


@pytest.mark.parametrize("network", ["nrp", "resG"])
@pytest.mark.parametrize("adversarial_weight", [0.0, 5e-3])
def test_objective_falls(network, adversarial_weight):
    purifier = small(network=network, adversarial_weight=adversarial_weight)
    losses = losses_of(purifier, random_images(8), steps=30, lr=1e-2)
    assert losses[-1] < 0.7 * losses[0]
    assert (purifier.critic is not None) == (adversarial_weight > 0)


def test_training_is_repeatable_and_leaves_the_global_generator_alone():
    images = random_images(2)
    state = torch.get_rng_state()
    losses = []
    for seed in (1, 2):
        purifier = small()
        torch.manual_seed(seed)
        draws = generator()
        losses.append([purifier.objective(images, draws).item() for _ in range(2)])
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(state)
    assert losses[0] == losses[1]


def test_network_loss_trains_the_network_only_and_the_critic_its_own():
    purifier = small(adversarial_weight=1.0, pixel_weight=0.0, feature_weight=0.0)
    images, draws = random_images(4), generator()
    purifier.objective(images, draws)
    before = [p.clone() for p in purifier.critic.parameters()]
    loss = purifier.objective(images, draws)
    stepped = [p.clone() for p in purifier.critic.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, stepped, strict=True))
    grads = [None if p.grad is None else p.grad.clone() for p in purifier.critic.parameters()]
    loss.backward()
    for parameter, grad in zip(purifier.critic.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in purifier.network.parameters())


def test_the_network_learns_to_look_clean_to_the_critic():
    purifier = small(adversarial_weight=1.0, pixel_weight=0.0, feature_weight=0.0, critic_lr=1e-9)
    images, draws = random_images(4), generator()
    perturbed = purifier.perturb(images, generator())
    purifier.objective(images, draws)  # draws the critic, which then hardly moves
    before = purifier.critic(purifier.network(perturbed)).mean().item()
    optimiser = torch.optim.Adam(purifier.network.parameters(), lr=1e-3)
    for _ in range(10):
        optimiser.zero_grad()
        purifier.objective(images, draws).backward()
        optimiser.step()
    assert purifier.critic(purifier.network(perturbed)).mean().item() > before + 1e-3


def test_the_critic_learns_to_tell_the_perturbed_from_the_clean():
    purifier = small(critic_lr=1e-3)
    images = random_images(8)
    fake = (images * 0.5).detach()
    draws = generator()
    for _ in range(40):
        purifier._train_critic(images, fake, draws)
    assert purifier.critic(images).mean() > purifier.critic(fake).mean()
    assert relativistic_loss(real=purifier.critic(images), fake=purifier.critic(fake)) < 0.6


def test_relativistic_loss_in_closed_form():
    zero = torch.zeros(3)
    assert relativistic_loss(real=zero, fake=zero).item() == pytest.approx(0.693147, abs=1e-6)
    assert relativistic_loss(real=zero + 30, fake=zero - 30) < 1e-6
    assert relativistic_loss(real=zero - 30, fake=zero + 30).item() == pytest.approx(60, abs=1e-4)


def test_training_needs_features():
    with pytest.raises(InputError, match="features"):
        small(features=None).objective(random_images(1), generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "other"}, "network"),
        ({"blocks": 0}, "blocks"),
        ({"eps": 0}, "eps"),
        ({"pixel_weight": -1}, "pixel_weight"),
        ({"pixel_weight": 0, "feature_weight": 0, "adversarial_weight": 0}, "positive"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        NRP(weights=WEIGHTS, **settings)


def test_features_of_a_classifier_are_those_of_its_layer(tmp_path):
    """The weights of the classifier are read only when features are asked for."""
    torch.manual_seed(0)
    network = CifarResNet(depth=8, width=4)
    path = tmp_path / "w.pt"
    victim = Victim(
        network=CifarResNet(depth=8, width=4),
        label_space="x",
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.3, 0.4],
        weights=WeightFile(str(path), "0" * 64),
    )
    features, images = Features(victim=victim, layer="layer2"), random_images(2)
    with pytest.raises(MissingError, match="do not exist"):
        features(images)
    torch.save(network.state_dict(), path)
    victim.weights = WeightFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    network.eval()
    normalised = (images - victim.mean) / victim.std
    expected = network.layer2(network.layer1(network.relu(network.bn1(network.conv1(normalised)))))
    torch.testing.assert_close(features(images), expected)
    with pytest.raises(InputError, match=r"features\.layer: expected a layer"):
        Features(victim=victim, layer="layer9")


def test_features_of_the_8_bit_mobilenet_have_stride_4():
    """This is the stride of VGG-16's conv3_3, which the authors take; images may have any size."""
    purifier = build(config_of("purifier", "nrp-resg", "features@purifier.features=mobilenet_v1"))
    purifier.features.ready = True  # its structure alone: no weights are needed
    assert purifier.features(random_images(2, size=40)).shape == (2, 128, 10, 10)


@pytest.mark.parametrize(("name", "blocks"), [("nrp-released", 23), ("nrp-resg-released", 23)])
def test_released_checkpoints_fit_by_names_and_shapes(name, blocks, tmp_path):
    config = config_of("purifier", name)
    purifier = build(config)
    released = {f"{layer}.{kind}": size for layer, *sizes in _released(name, blocks)
                for kind, size in zip(("weight", "bias"), sizes, strict=True)}  # fmt: skip
    assert {n: tuple(v.shape) for n, v in purifier.network.state_dict().items()} == released
    with pytest.raises(MissingError, match=r"\.pth do not exist"):
        load_or_train(
            config | {"weights": config["weights"] | {"path": str(tmp_path / "NRP.pth")}}, Store(tmp_path)
        )


def _released(name: str, blocks: int):
    """Yield the layers of the public networks, with the shapes of weight and bias."""
    yield "conv_first", (64, 3, 3, 3), (64,)
    for i in range(blocks):
        if name == "nrp-resg-released":
            for conv in ("conv1", "conv2"):
                yield f"recon_trunk.{i}.{conv}", (64, 64, 3, 3), (64,)
            continue
        for dense in ("RDB1", "RDB2", "RDB3"):
            for c in range(1, 6):
                outputs = 32 if c < 5 else 64
                yield f"RRDB_trunk.{i}.{dense}.conv{c}", (outputs, 64 + 32 * (c - 1), 3, 3), (outputs,)
    yield ("conv_last" if name == "nrp-resg-released" else "trunk_conv"), (3, 64, 3, 3), (3,)
