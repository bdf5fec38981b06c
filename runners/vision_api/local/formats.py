"""The HTTP formats of each vendor's label detection: how requests are read, and answers and errors written.

They follow the public descriptions of DetectLabels of Amazon Rekognition, Image Analysis 4.0 of Azure AI
Vision, and images:annotate of Google Cloud Vision. The service `http` has a plain format of our own.
"""

import base64
import email
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

Labels = list[tuple[str, float]]  # best first


@dataclass(frozen=True)
class Asked:
    """The image of a request, and the limits that the request sets."""

    image: bytes
    most: int
    least: float = 0.0  # score below which labels are left out, 0 to 1


@dataclass(frozen=True)
class Format:
    """The format of one vendor."""

    path: str
    secret: str  # the header that holds credentials; empty if none are needed
    read: Callable[[str, Mapping[str, str], bytes], Asked]
    write: Callable[[Labels], Any]
    busy: tuple[int, Any]
    broken: tuple[int, Any]
    refused: tuple[int, Any]


def _read_aws(path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    request = json.loads(body)
    image = base64.b64decode(request["Image"]["Bytes"])
    return Asked(image, request.get("MaxLabels", 1000), request.get("MinConfidence", 55) / 100)


def _write_aws(labels: Labels) -> Any:
    entries = [
        {"Name": name, "Confidence": 100 * score, "Instances": [], "Parents": []} for name, score in labels
    ]
    return {"Labels": entries, "LabelModelVersion": "3.0"}


def _read_azure(path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    query = parse_qs(urlsplit(path).query)
    if "tags" not in query.get("features", [""])[0].lower():
        raise ValueError("expected features=tags")
    return Asked(body, 1000)


def _write_azure(labels: Labels) -> Any:
    values = [{"name": name, "confidence": score} for name, score in labels]
    return {
        "modelVersion": "2023-10-01",
        "metadata": {"width": 0, "height": 0},
        "tagsResult": {"values": values},
    }


def _read_google(path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    (request,) = json.loads(body)["requests"]
    (feature,) = request["features"]
    if feature["type"] not in ("LABEL_DETECTION", 4):
        raise ValueError("expected LABEL_DETECTION")
    return Asked(base64.b64decode(request["image"]["content"]), feature.get("maxResults", 10))


def _write_google(labels: Labels) -> Any:
    entries = [{"description": name, "score": score, "topicality": score} for name, score in labels]
    return {"responses": [{"labelAnnotations": entries}]}


def _read_plain(path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    kind = headers.get("Content-Type", "")
    if kind.startswith("multipart/form-data"):
        form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        body = form.get_payload()[0].get_payload(decode=True)
    return Asked(body, 1000)


def _write_plain(labels: Labels) -> Any:
    return {"labels": [{"name": name, "score": score} for name, score in labels]}


def _google_error(code: int, status: str, message: str) -> tuple[int, Any]:
    return code, {"error": {"code": code, "status": status, "message": message}}


FORMATS = {
    "aws": Format(
        "/",
        "Authorization",
        _read_aws,
        _write_aws,
        busy=(400, {"__type": "ThrottlingException", "message": "Rate exceeded"}),
        broken=(500, {"__type": "InternalServerError", "message": "Internal server error"}),
        refused=(400, {"__type": "ExpiredTokenException", "message": "The security token is expired"}),
    ),
    "azure": Format(
        "/computervision/imageanalysis:analyze",
        "Ocp-Apim-Subscription-Key",
        _read_azure,
        _write_azure,
        busy=(429, {"error": {"code": "429", "message": "Requests have exceeded the rate limit"}}),
        broken=(500, {"error": {"code": "InternalServerError", "message": "Internal server error"}}),
        refused=(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key"}}),
    ),
    "google": Format(
        "/v1/images:annotate",
        "Authorization",
        _read_google,
        _write_google,
        busy=_google_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"),
        broken=_google_error(500, "INTERNAL", "Internal error"),
        refused=_google_error(403, "PERMISSION_DENIED", "The caller does not have permission"),
    ),
    "http": Format(
        "/labels",
        "",
        _read_plain,
        _write_plain,
        busy=(429, {"error": "busy"}),
        broken=(500, {"error": "broken"}),
        refused=(401, {"error": "no"}),
    ),
}
