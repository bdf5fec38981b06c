"""Answers of vision APIs, which are kept in the store so that an image is asked about only once."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from runners.store.artifact import Artifact
from runners.store.store import Store
from runners.vision_api.services.response import Calls, LabelResponse
from runners.vision_api.services.service import Service, eight_bit


@dataclass
class Asker:
    """A service and its earlier answers.

    An answer is found by the 8-bit pixels of the sent image and by the parameters of the service.

    Attributes:
        models: the versions of the service's model, as named in the answers that were used.
        dates: the days on which these answers were given.
        kept: how many answers came from the store.
    """

    service: Service
    store: Store
    calls: Calls
    models: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)
    kept: int = 0

    def __post_init__(self) -> None:
        self.service.calls = self.calls
        self.service.open()

    def answer(self, image: Tensor) -> LabelResponse:
        """Return the labels of one image (C, H, W) in [0, 1]. Raises as `Service.ask` does.

        Only answers are kept in the store; errors are not.
        """
        sent = self.service.fitted(image)
        artifact = self._artifact(sent)
        content = self.store.get(artifact)
        if content is None:
            answer = self.service.ask(sent)
            stored: dict[str, Any] = {"labels": answer.labels, "scores": answer.scores, "model": answer.model}
            content = json.dumps(stored | {"date": datetime.now(UTC).date().isoformat()}).encode()
            self.store.put(artifact, content)
        else:
            self.kept += 1
        stored = json.loads(content)
        self.dates.add(stored["date"])
        self.models.add(stored["model"])
        return LabelResponse(tuple(stored["labels"]), tuple(stored["scores"]), stored["model"])

    def _artifact(self, sent: Tensor) -> Artifact:
        pixels = eight_bit(sent)
        digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return Artifact("answers", {"service": dict(self.service.parameters()), "pixels": digest})
