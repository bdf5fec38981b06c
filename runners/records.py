"""Records: one Parquet row an image of a cell, and what reads them back."""

import io

import pandas as pd
import torch
from torch import Tensor, nn

from data.images import Images, resized
from data.similarity import ssim
from runners import metrics

TIMINGS = ("craft_seconds", "purify_seconds")


def score(
    victim: nn.Module,
    chunk: Images,
    adversarial: Tensor,
    purified: Tensor,
    *,
    seconds: tuple[float, float],
    batch: int,
    precision: str,
    keys: tuple[str, str],
    seeds: list[int],
) -> pd.DataFrame:
    """Records of one chunk of one cell.

    Args:
        seconds: wall seconds an image of crafting and of purifying.
        batch: how many images were purified at once.
        precision: "float32" or "tf32".
        keys: the store's names of the adversarial and the purified images.
        seeds: of each image's purification.
    """
    clean, attacked, logits = (
        metrics.in_batches(victim, images).cpu() for images in (chunk.images, adversarial, purified)
    )
    for name, outputs in (("clean", clean), ("adversarial", attacked), ("purified", logits)):
        if not torch.isfinite(outputs).all():
            raise ArithmeticError(f"the victim's logits of {name} images hold NaN or infinity")
    decided, confidence = logits.argmax(1), logits.softmax(1).amax(1)
    linf, l2 = metrics.norms(adversarial, chunk.images)
    seen = resized(purified, chunk.images.shape[2:])
    return pd.DataFrame(
        {
            "id": list(chunk.ids),
            "label": chunk.labels.tolist(),
            "clean_label": clean.argmax(1).tolist(),
            "adversarial_label": attacked.argmax(1).tolist(),
            "purified_label": decided.tolist(),
            "confidence": confidence.tolist(),
            "correct": (decided == chunk.labels).tolist(),
            "linf": linf.tolist(),
            "l2": l2.tolist(),
            "ssim": ssim(seen, chunk.images).tolist(),
            "psnr": metrics.psnr(seen, chunk.images).tolist(),
            "seed": seeds,
            "adversarial": keys[0],
            "purified": keys[1],
            "row": range(len(chunk)),
            "scored_on": purified.device.type,
            "scored_with": f"torch {torch.__version__}",
            "craft_seconds": seconds[0],
            "purify_seconds": seconds[1],
            "purify_batch": batch,
            "precision": precision,
        }
    )


def to_parquet(records: pd.DataFrame) -> bytes:
    """Parquet bytes."""
    file = io.BytesIO()
    records.to_parquet(file, index=False)
    return file.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """Records as they were written."""
    return pd.read_parquet(io.BytesIO(content))
