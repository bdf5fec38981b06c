"""The record schema: what each column of a record file holds, and how its values are made.

A record file has one row per image of a cell. A new column is one entry of `COLUMNS`; raise SCORING
(tasks.py) with it, so that stored records are scored again. Everything else that lists columns
is derived from here: what a replay compares, what an archive must hold, docs/records.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from data.errors import InputError
from data.similarity import ssim
from runners import untrusted
from runners.evaluation import metrics
from runners.evaluation.records import from_parquet
from runners.evaluation.scored import Scored

Kind = Literal["identifier", "decision", "measurement", "setting", "cost"]


@dataclass(frozen=True)
class Column:
    """One column of the records.

    Args:
        name: its name in the file.
        dtype: the pandas dtype.
        unit: "" if there is none.
        kind: a decision is an answer of the victim. A cost depends on the machine and its load, so that a
            replay does not compare it.
        meaning: one sentence for the documentation.
        value: returns the values of one chunk, one per image or one for all; None for a column that is the
            same for all images of a cell, which is added when the chunks are joined.
    """

    name: str
    dtype: str
    unit: str
    kind: Kind
    meaning: str
    value: Callable[[Scored], Any] | None = None


def _passes(place: int) -> Callable[[Scored], list[int]]:
    return lambda scored: scored.crafted["passes"][:, place].tolist()


# fmt: off
COLUMNS: tuple[Column, ...] = (
    Column("id", "str", "", "identifier", "Image id, unique in the data set.", lambda s: list(s.chunk.ids)),
    Column("label", "int64", "class", "identifier", "True label.", lambda s: s.labels.tolist()),
    Column("clean_label", "int64", "class", "decision",
           "Decision of the undefended victim on the clean image.", lambda s: s.decided["clean"].tolist()),
    Column("adversarial_label", "int64", "class", "decision",
           "Decision of the undefended victim on the adversarial image.",
           lambda s: s.decided["adversarial"].tolist()),
    Column("adversarial_label_8bit", "int64", "class", "decision",
           "The same after the adversarial image was rounded to 8 bits.",
           lambda s: s.decided["adversarial 8-bit"].tolist()),
    Column("purified_label", "int64", "class", "decision",
           "Decision of the victim on the purified image (first draw).",
           lambda s: s.decided["purified"].tolist()),
    Column("clean_confidence", "float64", "share", "measurement", "Softmax confidence of `clean_label`.",
           lambda s: s.confidence("clean")),
    Column("adversarial_confidence", "float64", "share", "measurement",
           "Softmax confidence of `adversarial_label`.", lambda s: s.confidence("adversarial")),
    Column("confidence", "float64", "share", "measurement", "Softmax confidence of `purified_label`.",
           lambda s: s.confidence("purified")),
    Column("correct", "bool", "", "decision", "Whether `purified_label` is the true label.",
           lambda s: s.right["purified"].tolist()),
    Column("correct_8bit", "boolean", "", "decision",
           "Whether the defense is right on the adversarial image rounded to 8 bits. If the purifier fits a "
           "network to each image, it is missing unless the rounding changes nothing, since it would double "
           "the cost.",
           lambda s: s.right_8_bit),
    Column("draws", "int64", "", "setting", "Scored draws of the purifier.", lambda s: len(s.draws)),
    Column("correct_mean", "float64", "share", "decision", "Share of the draws that are right.",
           lambda s: s.right_draws.float().mean(0).tolist()),
    Column("correct_majority", "bool", "", "decision",
           "Whether the class that most draws have is right; if several classes tie, the one drawn first "
           "counts.",
           lambda s: (s.majority == s.labels).tolist()),
    Column("correct_any", "bool", "", "decision", "Whether any draw is right.",
           lambda s: s.right_draws.any(0).tolist()),
    Column("correct_all", "bool", "", "decision", "Whether all draws are right.",
           lambda s: s.right_draws.all(0).tolist()),
    Column("linf", "float64", "of [0, 1]", "measurement", "Largest change of a value by the attack.",
           lambda s: s.norms[0].tolist()),
    Column("l2", "float64", "of [0, 1]", "measurement", "Euclidean norm of the attack's change.",
           lambda s: s.norms[1].tolist()),
    Column("moved", "float64", "of [0, 1]", "measurement",
           "Root mean square of the purifier's change of the adversarial image.",
           lambda s: (s.purified - s.adversarial).square().flatten(1).mean(1).sqrt().tolist()),
    Column("ssim", "float64", "", "measurement", "Structural similarity of the purified to the clean image.",
           lambda s: ssim(s.purified, s.clean).tolist()),
    Column("psnr", "float64", "dB", "measurement",
           "Peak signal-to-noise ratio of the purified to the clean image.",
           lambda s: metrics.psnr(s.purified, s.clean).tolist()),
    Column("seed", "int64", "", "setting", "Seed of the image's purification (first draw).",
           lambda s: s.seeds),
    Column("clean", "str", "", "identifier", "Store key of the chunk's clean images.", lambda s: s.keys[0]),
    Column("adversarial", "str", "", "identifier", "Store key of the chunk's adversarial images.",
           lambda s: s.keys[1]),
    Column("purified", "str", "", "identifier", "Store key of the chunk's purified images.",
           lambda s: s.keys[2]),
    Column("row", "int64", "", "identifier", "Place of the image in its chunk.",
           lambda s: range(len(s.labels))),
    Column("scored_on", "str", "", "setting",
           "Type of the device on which the images were scored.",
           lambda s: s.made["images"].device.type),
    Column("scored_with", "str", "", "setting",
           "Version of PyTorch with which the images were scored.",
           lambda s: f"torch {torch.__version__}"),
    Column("craft_seconds", "float64", "s", "cost",
           "Seconds per image that the attack took, as the mean of the chunk.",
           lambda s: s.crafted["seconds"].item()),
    Column("purify_seconds", "float64", "s", "cost",
           "Seconds per image that the purifier took, as the mean of the chunk; a shared optimisation counts "
           "in full.",
           lambda s: s.made["seconds"].item()),
    Column("purify_batch", "int64", "images", "cost",
           "How many images were purified together in memory.", lambda s: int(s.made["batch"])),
    Column("queries", "int64", "", "measurement", "Calls that the attack made about the image.", _passes(0)),
    Column("forward_passes", "int64", "", "measurement", "Forward passes of the attacked defense.",
           _passes(1)),
    Column("backward_passes", "int64", "", "measurement", "Backward passes of the attacked defense.",
           _passes(2)),
    Column("zero_gradients", "int64", "", "measurement",
           "Backward passes whose gradient was zero everywhere.", _passes(3)),
    Column("path", "object", "[queries, distance]", "measurement",
           "Distance of the nearest adversarial example after each number of queries; empty for attacks "
           "without such a path.",
           lambda s: s.paths),
    Column("notes", "str", "JSON", "measurement",
           "What the attack reports about the image; empty if it reports nothing. For gradients through a "
           "fit: the mean norm of the adjoint, for a gradient of length 1 with respect to the result "
           "(`growth`), and the mean cosine to BPDA's gradient, by the number of unrolled steps. For the "
           "adaptive attack: the member that found the example, the share of judging draws that it misled, "
           "the budget, and for each member that attacked the image its passes and what it reached.",
           lambda s: s.told("notes")),
    Column("member_seconds", "str", "JSON, s", "cost",
           "Seconds per image that each member of the adaptive attack took, as the mean of the chunk; empty "
           "for other attacks.",
           lambda s: s.told("member_seconds")),
    Column("precision", "str", "", "setting", "`float32` or `tf32`.", lambda s: s.precision),
    Column("dataset", "str", "", "identifier", "Name of the data set's config."),
    Column("victim", "str", "", "identifier", "Name of the victim's config."),
    Column("attack", "str", "", "identifier", "Name of the attack's config."),
    Column("knowledge", "str", "", "identifier", "Name of the config of what the attacker knows."),
    Column("purifier", "str", "", "identifier", "Name of the purifier's config."),
    Column("eps", "float64", "of [0, 1]", "setting",
           "Largest change that the attack may make; missing for attacks without such a bound."),
    Column("command", "str", "", "setting", "Command that evaluates the cell alone."),
    Column("subset", "str", "", "setting", "Rule and seed by which the images were chosen."),
    Column("image_ids_sha256", "str", "", "identifier", "sha256 of the image ids in their order."),
    Column("weights_sha256", "str", "", "identifier", "sha256 of the victim's weights."),
)
# fmt: on
OF_CHUNK = tuple(column for column in COLUMNS if column.value is not None)
DECISIONS = tuple(column.name for column in COLUMNS if column.kind == "decision")
COSTS = tuple(column.name for column in COLUMNS if column.kind == "cost")


def rows_of(scored: Scored) -> pd.DataFrame:
    """Return the records of one chunk, with all columns that are computed from a chunk."""
    index = range(len(scored.labels))
    return pd.DataFrame(
        {column.name: pd.Series(column.value(scored), index, column.dtype) for column in OF_CHUNK}
    )


def check_records(content: bytes, what: str) -> None:
    """Raise InputError if a chunk of records in an archive lacks a column or cannot be read."""
    with untrusted.readable(what):
        if lacking := {column.name for column in OF_CHUNK} - {*from_parquet(content)}:
            raise InputError(f"{what}: expected records; they lack {', '.join(sorted(lacking))}")
