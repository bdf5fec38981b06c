"""Services that label images: their answers, their faults and their costs."""

import importlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import InputError, MissingError
from runners.vision_api.services import service as service_module
from runners.vision_api.services.http import HTTP
from runners.vision_api.services.http_status import retry_after
from runners.vision_api.services.response import Calls, CapError, LabelResponse, RefusedError, ServiceError
from runners.vision_api.services.service import png
from tests.vision_api import KINDS, SECRETS, corner_image

VENDORS = list(KINDS)
BEST = tuple(f"class {i}" for i in range(5))


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_service_names_its_best_labels_best_first(vision, vendor):
    client = vision.client(vendor)
    assert client.ask(corner_image()).labels == BEST
    turned = client.ask(corner_image(order=lambda values: values.flip(0)))
    assert turned.labels == tuple(f"class {i}" for i in (9, 8, 7, 6, 5))
    assert list(turned.scores) == sorted(turned.scores, reverse=True)
    assert client.calls.spent == vision.counted(vendor) == 2


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("fault", ["busy", "broken", "slow", "cut", "malformed"])
def test_a_passing_fault_costs_a_second_call_and_no_more(vision, vendor, fault):
    client = vision.client(vendor, timeout=0.3 if fault == "slow" else 5)
    client.open()
    vision.labeller.faults = [fault]
    assert client.ask(corner_image()).labels == BEST
    assert client.calls.spent == vision.counted(vendor) == 2


@pytest.mark.parametrize("vendor", VENDORS)
def test_expired_credentials_are_not_tried_again_nor_told(vision, vendor):
    client = vision.client(vendor, **({"key_variable": "LOCAL_KEY"} if vendor == "http" else {}))
    client.ask(corner_image())
    vision.labeller.faults = ["expired"]
    with pytest.raises(RefusedError, match=f"{vendor}: credentials refused") as error:
        client.ask(corner_image())
    assert client.calls.spent == 2
    assert not any(secret in str(error.value) for secret in SECRETS.values())


def test_an_expired_token_of_google_is_refused_too(vision):
    client = vision.client("google")
    client.open()
    vision.labeller.faults = ["expired"]  # hits the token, which is requested first
    with pytest.raises(RefusedError, match=r"google: credentials refused: .*expired"):
        client.ask(corner_image())


@pytest.mark.parametrize("vendor", VENDORS)
def test_what_does_not_pass_fails_after_so_many_attempts(vision, vendor):
    client = vision.client(vendor, attempts=3)
    client.open()
    vision.labeller.faults = ["broken"] * 4
    with pytest.raises(ServiceError, match=f"{vendor}: no answer in 3 attempts"):
        client.ask(corner_image())
    assert client.calls.spent == vision.counted(vendor) == 3


@pytest.mark.parametrize(
    ("vendor", "cleared", "named"),
    [
        ("aws", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "set AWS_ACCESS_KEY_ID and"),
        ("aws", ["AWS_DEFAULT_REGION"], "set AWS_DEFAULT_REGION"),
        ("azure", ["VISION_KEY"], "set VISION_KEY"),
        ("clarifai", ["CLARIFAI_PAT"], "set CLARIFAI_PAT"),
        ("google", ["GOOGLE_APPLICATION_CREDENTIALS"], "set GOOGLE_APPLICATION_CREDENTIALS"),
        ("http", ["LOCAL_KEY"], "set LOCAL_KEY"),
    ],
)
def test_missing_credentials_are_named_before_any_call(vision, monkeypatch, tmp_path, vendor, cleared, named):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    for name in cleared:
        monkeypatch.delenv(name)
    client = vision.client(vendor, **({"key_variable": "LOCAL_KEY"} if vendor == "http" else {}))
    with pytest.raises(MissingError, match=named):
        client.ask(corner_image())
    assert vision.counted(vendor) == 0


def test_the_azure_address_is_read_from_its_variable(vision, monkeypatch):
    client = vision.client("azure", endpoint=None)
    monkeypatch.delenv("VISION_ENDPOINT", raising=False)
    with pytest.raises(MissingError, match="set VISION_ENDPOINT"):
        client.open()
    monkeypatch.setenv("VISION_ENDPOINT", vision.address)
    assert client.ask(corner_image()).labels == BEST


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor != "http"])
def test_a_client_that_is_not_installed_is_named_with_its_extra(vision, monkeypatch, vendor):
    client = vision.client(vendor)

    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingError, match=rf"not installed: pip install .* '\.\[{vendor}\]'"):
        client.open()


@pytest.mark.parametrize(
    ("vendor", "changed", "expected"),
    [
        ("aws", {"language": "de"}, "service.language: aws has labels in en; got 'de'"),
        ("google", {"language": "fr"}, "service.language: google has labels in en; got 'fr'"),
        ("azure", {"language": "klingon"}, "service.language: azure has labels in en, ar, .*; got 'klingon'"),
        ("clarifai", {"language": "de-AT"}, "service.language: clarifai has labels in en, ar, .*zh-TW; got"),
        ("aws", {"min_confidence": 101}, "service.min_confidence: expected 0 to 100, got 101"),
        ("http", {"labels": 0}, "service.labels: expected at least 1, got 0"),
        ("http", {"attempts": 0}, "service.attempts: expected at least 1, got 0"),
        ("http", {"timeout": 0}, "service.timeout: expected a number above 0"),
        ("http", {"per_second": "fast"}, "service.per_second: expected a number above 0, got 'fast'"),
        ("http", {"side": 1.5}, "service.side: expected pixels, or null, got 1.5"),
        ("http", {"url": "ftp://x/y"}, "service.url: expected http://... or https://..., got 'ftp://x/y'"),
        ("http", {"url": "http://me:pass@x/y"}, "service.url: expected an address without user and password"),
        ("http", {"url": "http://x/y?api_key=1"}, "service.url: expected an address without credentials"),
        (
            "aws",
            {"endpoint": "nowhere"},
            "service.endpoint: expected http://... or https://..., got 'nowhere'",
        ),
    ],
)
def test_bad_settings_are_told_before_any_call(vision, vendor, changed, expected):
    with pytest.raises(InputError, match=expected):
        vision.client(vendor, **changed)


def test_the_service_is_asked_in_the_language_that_is_set(vision):
    assert vision.client("azure", language="ja").ask(corner_image()).labels == BEST
    assert vision.client("clarifai", language="zh-TW").ask(corner_image()).labels == BEST


def test_the_cap_is_kept_and_every_attempt_counts(vision):
    client = vision.client("http", calls=3)
    client.ask(corner_image())
    vision.labeller.faults = ["broken"] * 5
    with pytest.raises(CapError, match="the cap of calls=3 is spent; the answers are kept"):
        client.ask(corner_image())
    assert vision.counted("http") == 3
    with pytest.raises(CapError):
        client.ask(corner_image())
    assert vision.counted("http") == 3


@pytest.mark.parametrize("cap", [0, -1, 2.5, True, None])
def test_a_cap_is_a_number_of_calls(cap):
    with pytest.raises(InputError, match="calls: expected a whole number of at least 1"):
        Calls(cap)


def test_waits_double_unless_the_service_says_how_long(vision):
    client = vision.client("http")
    vision.labeller.faults = ["broken", "cut", "broken"]
    client.ask(corner_image())
    assert [wait for wait in vision.waits if wait > 0.5] == [1, 2, 4]
    vision.waits.clear()
    vision.labeller.after, vision.labeller.faults = "7", ["busy"]
    client.ask(corner_image())
    assert [wait for wait in vision.waits if wait > 0.5] == [7]


def test_a_wait_of_an_hour_is_not_waited(vision):
    client = vision.client("azure")
    vision.labeller.after, vision.labeller.faults = "3600", ["busy"]
    with pytest.raises(ServiceError, match="asks to come back in 3600 s"):
        client.ask(corner_image())
    assert client.calls.spent == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"retry-after": "0"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers, seconds):
    assert retry_after(headers) == seconds


def test_calls_keep_their_pace(vision, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(service_module, "monotonic", lambda: now[0])
    client = vision.client("http", per_second=4)
    for _ in range(3):
        client.ask(corner_image())
    assert vision.waits == [0.25, 0.5]


@pytest.mark.parametrize(("vendor", "smallest"), [("aws", 80), ("azure", 51)])
def test_images_that_a_service_does_not_take_are_enlarged_or_refused(vision, vendor, smallest):
    small = torch.rand(3, 32, 48)
    with pytest.raises(
        InputError, match=f"at least {smallest}x{smallest} pixels, got 32x48: enlarge them with"
    ):
        vision.client(vendor).fitted(small)
    assert vision.client(vendor, side=96).fitted(small).shape == (3, 96, 144)
    assert torch.equal(vision.client(vendor, side=96).fitted(corner_image()), corner_image())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_nearest_8_bit_values(channels):
    image = torch.rand(channels, 5, 7)
    read = np.asarray(Image.open(io.BytesIO(png(image)))).reshape(5, 7, channels)
    assert np.array_equal(read, (image.permute(1, 2, 0).double().numpy() * 255 + 0.5).astype(np.uint8))


def test_an_answer_has_each_label_once_and_equal_scores_in_their_order():
    labels = [("a", 0.2), ("b", 0.9), ("c", 0.9), ("b", 0.1), ("d", 0.1)]
    assert LabelResponse.ranked(labels, 3) == LabelResponse(("b", "c", "a"), (0.9, 0.9, 0.2))
    assert LabelResponse.ranked([], 5) == LabelResponse((), ())


@pytest.mark.parametrize(
    ("read", "content", "labels"),
    [
        (
            {"answer": "labels"},
            {"labels": [{"name": "x", "score": 1}, {"name": "y", "score": 2}]},
            ("y", "x"),
        ),
        (
            {"answer": "a.0.b", "name": "n", "score": None},
            {"a": [{"b": [{"n": "x"}, {"n": "y"}]}]},
            ("x", "y"),
        ),
        ({"answer": ""}, ["x", "y"], ("x", "y")),
    ],
)
def test_labels_are_found_where_the_config_says(read, content, labels):
    client = HTTP(url="http://localhost/", **read)
    assert LabelResponse.ranked(client._labels(content), 5).labels == labels


@pytest.mark.parametrize("content", [{}, {"labels": {}}, {"labels": [{"title": "x"}]}, [], {"labels": None}])
def test_an_answer_of_another_form_is_an_error_that_says_what_was_expected(content):
    with pytest.raises(
        ServiceError, match="expected a list of labels at 'labels', each with 'name' and 'score'"
    ):
        HTTP(url="http://localhost/")._labels(content)


def test_the_image_can_be_a_field_of_a_form_and_a_key_is_sent(vision):
    client = vision.client("http", field="image", key_variable="LOCAL_KEY")
    assert client.ask(corner_image()).labels == BEST
    assert client.client.headers["Authorization"] == "Bearer http-s3cret"


def test_credentials_are_in_no_message(vision):
    client = vision.client("clarifai")
    client.open()
    assert client.said(ValueError("refused\nKey clarifai-s3cret")) == "refused"
    assert client.said(ValueError("Key clarifai-s3cret is bad")) == "Key *** is bad"
    assert "s3cret" not in str(dict(client.parameters()))
