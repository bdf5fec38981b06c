"""The record schema: what each column of a record file holds, and how its values are made.

A record file has one row per image of a cell. A new column is one entry of `COLUMNS`; raise SCORING
(cell.py) with it, so that stored records are scored again. Everything else that lists columns
is derived from here: what a replay compares, what an archive must hold, docs/records.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from data.similarity import ssim
from runners.evaluation import metrics
from runners.evaluation.scored import Scored

Kind = Literal["identifier", "decision", "measurement", "setting", "cost"]


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: its name in the file.
        dtype: the pandas dtype.
        unit: "" where there is none.
        meaning: one sentence for the documentation.
        kind: a decision is an answer of the victim. A cost depends on the machine and its load, so that a
            replay does not compare it.
        value: makes the values of one chunk, one per image or one for all; None for a column that is the same
            for all images of a cell, which is added when the chunks are joined.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    kind: Kind
    value: Callable[[Scored], Any] | None = None


def _passes(place: int) -> Callable[[Scored], list[int]]:
    return lambda scored: scored.crafted["passes"][:, place].tolist()


COLUMNS: tuple[Column, ...] = (
    Column("id", "str", "", "Image id, unique in the data set.", "identifier", lambda s: list(s.chunk.ids)),
    Column("label", "int64", "class", "True label.", "identifier", lambda s: s.labels.tolist()),
    Column(
        "clean_label",
        "int64",
        "class",
        "Decision of the undefended victim on the clean image.",
        "decision",
        lambda s: s.decided["clean"].tolist(),
    ),
    Column(
        "adversarial_label",
        "int64",
        "class",
        "Decision of the undefended victim on the adversarial image.",
        "decision",
        lambda s: s.decided["adversarial"].tolist(),
    ),
    Column(
        "adversarial_label_8bit",
        "int64",
        "class",
        "The same after the adversarial image was rounded to 8 bits.",
        "decision",
        lambda s: s.decided["adversarial 8-bit"].tolist(),
    ),
    Column(
        "purified_label",
        "int64",
        "class",
        "Decision of the victim on the purified image (first draw).",
        "decision",
        lambda s: s.decided["purified"].tolist(),
    ),
    Column(
        "clean_confidence",
        "float64",
        "share",
        "Softmax confidence of `clean_label`.",
        "measurement",
        lambda s: s.confidence("clean"),
    ),
    Column(
        "adversarial_confidence",
        "float64",
        "share",
        "Softmax confidence of `adversarial_label`.",
        "measurement",
        lambda s: s.confidence("adversarial"),
    ),
    Column(
        "confidence",
        "float64",
        "share",
        "Softmax confidence of `purified_label`.",
        "measurement",
        lambda s: s.confidence("purified"),
    ),
    Column(
        "correct",
        "bool",
        "",
        "Whether `purified_label` is the true label.",
        "decision",
        lambda s: s.right["purified"].tolist(),
    ),
    Column(
        "correct_8bit",
        "boolean",
        "",
        "Whether the defense is right on the adversarial image rounded to 8 bits; missing where the purifier "
        "fits a network to each image, which would double the cost.",
        "decision",
        lambda s: s.right["purified 8-bit"].tolist() if "purified 8-bit" in s.right else None,
    ),
    Column("draws", "int64", "", "Scored draws of the purifier.", "setting", lambda s: len(s.draws)),
    Column(
        "correct_mean",
        "float64",
        "share",
        "Share of the draws that are right.",
        "decision",
        lambda s: s.right_draws.float().mean(0).tolist(),
    ),
    Column(
        "correct_majority",
        "bool",
        "",
        "Whether the class of most draws is right; of several, the one drawn first.",
        "decision",
        lambda s: (s.majority == s.labels).tolist(),
    ),
    Column(
        "correct_any",
        "bool",
        "",
        "Whether any draw is right.",
        "decision",
        lambda s: s.right_draws.any(0).tolist(),
    ),
    Column(
        "correct_all",
        "bool",
        "",
        "Whether all draws are right.",
        "decision",
        lambda s: s.right_draws.all(0).tolist(),
    ),
    Column(
        "linf",
        "float64",
        "of [0, 1]",
        "Largest change of a value by the attack.",
        "measurement",
        lambda s: s.norms[0].tolist(),
    ),
    Column(
        "l2",
        "float64",
        "of [0, 1]",
        "Euclidean norm of the attack's change.",
        "measurement",
        lambda s: s.norms[1].tolist(),
    ),
    Column(
        "moved",
        "float64",
        "of [0, 1]",
        "Root mean square of what the purifier changes.",
        "measurement",
        lambda s: (s.purified - s.adversarial).square().flatten(1).mean(1).sqrt().tolist(),
    ),
    Column(
        "ssim",
        "float64",
        "",
        "Structural similarity of the purified to the clean image.",
        "measurement",
        lambda s: ssim(s.purified, s.clean).tolist(),
    ),
    Column(
        "psnr",
        "float64",
        "dB",
        "Peak signal-to-noise ratio of the purified to the clean image.",
        "measurement",
        lambda s: metrics.psnr(s.purified, s.clean).tolist(),
    ),
    Column(
        "seed", "int64", "", "Seed of the image's purification (first draw).", "setting", lambda s: s.seeds
    ),
    Column("clean", "str", "", "Store key of the chunk's clean images.", "identifier", lambda s: s.keys[0]),
    Column(
        "adversarial",
        "str",
        "",
        "Store key of the chunk's adversarial images.",
        "identifier",
        lambda s: s.keys[1],
    ),
    Column(
        "purified", "str", "", "Store key of the chunk's purified images.", "identifier", lambda s: s.keys[2]
    ),
    Column(
        "row", "int64", "", "Place of the image in its chunk.", "identifier", lambda s: range(len(s.labels))
    ),
    Column(
        "scored_on", "str", "", "Device type that scored.", "setting", lambda s: s.made["images"].device.type
    ),
    Column(
        "scored_with",
        "str",
        "",
        "PyTorch version that scored.",
        "setting",
        lambda s: f"torch {torch.__version__}",
    ),
    Column(
        "craft_seconds",
        "float64",
        "s",
        "Seconds per image of the attack, of its chunk's mean.",
        "cost",
        lambda s: s.crafted["seconds"].item(),
    ),
    Column(
        "purify_seconds",
        "float64",
        "s",
        "Seconds per image of the purifier, of its chunk's mean; a shared optimisation counts in full.",
        "cost",
        lambda s: s.made["seconds"].item(),
    ),
    Column(
        "purify_batch",
        "int64",
        "images",
        "Images that memory held while they were purified together.",
        "cost",
        lambda s: int(s.made["batch"]),
    ),
    Column("queries", "int64", "", "Calls that the attack made about the image.", "measurement", _passes(0)),
    Column(
        "forward_passes", "int64", "", "Forward passes of the attacked defense.", "measurement", _passes(1)
    ),
    Column(
        "backward_passes", "int64", "", "Backward passes of the attacked defense.", "measurement", _passes(2)
    ),
    Column(
        "zero_gradients",
        "int64",
        "",
        "Backward passes whose gradient was zero everywhere.",
        "measurement",
        _passes(3),
    ),
    Column(
        "path",
        "object",
        "[queries, distance]",
        "Nearest adversarial example after so many queries; empty for attacks without such a path.",
        "measurement",
        lambda s: s.paths,
    ),
    Column(
        "notes",
        "str",
        "JSON",
        "What the attack tells of the image; empty if it tells nothing. Of gradients through a fit: the "
        "means of their adjoint norms and of their cosines to BPDA's gradient, by the number of unrolled "
        "steps. Of the adaptive attack: the member that found the example, the share of judging draws that "
        "it misled, the budget, and for each member that attacked the image its passes and what it reached.",
        "measurement",
        lambda s: s.told("notes"),
    ),
    Column(
        "member_seconds",
        "str",
        "JSON, s",
        "Seconds per image of each member of the adaptive attack, of its chunk's mean; else empty.",
        "cost",
        lambda s: s.told("member_seconds"),
    ),
    Column("precision", "str", "", "float32 or tf32.", "setting", lambda s: s.precision),
    Column("dataset", "str", "", "Name of the data set's config.", "identifier"),
    Column("victim", "str", "", "Name of the victim's config.", "identifier"),
    Column("attack", "str", "", "Name of the attack's config.", "identifier"),
    Column("knowledge", "str", "", "Name of the config of what the attacker knows.", "identifier"),
    Column("purifier", "str", "", "Name of the purifier's config.", "identifier"),
    Column("eps", "float64", "of [0, 1]", "Radius of the attack's ball; missing without one.", "setting"),
    Column("command", "str", "", "Command that evaluates the cell alone.", "setting"),
    Column("subset", "str", "", "Rule and seed by which the images were chosen.", "setting"),
    Column("image_ids_sha256", "str", "", "sha256 of the image ids in their order.", "identifier"),
    Column("weights_sha256", "str", "", "sha256 of the victim's weights.", "identifier"),
)
OF_CHUNK = tuple(column for column in COLUMNS if column.value is not None)
DECISIONS = tuple(column.name for column in COLUMNS if column.kind == "decision")
COSTS = tuple(column.name for column in COLUMNS if column.kind == "cost")


def rows_of(scored: Scored) -> pd.DataFrame:
    """The records of one chunk: all columns that have values of their own."""
    index = range(len(scored.labels))
    return pd.DataFrame(
        {column.name: pd.Series(column.value(scored), index, column.dtype) for column in OF_CHUNK}
    )
