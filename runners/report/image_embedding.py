"""The images of a page, each embedded once as a data URI that is small enough to be sent with the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from runners.report.pictures import KINDS, Picture

SMALL = 64  # longest side in pixels of an image that is kept exactly
LARGEST = 160  # longest side in pixels, to which larger images are reduced


@dataclass
class EmbeddedImages:
    """The encoded images of a page, which its pictures share."""

    images: dict[str, str] = field(default_factory=dict)  # data URIs by name

    def add(self, picture: Picture) -> dict[str, Any]:
        """Add a picture, and return it in the form that the page's script needs."""
        record, names = picture.record, []
        suffix = f"{record['row']:x}"
        shared = {
            "clean": record["clean"][:12],
            "adversarial": record["adversarial"][:12],
            "noise ×10": "n" + record["adversarial"][:12],
            "purified": record["purified"][:12],
            "residual ×10": "r" + record["purified"][:12],
        }
        for kind in KINDS:
            name = f"{shared[kind]}.{suffix}"
            if name not in self.images:
                self.images[name] = encoded(picture.views[kind], exact="×" not in kind)
            names.append(name)
        return {
            "id": record["id"],
            "views": names,
            "says": [
                _says(record["clean_label"], record.get("clean_confidence")),
                _says(record["adversarial_label"], record.get("adversarial_confidence")),
                "",
                _says(record["purified_label"], record.get("confidence")),
                "",
            ],
            "about": f"{record['id']}, class {record['label']}, SSIM {record['ssim']:.3f}",
            "correct": bool(record["correct"]),
            "small": max(picture.views["clean"].shape[:2]) <= SMALL,
        }

    def used(self, figures: Sequence[Sequence[Mapping[str, Any]]], count: int) -> dict[str, str]:
        """Return the images that the first `count` pictures of each result show."""
        names = {name for pictures in figures for picture in pictures[:count] for name in picture["views"]}
        return {name: uri for name, uri in self.images.items() if name in names}

    def fitting(self, figures: Sequence[Sequence[Mapping[str, Any]]], count: int, limit: int) -> int:
        """Return how many pictures of each result, at most `count`, fit into `limit` characters."""
        while count and sum(map(len, self.used(figures, count).values())) > limit:
            count -= 1
        return count


def encoded(view: np.ndarray, *, exact: bool) -> str:
    """Return an image (H, W, 3) of 8 bits per value as a data URI in WebP.

    It is lossless if `exact` is true and the image is small.
    """
    image, file = Image.fromarray(np.ascontiguousarray(view)), io.BytesIO()
    if max(image.size) > SMALL:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        exact = False
    if exact:
        image.save(file, "WEBP", lossless=True, quality=50, method=2)
    else:
        image.save(file, "WEBP", quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _says(label: int, confidence: float | None) -> str:
    percentage = "" if confidence is None or confidence != confidence else f", {100 * confidence:.0f} %"
    return f"class {label}{percentage}"
