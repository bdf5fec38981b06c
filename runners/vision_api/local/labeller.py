"""The labels that the vision API on this machine answers with: a victim's, and faults on request."""

import io
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from runners.vision_api.local.formats import Asked, Labels
from victims.victim import Victim


class Labeller:
    """Maps a PNG to the names of the victim's best classes and their probabilities.

    Attributes:
        calls: how many calls reached the service, by vendor; calls that met a fault are included.
        faults: the faults of the next calls in their order, one for each: of FAULTS, or None.
        fewer: how many labels are cut from the end of every answer.
        after: the Retry-After header of a busy answer.
    """

    def __init__(self, victim: Victim, classes: Sequence[str], *, slow: float = 60) -> None:
        self.victim, self.classes, self.slow = victim, list(classes), slow
        self.calls: Counter[str] = Counter()
        self.faults: list[str | None] = []
        self.fewer, self.after = 0, "0"
        self.lock = threading.Lock()

    def label(self, asked: Asked) -> Labels:
        """Return the labels of an image, best first, at most as many as the request asks for."""
        pixels = np.asarray(Image.open(io.BytesIO(asked.image)).convert("RGB"), dtype=np.float32) / 255
        with self.lock, torch.no_grad():
            logits = self.victim(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0))[0]
        shares, places = logits.softmax(0).sort(descending=True, stable=True)
        pairs = zip(places.tolist(), shares.tolist(), strict=True)
        labels = [(self.classes[place], share) for place, share in pairs if share >= asked.least]
        return labels[: max(min(asked.most, 20) - self.fewer, 0)]

    def called(self, vendor: str) -> str | None:
        """Count a call, and return the fault that it meets, if any."""
        with self.lock:
            self.calls[vendor] += 1
            return self.faults.pop(0) if self.faults else None
