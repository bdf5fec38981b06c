"""A vision API on this machine for the tests: a classifier in closed form behind every vendor's format."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from runners.vision_api.local.labeller import Labeller
from runners.vision_api.local.server import serve, write_google_key
from runners.vision_api.services import service as service_module
from runners.vision_api.services.aws import Rekognition
from runners.vision_api.services.azure import ImageAnalysis
from runners.vision_api.services.clarifai import Clarifai
from runners.vision_api.services.google import CloudVision
from runners.vision_api.services.http import HTTP
from runners.vision_api.services.response import Calls
from runners.vision_api.services.service import Service

KINDS = {
    "aws": (Rekognition, "boto3"),
    "azure": (ImageAnalysis, "azure.ai.vision.imageanalysis"),
    "clarifai": (Clarifai, "clarifai_grpc"),
    "google": (CloudVision, "google.cloud.vision"),
    "http": (HTTP, "requests"),
}
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIDLOCAL",
    "AWS_SECRET_ACCESS_KEY": "aws-s3cret",
    "VISION_KEY": "azure-s3cret",
    "CLARIFAI_PAT": "clarifai-s3cret",
    "LOCAL_KEY": "http-s3cret",
}


class Corner(nn.Module):
    """A classifier of ten classes whose logits are ten values in the image's upper left corner."""

    def forward(self, images: Tensor) -> Tensor:
        return 8 * images[:, 0, 0, :10]


class Flat(nn.Module):
    """A linear classifier of 32x32 images that takes the place of a network in a victim's config."""

    def __init__(self, *, depth: int, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


class Tripled(nn.Module):
    """A classifier with three labels for each class of another one, and no label shared by two classes."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classifier(images)
        return (logits[:, :, None] + torch.tensor([2e-4, 1e-4, 0])).flatten(1)


@dataclass
class Vision:
    """The service and its clients."""

    labeller: Labeller
    address: str
    clarifai: str
    waits: list[float]  # seconds that clients would have slept

    def client(self, vendor: str, *, calls: int = 100, **changed) -> Service:
        kind, library = KINDS[vendor]
        pytest.importorskip(library, reason=f"pip install -e .[{vendor}]")
        options = {"url": f"{self.address}/labels"} if vendor == "http" else {"endpoint": self.address}
        if vendor == "clarifai":
            options = {"endpoint": self.clarifai}
        service = kind(**{"timeout": 5, "per_second": 1e6, **options, **changed})
        service.calls = Calls(calls)
        return service

    def counted(self, vendor: str) -> int:
        return self.labeller.calls[vendor]


def corner_image(size: int = 96, order: Callable[[Tensor], Tensor] = lambda values: values) -> Tensor:
    """Return an image whose classes rank as ten values spread over [0, 1], class 0 best unless reordered."""
    image = torch.full((3, size, size), 0.5)
    image[0, 0, :10] = order(torch.linspace(1, 0, 10))
    return image


@pytest.fixture
def vision(monkeypatch, tmp_path) -> Iterator[Vision]:
    """Yield a service with credentials in the environment, for which clients do not wait."""
    labeller = Labeller(Corner(), [f"class {i}" for i in range(10)], slow=0.6)
    server = serve(labeller)
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        from runners.vision_api.local.clarifai import serve_clarifai

        grpc_server, port = serve_clarifai(labeller)
    except ModuleNotFoundError:
        grpc_server, port = None, 0
    for name, value in {**SECRETS, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", google_key(tmp_path, address))
    waits: list[float] = []
    monkeypatch.setattr(service_module, "sleep", waits.append)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("google.oauth2.service_account")
    if (auth := sys.modules.get("google.auth.credentials")) is not None:  # it would ask Google of the account
        asks = "_maybe_start_regional_access_boundary_refresh"
        for kind in vars(auth).values():
            if isinstance(kind, type) and asks in vars(kind):
                monkeypatch.setattr(kind, asks, lambda *given: None)
    yield Vision(labeller, address, f"http://127.0.0.1:{port}", waits)
    server.shutdown()
    server.server_close()
    if grpc_server is not None:
        grpc_server.stop(None)


def google_key(folder, address: str) -> str:
    """Write a key file of a service account whose tokens the service gives, and return its path."""
    pytest.importorskip("cryptography")
    return str(write_google_key(folder / "google.json", address, "googleapis.com"))
