"""What stands behind the vision API on this machine: a victim, and the faults that it is told to have."""

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
    """A PNG to the names of the victim's best classes, with their probabilities.

    Attributes:
        calls: by vendor, each one that reached the service, also those that a fault befell.
        faults: what befalls the next calls, one each and in this order: of FAULTS, or None.
        fewer: labels that every answer lacks at its end.
        after: the Retry-After of a busy answer.
    """

    def __init__(self, victim: Victim, classes: Sequence[str], *, slow: float = 60) -> None:
        self.victim, self.classes, self.slow = victim, list(classes), slow
        self.calls: Counter[str] = Counter()
        self.faults: list[str | None] = []
        self.fewer, self.after = 0, "0"
        self.lock = threading.Lock()

    def label(self, asked: Asked) -> Labels:
        """At most so many labels, best first."""
        pixels = np.asarray(Image.open(io.BytesIO(asked.image)).convert("RGB"), dtype=np.float32) / 255
        with self.lock, torch.no_grad():
            logits = self.victim(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0))[0]
        shares, places = logits.softmax(0).sort(descending=True, stable=True)
        pairs = zip(places.tolist(), shares.tolist(), strict=True)
        found = [(self.classes[place], share) for place, share in pairs if share >= asked.least]
        return found[: max(min(asked.most, 20) - self.fewer, 0)]

    def called(self, vendor: str) -> str | None:
        """Count a call; the fault that befalls it."""
        with self.lock:
            self.calls[vendor] += 1
            return self.faults.pop(0) if self.faults else None
