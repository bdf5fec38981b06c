"""The base class of vision APIs, with the one call through which all of them are asked.

NCIS (Cha, Ko, Yoo, Moon 2021, https://arxiv.org/abs/2106.11644), section 5.3, puts purifiers in front of
four.
"""

import importlib
import io
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any, ClassVar, final
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from torch import Tensor

from data.errors import InputError, MissingError
from data.images import resized
from runners.vision_api.services.response import Calls, LabelResponse, ServiceError, TryAgainError

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 120.0  # seconds between attempts; doubled unless the service states them


class Service(ABC):
    """A vision API: maps an image (1 or 3, H, W) in [0, 1], sent as 8-bit PNG, to at most `labels` labels.

    A subclass says how to `connect` with the vendor's own client and how to `request`. Waiting, attempts and
    counting are done here. The client's own retries are switched off, so that each call is counted.
    Credentials are read from the environment variables that the vendor uses, and are written into no config,
    record or message.

    Attributes:
        version: raised on any change of what is asked or how answers are read.
        vendor: the name of the service in configs.
        languages: the languages in which the service can return labels.
        smallest: the smallest side of an image, in pixels, that the service accepts.

    Args:
        labels: how many labels count; the paper has five.
        language: the language of the labels.
        endpoint: the service's address; None for the vendor's own.
        side: images whose shorter side has fewer pixels are enlarged to it (bicubic); None leaves them.
        timeout: seconds that one attempt may take.
        attempts: how often an image is tried if the service is busy, slow or broken.
        per_second: the most calls per second.
    """

    version: ClassVar[int] = 1
    vendor: ClassVar[str]
    languages: ClassVar[tuple[str, ...]] = ("en",)
    smallest: ClassVar[int] = 1

    def __init__(
        self,
        *,
        labels: int = 5,
        language: str = "en",
        endpoint: str | None = None,
        side: int | None = None,
        timeout: float = 30,
        attempts: int = 6,
        per_second: float = 5,
    ) -> None:
        if language not in self.languages:
            raise InputError(
                f"service.language: {self.vendor} has labels in {', '.join(self.languages)}; got {language!r}"
            )
        for name, value in (("labels", labels), ("attempts", attempts)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"service.{name}: expected at least 1, got {value!r}")
        for name, value in (("timeout", timeout), ("per_second", per_second)):
            if not isinstance(value, int | float) or not value > 0:
                raise InputError(f"service.{name}: expected a number above 0, got {value!r}")
        if side is not None and (not isinstance(side, int) or side < 1):
            raise InputError(f"service.side: expected pixels, or null, got {side!r}")
        self.labels, self.language, self.side = labels, language, side
        self.endpoint = self.address = (
            None if endpoint is None else checked_address(endpoint, "service.endpoint")
        )
        self.timeout, self.attempts, self.per_second = timeout, attempts, per_second
        self.calls: Calls | None = None
        self.secrets: list[str] = []
        self.client: Any = None
        self._next = 0.0

    @abstractmethod
    def connect(self) -> Any:
        """Return the vendor's client, and set `address` to what it asks. Makes no call.

        Raises MissingError if the client is not installed or there are no credentials.
        """

    @abstractmethod
    def request(self, png: bytes) -> LabelResponse:
        """Make one call, and return the labels.

        Raises TryAgainError, RefusedError, or ServiceError if another attempt would be useless.
        """

    def parameters(self) -> Mapping[str, Any]:
        """Return what an answer depends on besides the pixels; `open` must be called first."""
        return {
            "vendor": self.vendor,
            "version": self.version,
            "address": self.address,
            "labels": self.labels,
            "language": self.language,
        }

    @final
    def open(self) -> None:
        """Make the client once. Makes no call."""
        if self.client is None:
            self.client = self.connect()

    @final
    def ask(self, image: Tensor) -> LabelResponse:
        """Return the service's labels of one image that `fitted` returned.

        Raises CapError or RefusedError, or ServiceError if there is no answer after all attempts.
        """
        if self.calls is None:
            raise ValueError("expected a cap on calls before the first: service.calls = Calls(...)")
        self.open()
        content, reason = png(image), ""
        for attempt in range(self.attempts):
            self._pace()
            self.calls.spend()
            try:
                return self.request(content)
            except TryAgainError as error:
                reason = self.said(error)
                wait = FIRST_WAIT * 2**attempt if error.after is None else error.after
                if wait > LONGEST_WAIT and error.after is not None:
                    raise ServiceError(
                        f"{self.vendor}: {reason}; it asks to come back in {wait:.0f} s, more than is waited"
                    ) from None
                log.debug("%s: attempt %d failed: %s", self.vendor, attempt + 1, reason)
                if attempt + 1 < self.attempts:
                    sleep(min(wait, LONGEST_WAIT))
            except ServiceError as error:
                raise type(error)(f"{self.vendor}: {self.said(error)}") from None
        raise ServiceError(f"{self.vendor}: no answer in {self.attempts} attempts; the last: {reason}")

    def fitted(self, image: Tensor) -> Tensor:
        """Return the image as it is sent, but not yet rounded: enlarged to `side` if it is smaller.

        Raises InputError for an image that the service does not accept.
        """
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise InputError(f"{self.vendor}: expected images of 1 or 3 channels, got {tuple(image.shape)}")
        shorter = min(image.shape[1:])
        if self.side is not None and shorter < self.side:
            size = [round(length * self.side / shorter) for length in image.shape[1:]]
            image = resized(image.unsqueeze(0), size)[0]
        if min(image.shape[1:]) < self.smallest:
            height, width = image.shape[1:]
            raise InputError(
                f"{self.vendor} takes images of at least {self.smallest}x{self.smallest} pixels, got "
                f"{height}x{width}: enlarge them with side={self.smallest} or more"
            )
        return image

    def said(self, error: Exception) -> str:
        """Return the first line of an error, without credentials."""
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text[:300]

    def secret(self, name: str, what: str) -> str:
        """Return a credential from the environment. Raises MissingError with its name if it is not set."""
        value = os.environ.get(name, "").strip()
        if not value:
            raise MissingError(f"service {self.vendor}: no credentials: set {name} ({what})")
        self.secrets.append(value)
        return value

    def _pace(self) -> None:
        now = monotonic()
        if now < self._next:
            sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.per_second


def eight_bit(image: Tensor) -> np.ndarray:
    """Return an image (C, H, W) in [0, 1] as its nearest 8-bit values (H, W, C)."""
    return np.ascontiguousarray((image.detach().cpu() * 255).round().byte().permute(1, 2, 0).numpy())


def png(image: Tensor) -> bytes:
    """Return a lossless PNG file of the image's nearest 8-bit values."""
    pixels, file = eight_bit(image), io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def client_library(module: str, vendor: str) -> Any:
    """Import a vendor's client.

    Raises MissingError, which says how to install it, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingError(
            f"service {vendor}: {error.name} is not installed: pip install -c constraints.txt -e "
            f"'.[{vendor}]'"
        ) from error


def checked_address(address: str, name: str) -> str:
    """Return an http or https address without credentials in it.

    Raises InputError for anything else, and says where the address comes from.
    """
    parts = urlsplit(str(address))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{name}: expected http://... or https://..., got {str(address)!r}")
    if parts.username or parts.password:
        raise InputError(f"{name}: expected an address without user and password in it")
    if any(re.search("key|token|secret|password|signature", part) for part in parse_qs(parts.query.lower())):
        raise InputError(
            f"{name}: expected an address without credentials in it; a key is read from key_variable"
        )
    return str(address).rstrip("/")
