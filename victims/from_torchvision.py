"""torchvision's networks (https://pytorch.org/vision/stable/models.html), and their variants for CIFAR-10."""

import re
from collections.abc import Mapping

import torchvision
from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d

from data.errors import InputError
from victims.pretrained import PretrainedNetwork

DENSE_NAMES = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


class Torchvision(PretrainedNetwork):
    """A classifier of torchvision by name, for images (N, 3, H, W), without trained weights.

    Inception-v3 and GoogLeNet have their auxiliary classifiers, which their checkpoints hold. If torchvision
    itself loads their weights, these two networks normalise images again; here the victim has mean and std
    0.5 instead.

    Args:
        name: name in torchvision.models.
        classes: number of logits.
    """

    version = 1

    def __init__(self, *, name: str, classes: int = 1000) -> None:
        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            raise InputError(f"victim.network.name: expected one of torchvision's models, got {name!r}")
        self.name, self.classes = name, classes
        super().__init__()

    def made(self) -> nn.Module:
        """Return the untrained network of that name."""
        options = (
            {"init_weights": False, "aux_logits": True} if self.name in ("inception_v3", "googlenet") else {}
        )
        return torchvision.models.get_model(self.name, weights=None, num_classes=self.classes, **options)

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the checkpoint with today's names; old layer names of DenseNets contain a dot."""
        return {DENSE_NAMES.sub(r"\1\2", name): value for name, value in state.items()}


class CifarTorchvision(PretrainedNetwork):
    """torchvision's networks adapted to 32x32 images as in huyvnphan/PyTorch_CIFAR10 (MIT), whose form the
    papers' CIFAR-10 victims have; ShuffleNet as in chenyaofo/pytorch-cifar-models (BSD-3).

    ResNets begin with a 3x3 convolution of stride 1, and keep their max-pooling. ShuffleNet begins in the
    same way, without max-pooling. Inception-v3 has one such convolution in place of its first five, and no
    auxiliary classifier. VGGs pool to 1x1 before their three linear layers.

    Args:
        name: resnet18, resnet50, vgg16_bn, inception_v3, shufflenet_v2_x0_5 or another of these families.
        classes: number of logits.
    """

    version = 1

    def __init__(self, *, name: str, classes: int = 10) -> None:
        families = ("resnet", "vgg", "inception_v3", "shufflenet_v2")
        if name not in torchvision.models.list_models() or not name.startswith(families):
            raise InputError(
                f"victim.network.name: expected a resnet, vgg, inception_v3 or shufflenet_v2 of torchvision, "
                f"got {name!r}"
            )
        self.name, self.classes = name, classes
        super().__init__()

    def made(self) -> nn.Module:
        """Return the untrained network of that name with its first layers for 32x32 images."""
        options = {"init_weights": False, "aux_logits": False} if self.name == "inception_v3" else {}
        network = torchvision.models.get_model(self.name, weights=None, num_classes=self.classes, **options)
        if self.name == "inception_v3":
            network.Conv2d_1a_3x3 = BasicConv2d(3, 192, kernel_size=3, padding=1)
            for name in ("Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
                         "maxpool2"):  # fmt: skip
                setattr(network, name, nn.Identity())
        elif self.name.startswith("vgg"):
            network.avgpool = nn.AdaptiveAvgPool2d(1)
            network.classifier[0] = nn.Linear(512, 4096)
            nn.init.normal_(network.classifier[0].weight, 0, 0.01)
            nn.init.zeros_(network.classifier[0].bias)
        elif self.name.startswith("shufflenet"):
            network.conv1[0] = nn.Conv2d(3, network.conv1[0].out_channels, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        else:
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        return network
