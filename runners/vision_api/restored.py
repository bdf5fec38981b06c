"""Measures how far a purifier restores a vision API's labels: records of pairs, and results over them.

NCIS: Cha, Ko, Yoo, Moon 2021, https://arxiv.org/abs/2106.11644, supplement 4.2.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from purifiers.purifier import Purifier
from runners.evaluation.component import Component, seed_of
from runners.evaluation.metrics import share_interval, wilson
from runners.evaluation.stages import Worker
from runners.store.artifact import Artifact
from runners.tables.figures import Figure
from runners.vision_api.answers import Asker
from runners.vision_api.pairs import Pair
from runners.vision_api.services.response import LabelResponse
from runners.vision_api.services.service import eight_bit, png

METRICS = {"prediction-accuracy": "Prediction accuracy", "top1": "Top-1 accuracy", "top5": "Top-5 accuracy"}
KINDS = ("clean", "adversarial")  # what is purified: the paper's standard and robust


@dataclass
class Restorer:
    """Purifies pairs and asks a service about the results.

    Purified images are kept in the store with 8 bits per value.
    """

    worker: Worker
    seed: int
    chunk: int

    def records(self, pairs: Sequence[Pair], spec: Component, asker: Asker) -> pd.DataFrame:
        """Return one row for each pair: the labels of its four images, and the metrics of `score`.

        Raises PurifierError, and raises as `Asker.answer` does.
        """
        purifier: Purifier = self.worker.load(spec)
        most, rows = asker.service.labels, []
        purified = {
            kind: self._purified(purifier, spec, [(pair.id, getattr(pair, kind)) for pair in pairs])
            for kind in KINDS
        }
        for place, pair in enumerate(pairs):
            row = {
                "id": pair.id,
                "clean_labels": list(pair.clean_answer.labels),
                "adversarial_labels": list(pair.adversarial_answer.labels),
                "seed": seed_of(self.seed, pair.id, "purify"),
            }
            for kind in KINDS:
                answer = asker.answer(purified[kind][place])
                row[f"purified_{kind}_labels"] = list(answer.labels)
                row[f"purified_{kind}_scores"] = list(answer.scores)
                scored = score(pair.clean_answer, answer, most)
                row |= {f"{metric}_{kind}": value for metric, value in scored.items()}
                row[f"fewer_{kind}"] = len(answer.labels) < most
            rows.append(row)
        return pd.DataFrame(rows)

    def _purified(
        self, purifier: Purifier, spec: Component, images: Sequence[tuple[str, Tensor]]
    ) -> list[Tensor]:
        """Return each image purified with its own seed, from the store or computed now."""
        artifacts = [self._artifact(spec, image_id, image) for image_id, image in images]
        stored = [self.worker.store.get(artifact) for artifact in artifacts]
        lacking = [place for place, content in enumerate(stored) if content is None]
        for start in range(0, len(lacking), self.chunk):
            places = lacking[start : start + self.chunk]
            batch = torch.stack([images[place][1] for place in places]).to(self.worker.device)
            seeds = [seed_of(self.seed, images[place][0], "purify") for place in places]
            for place, image in zip(places, purifier(batch, seeds=seeds), strict=True):
                stored[place] = png(image)
                self.worker.store.put(artifacts[place], stored[place])
        return [_read(content) for content in stored]

    def _artifact(self, spec: Component, image_id: str, image: Tensor) -> Artifact:
        inputs = {
            "image": hashlib.sha256(eight_bit(image).tobytes()).hexdigest(),
            "shape": list(image.shape),
            "purifier": spec.identity,
            "seed": seed_of(self.seed, image_id, "purify"),
            "precision": self.worker.precision,
        }
        return Artifact("sent", inputs)


def _read(content: bytes) -> Tensor:
    pixels = np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32) / 255
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)


def score(clean: LabelResponse, purified: LabelResponse, most: int) -> dict[str, float]:
    """Return the paper's three metrics for one image.

    Labels that the service does not name count as missing. Prediction accuracy is the share of the clean
    image's `most` labels that the purified image has. Top-1 is whether the first label is the same, and top-5
    whether the clean image's first label is among the purified image's.
    """
    back = len(set(clean.labels[:most]) & set(purified.labels[:most]))
    return {
        "prediction-accuracy": back / most,
        "top1": float(purified.labels[:1] == clean.labels[:1]),
        "top5": float(clean.labels[0] in purified.labels[:most]),
    }


def figure(records: pd.DataFrame, metric: str, kind: str) -> Figure:
    """Return a metric's value over the images with its 95 % interval.

    For prediction accuracy it is the mean share of labels that come back, otherwise the share of images.
    """
    values = records[f"{metric}_{kind}"].to_numpy(float)
    if metric == "prediction-accuracy":
        return Figure(float(values.mean()), *share_interval(values), len(values))
    return Figure(float(values.mean()), *wilson(int(values.sum()), len(values)), len(values))


def criterion(records: pd.DataFrame) -> Figure:
    """Return the result by which iterations are chosen (supplement 4.3).

    It is the prediction accuracy, as the mean of clean and adversarial images.
    """
    both = sum(records[f"prediction-accuracy_{kind}"] for kind in KINDS).to_numpy(float) / len(KINDS)
    return Figure(float(both.mean()), *share_interval(both), len(both))
