"""The measurements on one chunk of a cell, from which its records are made."""

import json
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from data.images import Images, resized, rounded
from data.listing import LazyImages
from runners.evaluation import metrics
from victims.checks import probabilities


@dataclass(frozen=True)
class Scored:
    """One chunk of clean, adversarial and purified images, and the victim's answers about them.

    Raises ArithmeticError if an answer is not a finite logit.

    Args:
        victim: returns logits.
        chunk: the clean images and their labels.
        crafted: adversarial "images"; "seconds" per image; "passes" (N, 4), which are queries, forward and
            backward passes and gradients that were zero; "paths" (rows of image, queries, distance) of
            attacks that look for the nearest adversarial example; and for attacks that report on their
            examples, the UTF-8 bytes of JSON lists with an entry for each image ("notes", "member_seconds").
        made: purified "images"; "seconds" per image; how many were purified at once ("batch"); the victim's
            decisions under each draw of the purifier ("decided", (draws, N)); and, if they were made, the
            purified 8-bit roundings of the adversarial images ("of_8_bit"), and for which of the images that
            is, if it is not for all ("has_8_bit", (N,)).
        precision: "float32" or "tf32".
        keys: the store's keys of the clean, the adversarial and the purified images.
        seeds: the seed of each image's purification.
    """

    victim: nn.Module
    chunk: Images | LazyImages
    crafted: dict[str, Tensor]
    made: dict[str, Tensor]
    precision: str
    keys: tuple[str, str, str]
    seeds: list[int]

    @cached_property
    def logits(self) -> dict[str, Tensor]:
        given = {
            "clean": self.clean,
            "adversarial": self.adversarial,
            "adversarial 8-bit": rounded(self.adversarial),
            "purified": self.made["images"],
        }
        if "of_8_bit" in self.made:
            given["purified 8-bit"] = self.made["of_8_bit"]
        logits = {
            name: finite(metrics.in_batches(self.victim, images), name).cpu()
            for name, images in given.items()
        }
        if probabilities(logits["clean"]):
            raise ArithmeticError("the victim answers with probabilities; expected logits, before a softmax")
        return logits

    @cached_property
    def decided(self) -> dict[str, Tensor]:
        return {name: outputs.argmax(1) for name, outputs in self.logits.items()}

    @cached_property
    def right(self) -> dict[str, Tensor]:
        """Whether the decisions on each kind of image are the true labels."""
        return {name: decided == self.labels for name, decided in self.decided.items()}

    @property
    def right_8_bit(self) -> list[bool | None]:
        """Whether the defense is right on each image after rounding; None if that was not computed."""
        nothing = torch.zeros(len(self.labels), dtype=torch.bool)
        right = self.right.get("purified 8-bit", nothing)
        known = self.made.get("has_8_bit", nothing | ("of_8_bit" in self.made))
        return [bool(r) if k else None for r, k in zip(right, known, strict=True)]

    def confidence(self, name: str) -> list[float]:
        """Return the softmax confidence of the decisions on one kind of image."""
        return self.logits[name].softmax(1).amax(1).tolist()

    @property
    def labels(self) -> Tensor:
        return self.chunk.labels.cpu()

    @cached_property
    def clean(self) -> Tensor:
        return self.chunk.images

    @property
    def adversarial(self) -> Tensor:
        return self.crafted["images"]

    @cached_property
    def purified(self) -> Tensor:
        """The purified images at the size of the clean ones."""
        return resized(self.made["images"], self.clean.shape[2:])

    @cached_property
    def norms(self) -> tuple[Tensor, Tensor]:
        return metrics.norms(self.adversarial, self.clean)

    @cached_property
    def draws(self) -> Tensor:
        """The (draws, N) decisions under each draw of the purifier."""
        return self.made["decided"].cpu()

    @property
    def right_draws(self) -> Tensor:
        return self.draws == self.labels

    @property
    def majority(self) -> Tensor:
        """The (N,) classes that most draws give; if several tie, the one that was drawn first."""
        return majority_of(self.draws)

    def told(self, what: str) -> list[str]:
        """Return what the attack reports about each image under this name, as JSON, or empty text."""
        if what not in self.crafted:
            return [""] * len(self.labels)
        entries = json.loads(bytes(self.crafted[what].cpu().tolist()))
        return [json.dumps(entry) if entry else "" for entry in entries]

    @property
    def paths(self) -> list[list[list[float]]]:
        points = self.crafted["paths"].tolist()
        return [[point[1:] for point in points if point[0] == i] for i in range(len(self.labels))]


def finite(logits: Tensor, name: str) -> Tensor:
    """Return the victim's logits of images that messages call `name`; raise ArithmeticError if one is not
    finite."""
    if not torch.isfinite(logits).all():
        raise ArithmeticError(f"the victim's logits of {name} images hold NaN or infinity")
    return logits


def majority_of(draws: Tensor) -> Tensor:
    """Return the (N,) classes that most of the (draws, N) give; if several tie, the one drawn first."""
    votes = (draws.unsqueeze(0) == draws.unsqueeze(1)).sum(0)  # how many draws give the same class
    return draws.gather(0, votes.argmax(0, keepdim=True))[0]
