"""Google Cloud Vision's label detection, through google-cloud-vision."""

import warnings
from typing import Any
from urllib.parse import urlsplit

from data.errors import MissingError
from runners.vision_api.services.http_status import error_of_status
from runners.vision_api.services.response import LabelResponse, RefusedError, ServiceError, TryAgainError
from runners.vision_api.services.service import Service, client_library

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# Codes of google.rpc.Code: cancelled, unknown, too late, exhausted, aborted, internal, unavailable.
BUSY = {1, 2, 4, 8, 10, 13, 14}
REFUSED = {7, 16}  # not permitted, not authenticated


class CloudVision(Service):
    """LABEL_DETECTION: https://cloud.google.com/vision/docs/labels, over REST. The labels are in English.

    Credentials are the application's default ones: GOOGLE_APPLICATION_CREDENTIALS names a key file.
    """

    version = 1
    vendor = "google"

    def connect(self) -> Any:
        """Return a client that uses REST."""
        auth, vision = client_library("google.auth", self.vendor), _vision()
        try:
            credentials, _ = auth.default(scopes=[SCOPE])
        except (auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise MissingError(
                "service google: no credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file of a "
                f"service account ({self.said(error)})"
            ) from None
        self.address = self.endpoint or f"https://{vision.ImageAnnotatorClient.DEFAULT_ENDPOINT}"
        parts = urlsplit(self.address)
        transport = vision.ImageAnnotatorClient.get_transport_class("rest")
        return vision.ImageAnnotatorClient(
            transport=transport(host=parts.netloc, credentials=credentials, url_scheme=parts.scheme)
        )

    def request(self, png: bytes) -> LabelResponse:
        """Return the descriptions and scores of the labels."""
        vision = _vision()
        auth = client_library("google.auth.exceptions", self.vendor)
        errors = client_library("google.api_core.exceptions", self.vendor)
        http = client_library("requests", self.vendor)
        json = client_library("google.protobuf.json_format", self.vendor)
        try:
            answer = self.client.label_detection(
                image=vision.Image(content=png), max_results=self.labels, timeout=self.timeout, retry=None
            )
        except auth.TransportError as error:
            raise TryAgainError(str(error)) from None
        except auth.GoogleAuthError as error:
            raise RefusedError(f"credentials refused: {error}") from None
        except errors.GoogleAPICallError as error:
            headers = getattr(error.response, "headers", None)
            raise error_of_status(error.code or 0, str(error), headers) from None
        except (json.ParseError, ValueError) as error:
            raise TryAgainError(f"malformed answer: {error}") from None
        except http.RequestException as error:
            raise TryAgainError(str(error)) from None
        code, reason = answer.error.code, f"{answer.error.code}: {answer.error.message}"
        if code in REFUSED:
            raise RefusedError(f"credentials refused: {reason}")
        if code in BUSY:
            raise TryAgainError(reason)
        if code:
            raise ServiceError(reason)
        return LabelResponse.ranked(
            [(la.description, la.score) for la in answer.label_annotations], self.labels
        )


def _vision() -> Any:
    """Return the client, and suppress its warning that it will stop supporting this version of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return client_library("google.cloud.vision", "google")
