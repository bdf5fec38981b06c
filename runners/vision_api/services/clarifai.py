"""Clarifai's general image recognition, through clarifai-grpc."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from runners.vision_api.services.http_status import retry_after
from runners.vision_api.services.response import LabelResponse, RefusedError, ServiceError, TryAgainError
from runners.vision_api.services.service import Service, client_library

BUSY = ("CONN_EXCEED_HOURLY_LIMIT", "CONN_THROTTLED", "TRY_AGAIN", "MODEL_DEPLOYING", "MODEL_LOADING",
        "MODEL_BUSY_PLEASE_RETRY", "RUNNER_NEEDS_RETRY")  # fmt: skip
REFUSED = ("CONN_ACCOUNT_ISSUES", "CONN_TOKEN_INVALID", "CONN_CREDENTIALS_INVALID",
           "CONN_EXCEED_MONTHLY_LIMIT", "CONN_EXCEEDS_LIMITS", "CONN_INSUFFICIENT_SCOPES", "CONN_KEY_INVALID",
           "CONN_KEY_NOT_FOUND", "CONN_AUTH_METHOD_DISABLED")  # fmt: skip
BUSY_GRPC = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "ABORTED",
             "CANCELLED")  # fmt: skip
REFUSED_GRPC = ("UNAUTHENTICATED", "PERMISSION_DENIED")


class Clarifai(Service):
    """PostModelOutputs: https://docs.clarifai.com/compute/inference/.

    The personal access token is read from CLARIFAI_PAT, and another address from CLARIFAI_GRPC_BASE.

    Args:
        model: a model of the vendor's own application. At the time of the paper it was called the general
            model.
    """

    version = 1
    vendor = "clarifai"
    languages = ("en", "ar", "bn", "da", "de", "es", "fi", "fr", "hi", "hu", "it", "ja", "ko", "nl",
                 "no", "pa", "pl", "pt", "ru", "sv", "tr", "zh", "zh-TW")  # fmt: skip

    def __init__(self, *, model: str = "general-image-recognition", **shared: Any) -> None:
        super().__init__(**shared)
        self.model = model

    def parameters(self) -> Mapping[str, Any]:
        """Return the parameters of every service, and the model."""
        return {**super().parameters(), "model": self.model}

    def connect(self) -> Any:
        """Return a stub over a channel that makes one attempt; the vendor's own channel makes five."""
        grpc = client_library("grpc", self.vendor)
        channels = client_library("clarifai_grpc.channel.clarifai_channel", self.vendor)
        self.token = self.secret("CLARIFAI_PAT", "a personal access token of clarifai.com/settings/security")
        self.address = self.endpoint or os.environ.get("CLARIFAI_GRPC_BASE", "api.clarifai.com")
        parts = urlsplit(self.address if "//" in self.address else f"https://{self.address}")
        options = [("grpc.enable_retries", 0)]
        if parts.scheme == "http":
            channel = grpc.insecure_channel(parts.netloc, options)
        else:
            channel = grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(), options)
        # The generated stub asks this module how to read answers; its own channels set it.
        channels.wrap_response_deserializer = lambda kind: kind.FromString
        return client_library("clarifai_grpc.grpc.api.service_pb2_grpc", self.vendor).V2Stub(channel)

    def request(self, png: bytes) -> LabelResponse:
        """Return the names and values of the concepts."""
        grpc = client_library("grpc", self.vendor)
        codes = client_library("clarifai_grpc.grpc.api.status.status_code_pb2", self.vendor).StatusCode
        try:
            answer = self.client.PostModelOutputs(
                self._request(png), timeout=self.timeout, metadata=(("authorization", f"Key {self.token}"),)
            )
        except grpc.RpcError as error:
            code, reason = error.code().name, f"{error.code().name}: {error.details()}"
            if code in REFUSED_GRPC:
                raise RefusedError(f"credentials refused: {reason}") from None
            if code in BUSY_GRPC:
                headers = {pair[0]: pair[1] for pair in error.trailing_metadata() or ()}
                raise TryAgainError(reason, retry_after(headers)) from None
            raise ServiceError(reason) from None
        statuses = [answer.status, *(output.status for output in answer.outputs)]
        for status in statuses:
            name = codes.Name(status.code) if status.code in codes.values() else str(status.code)
            reason = f"{name}: {status.description} {status.details}".strip()
            if name in REFUSED:
                raise RefusedError(f"credentials refused: {reason}")
            if name in BUSY or name.startswith("INTERNAL_"):
                raise TryAgainError(reason)
            if name != "SUCCESS":
                raise ServiceError(reason)
        if len(answer.outputs) != 1:
            raise TryAgainError(f"malformed answer: expected one output, got {len(answer.outputs)}")
        output = answer.outputs[0]
        labels = [(concept.name, concept.value) for concept in output.data.concepts]
        return LabelResponse.ranked(labels, self.labels, output.model.model_version.id)

    def _request(self, png: bytes) -> Any:
        resources = client_library("clarifai_grpc.grpc.api.resources_pb2", self.vendor)
        service = client_library("clarifai_grpc.grpc.api.service_pb2", self.vendor)
        config = resources.OutputConfig(max_concepts=self.labels, language=self.language)
        version = resources.ModelVersion(output_info=resources.OutputInfo(output_config=config))
        return service.PostModelOutputsRequest(
            user_app_id=resources.UserAppIDSet(user_id="clarifai", app_id="main"),
            model_id=self.model,
            inputs=[resources.Input(data=resources.Data(image=resources.Image(base64=png)))],
            model=resources.Model(model_version=version),
        )
