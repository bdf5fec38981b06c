"""Records: one Parquet row an image of a cell, and what reads them back."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from data.images import Images, resized, rounded
from data.listing import Unread
from data.similarity import ssim
from runners.cells import metrics
from victims.checks import probabilities

TIMINGS = ("craft_seconds", "purify_seconds")
PROVENANCE = b"purifybench"  # its key in the metadata of a Parquet file


def score(
    victim: nn.Module,
    chunk: Images | Unread,
    crafted: dict[str, Tensor],
    made: dict[str, Tensor],
    *,
    precision: str,
    keys: tuple[str, str, str],
    seeds: list[int],
) -> pd.DataFrame:
    """Records of one chunk of one cell.

    Args:
        crafted: adversarial images; seconds an image; passes (N, 4), which are queries, forward and backward
            passes and gradients that were zero; paths (rows of image, queries, distance) of attacks that look
            for the nearest.
        made: purified images; seconds an image; how many were purified at once (batch); and what became of
            the adversarial images rounded to 8 bits (of_8_bit), if they were purified too; the victim's
            decisions under each draw of the purifier (decided).
        precision: "float32" or "tf32".
        keys: the store's names of the clean, the adversarial and the purified images.
        seeds: of each image's purification.
    """
    adversarial, purified = crafted["images"], made["images"]
    given = {
        "clean": chunk.images,
        "adversarial": adversarial,
        "adversarial 8-bit": rounded(adversarial),
        "purified": purified,
    }
    if "of_8_bit" in made:
        given["purified 8-bit"] = made["of_8_bit"]
    logits = {name: metrics.in_batches(victim, images).cpu() for name, images in given.items()}
    for name, outputs in logits.items():
        if not torch.isfinite(outputs).all():
            raise ArithmeticError(f"the victim's logits of {name} images hold NaN or infinity")
    if probabilities(logits["clean"]):
        raise ArithmeticError("the victim answers with probabilities; expected logits, before a softmax")
    decided = {name: outputs.argmax(1) for name, outputs in logits.items()}
    sure = {name: outputs.softmax(1).amax(1).tolist() for name, outputs in logits.items()}
    right = {name: (labels == chunk.labels.cpu()) for name, labels in decided.items()}
    draws = made["decided"].cpu()
    right_draws = draws == chunk.labels.cpu()
    linf, l2 = metrics.norms(adversarial, chunk.images)
    passes, paths = crafted["passes"].tolist(), crafted["paths"].tolist()
    seen = resized(purified, chunk.images.shape[2:])
    return pd.DataFrame(
        {
            "id": list(chunk.ids),
            "label": chunk.labels.tolist(),
            "clean_label": decided["clean"].tolist(),
            "adversarial_label": decided["adversarial"].tolist(),
            "adversarial_label_8bit": decided["adversarial 8-bit"].tolist(),
            "purified_label": decided["purified"].tolist(),
            "clean_confidence": sure["clean"],
            "adversarial_confidence": sure["adversarial"],
            "confidence": sure["purified"],
            "correct": right["purified"].tolist(),
            "correct_8bit": pd.array(
                right["purified 8-bit"].tolist() if "of_8_bit" in made else [None] * len(chunk), "boolean"
            ),
            "draws": len(draws),
            "correct_mean": right_draws.float().mean(0).tolist(),
            "correct_majority": (_most(draws) == chunk.labels.cpu()).tolist(),
            "correct_any": right_draws.any(0).tolist(),
            "correct_all": right_draws.all(0).tolist(),
            "linf": linf.tolist(),
            "l2": l2.tolist(),
            "moved": (seen - adversarial).square().flatten(1).mean(1).sqrt().tolist(),
            "ssim": ssim(seen, chunk.images).tolist(),
            "psnr": metrics.psnr(seen, chunk.images).tolist(),
            "seed": seeds,
            "clean": keys[0],
            "adversarial": keys[1],
            "purified": keys[2],
            "row": range(len(chunk)),
            "scored_on": purified.device.type,
            "scored_with": f"torch {torch.__version__}",
            "craft_seconds": crafted["seconds"].item(),
            "purify_seconds": made["seconds"].item(),
            "purify_batch": int(made["batch"]),
            "queries": [of_one[0] for of_one in passes],
            "forward_passes": [of_one[1] for of_one in passes],
            "backward_passes": [of_one[2] for of_one in passes],
            "zero_gradients": [of_one[3] for of_one in passes],
            "path": [[point[1:] for point in paths if point[0] == i] for i in range(len(chunk))],
            "precision": precision,
        }
    )


def _most(draws: Tensor) -> Tensor:
    """(draws, N) to (N,): the class of most draws; of several, the one drawn first."""
    same = (draws.unsqueeze(0) == draws.unsqueeze(1)).sum(0)  # how many draws answer as this one
    return draws.gather(0, same.argmax(0, keepdim=True))[0]


def to_parquet(records: pd.DataFrame, provenance: Mapping[str, Any] | None = None) -> bytes:
    """Parquet bytes; with `provenance` as JSON in the file's metadata."""
    table, file = pa.Table.from_pandas(records, preserve_index=False), io.BytesIO()
    if provenance is not None:
        told = {PROVENANCE: json.dumps(provenance, sort_keys=True, allow_nan=False).encode()}
        table = table.replace_schema_metadata({**table.schema.metadata, **told})
    pq.write_table(table, file)
    return file.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """Records as they were written."""
    return pd.read_parquet(io.BytesIO(content))
