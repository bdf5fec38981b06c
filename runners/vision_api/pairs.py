"""Pairs of a clean and an adversarial image for which a vision API returns entirely different labels.

NCIS: Cha, Ko, Yoo, Moon 2021, https://arxiv.org/abs/2106.11644, supplement 4.1. Images are attacked on an
ensemble of other classifiers; a pair is kept if the service's labels of the two have none in common.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from data.images import Images, Index, rounded
from runners.evaluation.component import Component
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting
from runners.vision_api.answers import Asker
from runners.vision_api.services.response import LabelResponse


@dataclass(frozen=True)
class Pair:
    """A clean and an adversarial image (C, H, W) of 8 bits per value, and the service's labels of both."""

    id: str
    clean: Tensor
    adversarial: Tensor
    clean_answer: LabelResponse
    adversarial_answer: LabelResponse


@dataclass
class Found:
    """The pairs in the order of the candidates, and how many other candidates there were."""

    pairs: list[Pair] = field(default_factory=list)
    looked_at: int = 0
    short: int = 0  # candidates of which an image has fewer labels than required
    shared: int = 0  # candidates whose images have a label in common


@dataclass
class Candidates:
    """Clean images with their adversarial examples, made chunk by chunk as needed and kept in the store.

    Both are rounded to 8 bits, as they are sent. The clean image is rounded before it is attacked, so that
    its adversarial example is inside the ball after rounding, too.
    """

    index: Index
    positions: Sequence[int]
    chunk: int
    attack: Component
    knowledge: Component
    ensemble: tuple[Component, ...]
    seed: int
    worker: Worker

    def crafting(self, start: int) -> Crafting:
        """Return the crafting task of the chunk that starts at this candidate."""
        images = self.index.take(self.positions[start : start + self.chunk])
        return Crafting(
            chunk=Images(images.ids, rounded(images.images), images.labels),
            victim=self.ensemble[0],  # a transfer attack does not use the victim
            attack=self.attack,
            knowledge=self.knowledge,
            purifier=None,
            surrogates=self.ensemble,
            seed=self.seed,
            precision=self.worker.precision,
        )

    def __iter__(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the id, the clean image and the adversarial image of each candidate."""
        for start in range(0, len(self.positions), self.chunk):
            crafting = self.crafting(start)
            adversarial = rounded(self.worker.adversarial(crafting)["images"])
            yield from zip(crafting.chunk.ids, crafting.chunk.images, adversarial, strict=True)


def find(
    candidates: Candidates, asker: Asker, wanted: int, progress: Callable[[Found], None] = lambda found: None
) -> Found:
    """Find the first `wanted` pairs, or fewer if there are no more.

    A pair is kept if both images have as many labels as the service's setting `labels` says, and none in
    common. `progress` is called after each candidate. Raises as `Asker.answer` does, because skipping a
    candidate without an answer would make the choice depend on chance.
    """
    found, most = Found(), asker.service.labels
    for image_id, clean, adversarial in candidates:
        if len(found.pairs) == wanted:
            break
        found.looked_at += 1
        first = asker.answer(clean)
        second = asker.answer(adversarial) if len(first.labels) == most else None
        if second is None or len(second.labels) < most:
            found.short += 1
        elif set(first.labels) & set(second.labels):
            found.shared += 1
        else:
            found.pairs.append(Pair(image_id, clean, adversarial, first, second))
        progress(found)
    return found
