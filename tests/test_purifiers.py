"""Every purifier of configs/purifier keeps the contract, and some give known answers."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import composed, linear_victim, random_images
from omegaconf import OmegaConf
from PIL import Image

from data.errors import InputError, MissingError
from data.similarity import ssim
from data.weights import WeightFile
from purifiers.contract.checks import STEPS, check
from purifiers.ddip import DDIP
from purifiers.dip import DIP
from purifiers.dipdefend import DIPDefend
from purifiers.fitting.trace import TracePurifier
from purifiers.identity import Identity
from purifiers.jpeg import JPEG
from purifiers.learned import Learned
from purifiers.purifier import Purifier, PurifierError, purify_together
from purifiers.surrogate_victim import SurrogateVictim
from runners.evaluation.component import build, to_plain_dict
from runners.places import CONFIGS

NAMES = sorted(p.stem for p in (CONFIGS / "purifier").glob("*.yaml"))


def purifier(name: str) -> Purifier:
    config = copy.deepcopy(composed(f"purifier={name}"))
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    method = config.purifier.get("purifier", config.purifier)  # the purifier inside, if there is one
    if "steps" in method:
        method.steps = min(method.steps, STEPS)
    if "warmup" in method:
        method.update(warmup=2, maps=STEPS, similarity=-1.0)
    if "checkpoints" in method:
        method.update(checkpoints=min(method.checkpoints, 2))
        method.trace.iterations = STEPS // 6
    if "network_steps" in method:
        method.network_steps = 3
    if "filters" in method:
        method.filters = 8
    if "denoiser" in method:
        method.denoiser.network.width = 8
    if "until" in method:
        method.until = 3
    torch.manual_seed(0)  # of untrained networks
    try:
        built = build(to_plain_dict(config.purifier))
        if isinstance(built, Learned | SurrogateVictim):  # the contract holds for untrained networks too
            trained = isinstance(built.weights, WeightFile)
            network = built.victim.network if isinstance(built, SurrogateVictim) else built.network
            built.load_frozen(built.weights.load() if trained else network.state_dict())
        return built
    except MissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    size = 12 if name == "pixeldefend" else 32  # it decodes a pixel at a time
    p, images, seeds, v = purifier(name), random_images(4, size), [3, 1, 4, 15], linear_victim()
    check(p, images, v)
    out = p(images, seeds=seeds, victim=v)
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    if isinstance(p, Learned):
        with pytest.raises(InputError, match="expected images with the channels of its network, 3, got 1"):
            p(images[:, :1], seeds=seeds, victim=v)


def test_bad_images_are_refused_by_every_call():
    with pytest.raises(InputError, match="NaN"):
        Identity()(torch.full((1, 3, 4, 4), float("nan")), seeds=[0])
    with pytest.raises(ValueError, match="seeds"):
        Identity()(random_images(2), seeds=[0])


class Broken(Purifier):
    def __init__(self, change):
        self.change = change

    def purify(self, images, seeds, victim):
        return self.change(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * float("nan"), "NaN or infinity in 2 of 2"),
        (lambda x: x + 1, r"\[0, 1\]"),
        (lambda x: x[:, :, :4], "shape"),
        (lambda x: x.double(), "float64"),
    ],
)
def test_bad_results_never_pass(change, message):
    with pytest.raises(PurifierError, match=message):
        Broken(change)(random_images(2), seeds=[0, 1])


def test_rounding_is_not_a_broken_contract():
    out = Broken(lambda x: torch.ones_like(x) + 5e-7)(random_images(1), seeds=[0])
    assert out.max() == 1


def test_one_broken_readout_leaves_the_others(small_trace):
    class Spoilt(DIP):
        def readout(self, targets, victim):
            return type("R", (), {"see": lambda s, i: None, "result": lambda s: targets * float("nan")})()

    good, broken_purifier = DIP(trace=small_trace, steps=5), Spoilt(trace=small_trace, steps=5)
    images = random_images(2)
    results = purify_together([broken_purifier, good], images, seeds=[0, 1])
    assert isinstance(results[0], PurifierError)
    assert torch.equal(results[1], good(images, seeds=[0, 1]))


def test_a_purifier_cannot_write_into_its_input():
    images = random_images(2)
    before = images.clone()
    Broken(lambda x: x.zero_())(images, seeds=[0, 1])
    assert torch.equal(images, before)


def test_jpeg_is_pillows(tmp_path):
    image = random_images(1, 32)
    levels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(tmp_path / "x.jpg", quality=30)
    expected = np.asarray(Image.open(tmp_path / "x.jpg"))
    ours = (JPEG(quality=30)(image, seeds=[0])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours, expected)


def test_alone_or_sharing_a_trace_is_the_same_bit_for_bit(small_trace):
    images, seeds, v = random_images(3), [1, 2, 3], linear_victim(16)
    purifiers: list[TracePurifier] = [
        DIP(trace=small_trace, steps=7),
        DIPDefend(trace=small_trace, steps=25),
        DDIP(trace=small_trace, steps=40, maps=20, warmup=2, similarity=-1.0, crossings=3),
        DDIP(trace=small_trace, steps=30, maps=30, warmup=2, similarity=-1.0, push=0.1),
    ]
    together = purify_together(purifiers, images, seeds=seeds, victim=v)
    for p, result in zip(purifiers, together, strict=True):
        assert torch.equal(result, p(images, seeds=seeds, victim=v))


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="needs ComDefend's weights in DATA_DIR")
def test_comdefend_reconstructs_cifar10_as_its_authors_measured():
    from data.cifar10 import Cifar10

    images = Cifar10(root=os.environ["DATA_DIR"]).load("evaluation").subset(500, seed=0).images
    weights = Path(os.environ["DATA_DIR"]) / "weights" / "comdefend_cifar_plain.npz"
    if not weights.exists():
        pytest.skip("no ComDefend weights in DATA_DIR")
    out = purifier("comdefend-released")(images, seeds=[0] * len(images))
    psnr = -10 * (out - images).square().flatten(1).mean(1).log10()
    assert psnr.mean().item() == pytest.approx(30.1, abs=0.3)
    assert ssim(out, images).mean().item() == pytest.approx(0.925, abs=0.005)  # DDIP, Table 2, clean
