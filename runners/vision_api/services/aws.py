"""Amazon Rekognition's label detection, through boto3."""

from collections.abc import Mapping
from typing import Any

from data.errors import InputError, MissingError
from runners.vision_api.services.http_status import error_of_status
from runners.vision_api.services.response import LabelResponse, RefusedError, TryAgainError
from runners.vision_api.services.service import Service, client_library

BUSY = {"ThrottlingException", "ProvisionedThroughputExceededException", "LimitExceededException",
        "RequestTimeout", "RequestTimeoutException"}  # fmt: skip
REFUSED = {"AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature",
           "IncompleteSignatureException", "InvalidClientTokenId", "InvalidSignatureException",
           "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired", "RequestExpired",
           "SignatureDoesNotMatch", "UnrecognizedClientException"}  # fmt: skip


class Rekognition(Service):
    """DetectLabels: https://docs.aws.amazon.com/rekognition/latest/APIReference/API_DetectLabels.html.

    Credentials, region and address are those that boto3 reads: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
    or AWS_PROFILE; AWS_DEFAULT_REGION; AWS_ENDPOINT_URL_REKOGNITION.

    Args:
        min_confidence: labels below this confidence (in %) are left out. The service's own default is 55, and
            the paper does not state a value. The default here is 0, so that every image has five labels.
    """

    version = 1
    vendor = "aws"
    smallest = 80

    def __init__(self, *, min_confidence: float = 0, **shared: Any) -> None:
        super().__init__(**shared)
        if not 0 <= min_confidence <= 100:
            raise InputError(f"service.min_confidence: expected 0 to 100, got {min_confidence}")
        self.min_confidence = min_confidence

    def parameters(self) -> Mapping[str, Any]:
        """Return the parameters of every service, and the threshold."""
        return {**super().parameters(), "min_confidence": self.min_confidence}

    def connect(self) -> Any:
        """Return a client that makes one attempt per call."""
        boto3, config = client_library("boto3", self.vendor), client_library("botocore.config", self.vendor)
        errors = client_library("botocore.exceptions", self.vendor)
        try:
            session = boto3.Session()
            credentials = session.get_credentials()
            if credentials is None:
                raise MissingError(
                    "service aws: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    "AWS_PROFILE"
                )
            if session.region_name is None:
                raise MissingError("service aws: no region: set AWS_DEFAULT_REGION (us-east-1, say)")
            frozen = credentials.get_frozen_credentials()
            self.secrets += [value for value in frozen if value]
            client = session.client(
                "rekognition",
                endpoint_url=self.endpoint,
                config=config.Config(
                    connect_timeout=self.timeout, read_timeout=self.timeout, retries={"total_max_attempts": 1}
                ),
            )
        except (errors.BotoCoreError, ValueError) as error:
            raise MissingError(f"service aws: its settings cannot be used: {self.said(error)}") from None
        self.address = client.meta.endpoint_url
        return client

    def request(self, png: bytes) -> LabelResponse:
        """Return the names and confidences of the labels."""
        errors = client_library("botocore.exceptions", self.vendor)
        try:
            answer = self.client.detect_labels(
                Image={"Bytes": png}, MaxLabels=self.labels, MinConfidence=self.min_confidence
            )
        except errors.ClientError as error:
            meta = error.response.get("ResponseMetadata", {})
            code, status = error.response.get("Error", {}).get("Code", ""), meta.get("HTTPStatusCode", 0)
            status = 401 if code in REFUSED else 429 if code in BUSY else status
            raise error_of_status(status, str(error), meta.get("HTTPHeaders")) from None
        except (errors.ConnectionError, errors.HTTPClientError) as error:
            raise TryAgainError(str(error)) from None
        except errors.BotoCoreError as error:
            raise RefusedError(f"credentials cannot be used: {error}") from None
        except client_library("botocore.parsers", self.vendor).ResponseParserError as error:
            raise TryAgainError(f"malformed answer: {error}") from None
        try:
            labels = [(label["Name"], label["Confidence"]) for label in answer["Labels"]]
        except (KeyError, TypeError):
            raise TryAgainError("malformed answer: no labels in it") from None
        return LabelResponse.ranked(labels, self.labels, answer.get("LabelModelVersion", ""))
