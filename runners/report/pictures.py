"""The images behind a result, read from the store: clean, adversarial, purified, and their differences."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from PIL import Image

from runners.store.artifact import DamagedError, content_of, place

log = logging.getLogger(__name__)

KINDS = ("clean", "adversarial", "noise ×10", "purified", "residual ×10")
STAGES = ("clean", "adversarial", "purified")
AMPLIFIED = 10  # factor by which differences are enlarged around grey


@dataclass(frozen=True)
class Picture:
    """One image of one cell: its record, and its views by KINDS, each (H, W, 3) of 8 bits per value.

    The noise is the adversarial minus the clean image. The residual is the purified minus the clean image:
    the noise that is left, and what else the purifier changed.
    """

    record: Mapping[str, Any]
    views: Mapping[str, np.ndarray]


class Pictures:
    """Reads images from the store at `root`, and keeps the chunks that it read last in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._chunk = lru_cache(maxsize=24)(self._read)

    def of(self, records: pd.DataFrame, count: int) -> list[Picture]:
        """Return up to `count` images of one cell, wrongly classified ones first.

        Images that the store lacks are left out.
        """
        if not set(STAGES) <= set(records.columns):
            return []
        pictures = (
            self._picture(record) for record in failures_first(records).head(count).to_dict("records")
        )
        return [picture for picture in pictures if picture is not None]

    def _picture(self, record: Mapping[str, Any]) -> Picture | None:
        chunks = [self._chunk(stage, record[stage]) for stage in STAGES]
        if any(chunk is None or record["row"] >= len(chunk) for chunk in chunks):
            return None
        clean, adversarial, purified = (chunk[record["row"]] for chunk in chunks)
        restored = _sized(purified, clean.shape[1:])
        views = (clean, adversarial, _amplified(adversarial - clean), purified, _amplified(restored - clean))
        return Picture(record, {kind: as_bytes(view) for kind, view in zip(KINDS, views, strict=True)})

    def _read(self, stage: str, key: Any) -> np.ndarray | None:
        """Return the images (N, C, H, W) of a chunk, or None if the store does not have all of them."""
        if not isinstance(key, str):  # records that are older than this column
            return None
        path = place(self.root, stage, key)
        try:
            content = content_of(path)
        except OSError:
            return None
        except DamagedError as error:
            log.warning("%s: %s; its images are left out", error, path)
            return None
        try:
            return safetensors.numpy.load(content)["images"]
        except (safetensors.SafetensorError, KeyError) as error:
            log.warning("left out: %s contains no images (%s)", path, error)
            return None


def failures_first(records: pd.DataFrame) -> pd.DataFrame:
    """Return wrongly classified images before the others, each in the subset's own order."""
    return records.sort_values("correct", kind="stable")


def _sized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return an image (C, H, W) resized to this height and width.

    A purifier may return an image that is larger than the clean one.
    """
    if image.shape[1:] == tuple(size):
        return image
    layers = [Image.fromarray(layer).resize(size[::-1], Image.Resampling.BICUBIC) for layer in image]
    return np.stack([np.asarray(layer) for layer in layers]).clip(0, 1)


def _amplified(difference: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + AMPLIFIED * difference, 0, 1)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) bytes; a single channel becomes grey."""
    rounded = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(rounded, (*rounded.shape[:2], 3)) if rounded.shape[2] == 1 else rounded
