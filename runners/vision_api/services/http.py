"""Any service that takes an image over HTTP and answers with labels in JSON."""

from collections.abc import Mapping
from typing import Any

import requests

from data.errors import InputError
from runners.vision_api.services.http_status import error_of_status
from runners.vision_api.services.response import LabelResponse, ServiceError, TryAgainError
from runners.vision_api.services.service import Service, checked_address


class HTTP(Service):
    """POSTs the PNG, as the body or as a field of a form, and reads a list of labels from the answer.

    Args:
        url: the address that the image is sent to.
        field: the name of the form's field; None sends the file as the body.
        answer: the path of the list in the JSON, as keys and positions joined by dots; "" if the list is the
            whole answer.
        name, score: keys of an entry of the list. Without scores, or if entries are strings, the order
            counts.
        key_variable: the environment variable that holds a key, sent as `Authorization: Bearer`, or None.
    """

    version = 1
    vendor = "http"

    def __init__(
        self,
        *,
        url: str,
        field: str | None = None,
        answer: str = "labels",
        name: str = "name",
        score: str | None = "score",
        key_variable: str | None = None,
        **shared: Any,
    ) -> None:
        if shared.pop("endpoint", None) is not None:
            raise InputError("service.endpoint: expected service.url for api/http, got both")
        super().__init__(**shared)
        self.address = checked_address(url, "service.url")
        self.field, self.answer, self.name, self.score = field, answer, name, score
        self.key_variable = key_variable

    def parameters(self) -> Mapping[str, Any]:
        """Return the parameters of every service, and how the answer is read."""
        read = {"field": self.field, "answer": self.answer, "name": self.name, "score": self.score}
        return {**super().parameters(), **read}

    def connect(self) -> requests.Session:
        """Return a session, for which urllib3 makes one attempt per call."""
        session = requests.Session()
        if self.key_variable is not None:
            key = self.secret(self.key_variable, f"the key of {self.address}")
            session.headers["Authorization"] = f"Bearer {key}"
        return session

    def request(self, png: bytes) -> LabelResponse:
        """Return the labels that the answer lists."""
        sent: dict[str, Any] = {"data": png, "headers": {"Content-Type": "image/png"}}
        if self.field is not None:
            sent = {"files": {self.field: ("image.png", png, "image/png")}}
        try:
            reply = self.client.post(self.address, timeout=self.timeout, **sent)
        except requests.RequestException as error:
            raise TryAgainError(f"{type(error).__name__}: {error}") from None
        status = reply.status_code
        if status != 200:
            raise error_of_status(status, f"{status} {reply.reason}", reply.headers)
        try:
            answer = reply.json()
        except ValueError as error:
            raise TryAgainError(f"malformed answer: {error}") from None
        return LabelResponse.ranked(self._labels(answer), self.labels)

    def _labels(self, found: Any) -> list[tuple[str, float]]:
        """Return names and scores. Raises ServiceError if they are not where the settings say."""
        try:
            for step in self.answer.split(".") if self.answer else ():
                found = found[int(step)] if isinstance(found, list) else found[step]
            if not isinstance(found, list):
                raise TypeError(f"{type(found).__name__} in place of a list")
            return [self._label(entry, -place) for place, entry in enumerate(found)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ServiceError(
                f"expected a list of labels at {self.answer or 'the top'!r}, each with {self.name!r}"
                + (f" and {self.score!r}" if self.score else "")
                + f", got none that can be read ({type(error).__name__}: {error})"
            ) from None

    def _label(self, entry: Any, place: float) -> tuple[str, float]:
        if isinstance(entry, str):
            return entry, place
        return str(entry[self.name]), float(entry[self.score]) if self.score else place
