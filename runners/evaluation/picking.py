"""Picks the images that cells are evaluated on: lists a split once, and reads only what is picked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console

from data.images import Dataset, Images, Index, cut
from data.listing import LazyImages
from runners.evaluation import subset
from runners.evaluation.cell import Cell
from runners.evaluation.component import Spec, build, usable
from runners.evaluation.identity import identity
from runners.evaluation.metrics import in_batches
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.store.store import key_of


@dataclass
class Picking:
    """The subset of each cell in chunks, under one rule and seed."""

    settings: Settings
    worker: Worker
    console: Console
    indices: dict[str, tuple[Dataset, Index]] = field(default_factory=dict)
    chosen: dict[str, list[Images | LazyImages]] = field(default_factory=dict)

    def chunks(self, cell: Cell, victim: Callable[[], Spec]) -> list[Images | LazyImages]:
        """The cell's images. `victim` makes it ready; it is called where the rule asks the victim.

        Raises MissingError for a data set that is not there, InputError for one that is damaged, and as
        `subset.choose`.
        """
        asked = self.settings.subset == subset.OF_VICTIM
        name = key_of({part: cell.configs[part] for part in ("dataset", *(["victim"] * asked))})
        if name not in self.chosen:
            dataset, index = self._index(cell)
            if asked:
                positions = self._of_victim(cell, dataset, index, victim())
            else:
                positions = self._choose(dataset, index)
            with usable(f"dataset {cell.names['dataset']}"):
                chunks = [index.take_lazy(part) for part in cut(positions, self.settings.chunk)]
                for chunk in chunks:
                    chunk.digest  # noqa: B018, a file that cannot be read is said now
                self.chosen[name] = chunks
        return self.chosen[name]

    def _index(self, cell: Cell) -> tuple[Dataset, Index]:
        config = cell.configs["dataset"]
        if (name := key_of(config)) not in self.indices:
            with usable(f"dataset {cell.names['dataset']}"):
                dataset: Dataset = build(config)
                self.indices[name] = dataset, dataset.index(self.settings.split)
        return self.indices[name]

    def _choose(self, dataset: Dataset, index: Index, right: subset.Right | None = None) -> list[int]:
        settings = self.settings
        return subset.sample_subset(
            settings.subset, index, settings.n, seed=settings.seed, classes=dataset.classes, right=right
        )

    def _of_victim(self, cell: Cell, dataset: Dataset, index: Index, victim: Spec) -> list[int]:
        """What the rule gives with this victim, from the store where it is there."""
        recipe = {
            "stage": "subset",
            "rule": self.settings.subset,
            "n": self.settings.n,
            "seed": self.settings.seed,
            "index": index.fingerprint,
            "dataset": identity(cell.configs["dataset"]),
            "victim": victim.identity,
            "precision": self.settings.precision,
        }

        def right(positions: Sequence[int]) -> list[bool]:
            with usable(f"dataset {cell.names['dataset']}"):
                asked = index.take(positions).to(self.worker.device)
            with usable(f"victim {cell.names['victim']}"):
                return (in_batches(network, asked.images).argmax(1) == asked.labels).tolist()

        stored = self.worker.store.get_tensors(recipe)
        if stored is None:
            network = self.worker.component(victim)
            with self.console.status("choosing images that the victim classifies correctly"):
                stored = {"positions": torch.tensor(self._choose(dataset, index, right))}
            self.worker.store.put_tensors(recipe, stored)
        return stored["positions"].tolist()
