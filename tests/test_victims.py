"""Every victim's config builds a network with a logit for each label, and the weights that exist fit it."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import config_of, random_images
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.errors import InputError
from data.weights import WeightFile
from purifiers.super_resolution import SuperResolution
from runners.config_errors import names_of
from runners.evaluation.component import build
from runners.evaluation.metrics import in_batches, wilson
from runners.places import CONFIGS
from victims.from_timm import Timm
from victims.from_torchvision import CifarTorchvision, Torchvision
from victims.int8_mobilenet import Int8MobileNet, UnfoldedMobileNet
from victims.mnist_cnn import MnistCNN
from victims.pretrained import without_background
from victims.victim import Victim

SHAPES = {"digits": (3, 32, 32), "cifar10": (3, 32, 32), "mnist": (1, 28, 28), "flower17": (3, 224, 224),
          "imagenet": (3, 240, 240)}  # fmt: skip
LOCAL = [name for name in names_of("victim") if not name.startswith(("api/", "own/"))]
PRETRAINED = [
    n for n in LOCAL if "from_torchvision.Torchvision" in (CONFIGS / f"victim/{n}.yaml").read_text()
]
REAL = Path(os.environ.get("DATA_DIR", "DATA_DIR"))


@cache
def classes_of(label_space: str) -> set[int]:
    """Return the numbers of classes of the data sets with that label space."""
    sets = [build(config_of("dataset", n)) for n in names_of("dataset") if not n.startswith("own/")]
    return {len(data.classes) for data in sets if data.label_space == label_space}


def moved(network: nn.Module) -> nn.Module:
    """Move the network's parameters and buffers to the device `meta`; other tensors stay where they are."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    on_meta = tensor.detach().to("meta")
                    tensors[name] = nn.Parameter(on_meta, False) if tensors is module._parameters else on_meta
    return network


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith(("imagenet/", "flower17/")) else name
        for name in LOCAL
    ],
)
def test_every_victim_has_a_logit_for_each_label_of_its_data_sets(name):
    """The victim is on another device than the CPU, as it would be on a GPU; nothing is computed.

    No victim may mix in tensors of the CPU or wait for values of the device.
    """
    config = config_of("victim", name)
    victim = None
    if "regnet" in name or name.endswith("vit"):  # torchvision computes with their tensors as it makes them
        with torch.device("cpu" if "regnet" in name else "meta"):
            victim = build(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        victim = moved(victim or build(config)).eval()
        logits = victim(torch.empty(2, *SHAPES[config["label_space"]], device="meta"))
    assert logits.device.type == "meta"
    assert {logits.shape[1]} == classes_of(config["label_space"])


@pytest.mark.parametrize("name", PRETRAINED)
def test_torchvisions_weights_are_those_that_it_names(name):
    config = config_of("victim", name)
    file = config["weights"] if "path" in config["weights"] else config["weights"]["start"]
    published = torchvision.models.get_model_weights(config["network"]["name"]).IMAGENET1K_V1
    assert file["source"] == published.url
    assert Path(file["path"]).name == Path(published.url).name
    assert f"-{file['sha256']}." in published.url
    if "published" in config:
        assert config["published"]["imagenet"] == round(published.meta["_metrics"]["ImageNet-1K"]["acc@1"], 2)


def test_inceptions_normalisation_is_torchvisions_own():
    """torchvision normalises twice for these networks; our configs do it once."""
    images = random_images(2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for name in ("inception_v3", "googlenet"):
        with torch.device("meta"):
            theirs = getattr(torchvision.models, name)(transform_input=True, init_weights=False)
        config = config_of("victim", f"imagenet/{name}")
        ours = (images - config["mean"][0]) / config["std"][0]
        torch.testing.assert_close(theirs._transform_input((images - mean) / std), ours)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.174), ("resnet50", 23.521), ("vgg16_bn", 33.647), ("inception_v3", 21.640)],
)
def test_cifar_forms_have_as_many_parameters_as_their_authors_print(name, millions):
    with torch.device("meta"):
        network = CifarTorchvision(name=name)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=1.1e-3)


def test_super_resolution_shows_a_victim_of_a_fixed_size_its_double():
    """Its config says shrink=false: a victim whose size is that of the images sees them twice as large."""

    class Double(nn.Module):
        def forward(self, x):
            return torch.nn.functional.interpolate(x, scale_factor=2)

    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sizes: list[torch.Size] = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[2:]))
    victim = Victim(network=network, label_space="", mean=[0] * 3, std=[1] * 3, weights=None, size=16)
    weights = WeightFile("none.pt", "0" * 64)
    for shrink in (True, False):
        purifier = SuperResolution(network=Double(), weights=weights, sigma=0, shrink=shrink).load_frozen({})
        victim(purifier(random_images(2, 16), seeds=[0, 1]))
    assert sizes == [(16, 16), (32, 32)]


def test_images_are_brought_to_the_victims_size_and_gradients_go_through():
    class Mean(nn.Module):
        def forward(self, x):
            self.seen = x
            return x.mean((2, 3))

    def victim(size):
        return Victim(network=Mean(), label_space="", mean=[0] * 3, std=[1] * 3, weights=None, size=size)

    images, resizing = random_images(2, 48).requires_grad_(), victim(16)
    resizing(images).sum().backward()
    assert resizing.network.seen.shape[2:] == (16, 16)
    assert (images.grad > 0).all(), "resizing is antialiased, so every pixel has a part"
    for same in (victim(48), victim(None), victim(24)):  # 24: super-resolution hands on double size
        same(images)
        assert torch.equal(same.network.seen, images)
    with pytest.raises(InputError, match="size: expected at least 1"):
        victim(0)


def test_dense_nets_of_old_and_the_background_class_fit():
    with torch.device("meta"):
        dense = Torchvision(name="densenet121")
    new = "features.denseblock1.denselayer1.norm1.weight"
    assert new in dense.state_dict()
    assert list(dense.converted({new.replace("norm1", "norm.1"): torch.ones(1)})) == [new]
    with torch.device("meta"):
        network = Timm(name="inception_v3", background=True)
    rows = torch.arange(1001.0)
    assert torch.equal(network.converted({"fc.bias": rows})["fc.bias"], rows[1:])
    assert torch.equal(network.converted({"fc.bias": rows[:1000]})["fc.bias"], rows[:1000])
    assert torch.equal(without_background({"a.b": rows, "fc.bias": rows}, "fc")["a.b"], rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Torchvision(name="resnet51"), "expected one of torchvision's models, got 'resnet51'"),
        (lambda: Timm(name="no_such"), "expected one of timm's models, got 'no_such'"),
        (lambda: CifarTorchvision(name="densenet121"), "expected a resnet, vgg"),
        (lambda: Int8MobileNet(architecture=3), "expected 1 or 2, got 3"),
    ],
)
def test_unknown_networks_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_weights_of_another_network_are_named():
    other = MnistCNN(filters=(4, 8)).state_dict()
    with pytest.raises(InputError, match="victim weights do not fit the network"):
        Victim(network=MnistCNN(), label_space="mnist", mean=[0], std=[1], weights=None).load_frozen(other)
    with torch.device("meta"):
        mobile = Int8MobileNet(architecture=1)
    with pytest.raises(InputError, match="expected 28 layers, each with one scale, got another layer 0"):
        mobile.load_state_dict({"w0": torch.zeros(1), "w0_scale": torch.ones(2)})


@pytest.mark.parametrize(
    ("name", "dataset", "n"),
    [
        ("resnet20", "cifar10", 500),
        ("resnet56", "cifar10", 200),
        ("shufflenet", "cifar10", 500),
        ("mnist/lenet5", "mnist", 500),
        ("mnist/lenet5-adv", "mnist", 500),
        ("imagenet/mobilenet_v1-int8", "neurips2017", 40),
        ("imagenet/mobilenet_v2-int8", "neurips2017", 40),
    ],
)
def test_weights_that_are_here_keep_their_published_accuracy(name, dataset, n):
    config = config_of("victim", name)
    if not Path(config["weights"]["path"]).is_file():
        pytest.skip(f"{config['weights']['path']} is not here: set DATA_DIR")
    images = build(config_of("dataset", dataset)).index("evaluation").take(list(range(n)))
    victim = build(config)
    victim.load_frozen(victim.weights.load())
    right = int((in_batches(victim, images.images, 50).argmax(1) == images.labels).sum())
    low, high = wilson(right, n)
    assert low <= config["published"][dataset] / 100 <= high, f"{right} of {n}"


def integers_by_hand(file: Path, image: np.ndarray) -> np.ndarray:
    """Return the output of an 8-bit checkpoint's graph for one image (H, W, 3).

    The sums are over integers w - z, in float64.
    """
    archive = np.load(file, allow_pickle=False)
    graph, outputs = json.loads(str(archive["graph"])), {}
    outputs[graph["input"]] = image
    for step in graph["ops"]:
        x = outputs[step["ins"][0]]
        if step["op"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            x = convolved(archive, step, x)
        elif step["op"] == "ADD":
            x = x + outputs[step["ins"][1]]
        elif step["op"] == "AVERAGE_POOL_2D":
            assert x.shape[:2] == (step["kh"], step["kw"])
            x = x.mean((0, 1), keepdims=True)
        elif step["op"] == "SOFTMAX":
            return x.ravel()
        outputs[step["out"]] = np.clip(x, 0, 6) if step.get("act") == 3 else x
    raise AssertionError("no end")


def convolved(archive, step, x):
    i, stride = step["w"], step["sh"]
    weight = archive[f"w{i}"].astype(np.int64) - archive[f"w{i}_zp"].astype(np.int64)
    kernel = weight.shape[1]
    lacking = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[:2]]
    x = np.pad(x, [(n // 2, n - n // 2) for n in lacking] + [(0, 0)])
    windows = sliding_window_view(x, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
    if step["op"] == "CONV_2D":
        total = np.tensordot(windows, weight.astype(float), ([2, 3, 4], [3, 1, 2]))
    else:
        total = np.einsum("hwcij,ijc->hwc", windows, weight[0].astype(float))
    return total * archive[f"w{i}_scale"].astype(float) + archive[f"b{i}"]


@pytest.mark.parametrize("name", ["imagenet/mobilenet_v1-int8", "imagenet/mobilenet_v2-int8"])
def test_an_8_bit_mobilenet_equals_its_integer_source(name):
    config = config_of("victim", name)
    file = Path(config["weights"]["path"])
    if not file.is_file():
        pytest.skip(f"{file} is not here: set DATA_DIR")
    image = random_images(1, 224)[0]
    if photographs := sorted((REAL / "neurips2017" / "images").glob("*.png"))[:1]:
        pixels = np.asarray(Image.open(photographs[0]).convert("RGB"))[:224, :224]
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    victim = build(config)
    victim.load_frozen(victim.weights.load())
    theirs = integers_by_hand(file, 2 * image.permute(1, 2, 0).double().numpy() - 1)
    assert len(theirs) == 1001
    ours = victim(image[None])[0].double().numpy()
    assert np.abs(ours).max() > 3, "the image does not test the network"
    np.testing.assert_allclose(ours, theirs[1:], rtol=0, atol=1e-4)


def folded_checkpoint(network: Int8MobileNet) -> dict[str, torch.Tensor]:
    """Return a checkpoint like google-coral's, with drawn 8-bit weights and a background class."""
    generator, state = torch.Generator().manual_seed(0), {}
    for i, layer in enumerate(part for part in network.modules() if isinstance(part, nn.Conv2d)):
        filters, inputs, *kernel = layer.weight.shape
        filters += filters == 17
        shape = (1, *kernel, filters) if layer.groups > 1 else (filters, *kernel, inputs)
        weights = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
        scale = 2 / 127 / layer.weight[0].numel() ** 0.5
        state |= {f"w{i}": weights, f"w{i}_scale": torch.tensor([scale]), f"w{i}_zp": torch.tensor([3])}
        state[f"b{i}"] = torch.randn(filters, generator=generator) / 10
    return state


@pytest.mark.parametrize("architecture", [1, 2])
def test_batch_norm_that_is_put_back_changes_nothing_until_something_is_learnt(architecture):
    folded = Int8MobileNet(architecture=architecture, classes=17)
    unfolded = UnfoldedMobileNet(architecture=architecture, classes=17)
    checkpoint = folded_checkpoint(folded)
    for network in (folded, unfolded):
        torch.manual_seed(0)  # the last layer is drawn anew
        network.begin_from(checkpoint)
    head = {name: value for name, value in folded.state_dict().items() if name.startswith(folded.head)}
    unfolded.model.load_state_dict(head, strict=False)
    images = 2 * random_images(4, 64) - 1
    with torch.no_grad():
        expected = folded.eval()(images)
        before = unfolded.eval()(images)
        at_first = unfolded.train()(images)
    assert expected.std() > 0.01, "the logits do not test the network"
    torch.testing.assert_close(before, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(at_first, expected, rtol=0, atol=1e-4)


def test_batch_norm_that_is_put_back_measures_once_and_trains_on():
    folded = Int8MobileNet(architecture=2, classes=17)
    unfolded = UnfoldedMobileNet(architecture=2, classes=17)
    unfolded.begin_from(folded_checkpoint(folded))
    norms = [layer for layer in unfolded.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 52
    assert all(layer.lacking for layer in norms)
    unfolded.train()(2 * random_images(4, 64) - 1)
    assert not any(layer.lacking for layer in norms)
    weights = [layer.weight.clone() for layer in norms]
    unfolded(1 - 2 * random_images(4, 64))
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(norms, weights, strict=True))
    again = UnfoldedMobileNet(architecture=2, classes=17)
    again.load_state_dict(unfolded.state_dict())  # a training that goes on, and the finished victim
    images = random_images(2, 64)
    assert torch.equal(again.eval()(images), unfolded.eval()(images))
