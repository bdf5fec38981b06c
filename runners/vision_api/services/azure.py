"""Azure AI Vision's image tags, through azure-ai-vision-imageanalysis."""

import os
from typing import Any

from data.errors import MissingError
from runners.vision_api.services.http_status import error_of_status
from runners.vision_api.services.response import LabelResponse, RefusedError, TryAgainError
from runners.vision_api.services.service import Service, checked_address, client_library


class ImageAnalysis(Service):
    """Image Analysis 4.0, tags: https://learn.microsoft.com/azure/ai-services/computer-vision/concept-tag-images-40.

    The address and the key are read from VISION_ENDPOINT and VISION_KEY, as in the vendor's examples.
    """

    version = 1
    vendor = "azure"
    smallest = 51  # "greater than 50 x 50"
    languages = ("en", "ar", "az", "bg", "bs", "ca", "cs", "cy", "da", "de", "el", "es", "et", "eu",
                 "fi", "fr", "ga", "gl", "he", "hi", "hr", "hu", "id", "it", "ja", "kk", "ko", "lt",
                 "lv", "mk", "ms", "nb", "nl", "pl", "prs", "pt", "pt-BR", "pt-PT", "ro", "ru", "sk",
                 "sl", "sr-Cyrl", "sr-Latn", "sv", "th", "tr", "uk", "vi", "zh", "zh-Hans",
                 "zh-Hant")  # fmt: skip

    def connect(self) -> Any:
        """Return a client that makes one attempt per call."""
        library = client_library("azure.ai.vision.imageanalysis", self.vendor)
        credentials = client_library("azure.core.credentials", self.vendor)
        address = self.endpoint or os.environ.get("VISION_ENDPOINT", "").strip()
        if not address:
            raise MissingError(
                "service azure: no address: set VISION_ENDPOINT (https://NAME.cognitiveservices.azure.com)"
            )
        key = self.secret("VISION_KEY", "a key of the Azure resource")
        self.address = checked_address(address, "VISION_ENDPOINT")
        return library.ImageAnalysisClient(
            endpoint=self.address,
            credential=credentials.AzureKeyCredential(key),
            retry_total=0,
            connection_timeout=self.timeout,
            read_timeout=self.timeout,
        )

    def request(self, png: bytes) -> LabelResponse:
        """Return the names and confidences of the tags."""
        errors = client_library("azure.core.exceptions", self.vendor)
        tags = client_library("azure.ai.vision.imageanalysis.models", self.vendor).VisualFeatures.TAGS
        try:
            answer = self.client.analyze(image_data=png, visual_features=[tags], language=self.language)
            labels = [(tag.name, tag.confidence) for tag in answer.tags.list]
            return LabelResponse.ranked(labels, self.labels, answer.model_version or "")
        except errors.HttpResponseError as error:
            status = error.status_code or 0
            if status in (401, 403):
                raise RefusedError(f"credentials refused: {error.message}") from None
            if status < 400:  # an answer that the client cannot read
                raise TryAgainError(f"malformed answer: {error.message}") from None
            headers = getattr(error.response, "headers", None)
            raise error_of_status(status, f"{status}: {error.message}", headers) from None
        except errors.AzureError as error:  # no connection, a broken one, or a timeout
            raise TryAgainError(str(error)) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # JSON of another form
            raise TryAgainError(f"malformed answer: {error}") from None
