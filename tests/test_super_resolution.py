"""Super-resolution as a defense, and its networks, against known answers."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import random_images
from omegaconf import OmegaConf
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.jpeg import JPEG
from purifiers.networks.edsr import EDSR, MEAN
from purifiers.networks.imdn import IMDN
from purifiers.super_resolution import SuperResolution
from purifiers.wavelet import denoise
from runners.places import CONFIGS

# Super-resolution


def saved(network: nn.Module, folder: Path, change=lambda state: state) -> WeightFile:
    path = folder / "network.pt"
    torch.save(change(network.state_dict()), path)
    return WeightFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


class Nearest(nn.Module):
    """A network that repeats each pixel four times, with values beyond [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images, scale_factor=2, mode="nearest") * 1.5 - 0.2


def test_super_resolution_denoises_enlarges_clips_and_shrinks(tmp_path):
    images = random_images(2, 20)
    p = SuperResolution(network=Nearest(), weights=saved(Nearest(), tmp_path), sigma=0.1)
    p.load_frozen(p.weights.load())
    large = Nearest()(denoise(images, 0.1)).clamp(0, 1)
    expected = F.interpolate(large, size=(20, 20), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(p(images, seeds=[0, 1]), expected)
    unshrunk = SuperResolution(network=Nearest(), weights=p.weights, sigma=0.1, shrink=False)
    assert torch.equal(unshrunk.load_frozen(p.weights.load())(images, seeds=[0, 1]), large)
    stored = SuperResolution(network=Nearest(), weights=p.weights, sigma=0.1, shrink=False, quality=95)
    as_jpeg = JPEG(quality=95)(denoise(images, 0.1), seeds=[0, 1])
    expected = Nearest()(as_jpeg).clamp(0, 1)
    assert torch.equal(stored.load_frozen(p.weights.load())(images, seeds=[0, 1]), expected)
    with pytest.raises(InputError, match="channels of its network, 3, got 1"):
        p(images[:, :1], seeds=[0, 1])


@pytest.mark.parametrize("kind", [EDSR, IMDN])
@pytest.mark.parametrize("change", [
    lambda state: dict(list(state.items())[:-1]),
    lambda state: state | {"more": torch.zeros(1)},
    lambda state: {name: value[:1] for name, value in state.items()},
], ids=["missing", "unknown", "shape"])  # fmt: skip
def test_other_weights_are_refused(kind, change, tmp_path):
    p = SuperResolution(network=kind(blocks=2), weights=saved(kind(blocks=2), tmp_path, change))
    with pytest.raises(InputError, match="SuperResolution weights do not fit its network"):
        p.load_frozen(p.weights.load())


@pytest.mark.parametrize("kind", [EDSR, IMDN])
def test_weights_load_with_and_without_the_prefix_of_data_parallel(kind, tmp_path):
    network = kind(blocks=2)
    for prefix in ("", "module."):
        weights = saved(
            network, tmp_path, lambda state, prefix=prefix: {prefix + n: v for n, v in state.items()}
        )
        p = SuperResolution(network=kind(blocks=2), weights=weights).load_frozen(weights.load())
        images = random_images(1)
        with torch.no_grad():
            assert torch.equal(p.network(images), network(images))
        assert p.network(images).shape == (1, 3, 32, 32)


def test_imdn_takes_a_single_pixel():
    """The contrast is the image's own standard deviation, which is 0 there, and no estimate from a sample."""
    with torch.no_grad():
        assert torch.isfinite(IMDN(blocks=1)(torch.full((1, 3, 1, 1), 0.5))).all()


def test_edsr_has_the_names_of_the_public_checkpoint():
    layers = ["sub_mean", "add_mean", "head.0", "body.16", "tail.0.0", "tail.1"]
    layers += [f"body.{i}.body.{j}" for i in range(16) for j in (0, 2)]
    state = EDSR().state_dict()
    assert set(state) == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert state["tail.0.0.weight"].shape == (256, 64, 3, 3)
    assert sum(v.numel() for v in state.values()) == 1_369_859 + 24  # the paper's 1.37 M, and the mean shifts


def test_edsr_adds_the_mean_colour_it_took_away():
    network = EDSR(blocks=1)
    network_inputs = []
    network.head.register_forward_pre_hook(lambda module, inputs: network_inputs.append(inputs[0]))
    with torch.no_grad():
        network.tail[1].weight.zero_()
        network.tail[1].bias.fill_(25.5)
        mean = torch.tensor(MEAN).view(1, 3, 1, 1)
        out = network(mean.expand(1, 3, 4, 4))
    torch.testing.assert_close(out, (mean + 0.1).expand(1, 3, 8, 8))
    torch.testing.assert_close(network_inputs[0], torch.zeros(1, 3, 4, 4), atol=1e-4, rtol=0)


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs CIFAR-10 and IMDN's weights in DATA_DIR")
def test_imdn_beats_bicubic_enlargement():
    """It gains 3 dB, as was measured when its weights were chosen (29.1 against 26.3 dB)."""
    from data.cifar10 import Cifar10

    path = Path(os.environ["DATA_DIR"]) / "weights" / "IMDN_x2.pth"
    if not path.exists():
        pytest.skip("no IMDN weights in DATA_DIR")
    sha256 = OmegaConf.load(CONFIGS / "purifier" / "sr-imdn.yaml").weights.sha256
    weights = WeightFile(str(path), sha256)
    network = SuperResolution(network=IMDN(), weights=weights).load_frozen(weights.load()).network
    images = Cifar10(root=os.environ["DATA_DIR"]).load("evaluation").subset(100, seed=0).images
    small = F.interpolate(images, size=16, mode="bicubic", antialias=True).clamp(0, 1)
    bicubic = F.interpolate(small, size=32, mode="bicubic")

    def psnr(x: Tensor) -> float:
        return (-10 * (x.clamp(0, 1) - images).square().flatten(1).mean(1).log10()).mean().item()

    assert psnr(bicubic) == pytest.approx(26.3, abs=0.2)
    assert psnr(network(small)) == pytest.approx(29.3, abs=0.2)
