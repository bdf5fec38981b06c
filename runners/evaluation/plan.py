"""The plan of a cell: the images and components that it is evaluated with, and the tasks that this takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console

from attacks.attack import Attack
from attacks.knowledge import Knowledge, UnsuitedError
from data.errors import InputError, MissingError
from data.images import Dataset, Images, Index, cut
from data.listing import LazyImages
from runners.evaluation import subset
from runners.evaluation.cell import Cell
from runners.evaluation.compatibility import check_split_consistency, same_labels
from runners.evaluation.component import Component, build, usable
from runners.evaluation.identity import identity
from runners.evaluation.metrics import in_batches
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.evaluation.tasks import Crafting, Purifying
from runners.evaluation.weights import ComponentLoader
from runners.store.artifact import Artifact, key_of


@dataclass
class Planner:
    """Plans cells under one set of settings; what several cells need is prepared once."""

    settings: Settings
    worker: Worker
    console: Console
    _indices: dict[str, tuple[Dataset, Index]] = field(default_factory=dict)
    _chunks: dict[str, list[Images | LazyImages]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        worker, hours = self.worker, self.settings.budget_hours
        self.loader = ComponentLoader(
            worker.store, worker.device, self.console, hours, may_train=self.settings.workers != 0
        )

    def check_parameters(self, cells: Sequence[Cell]) -> None:
        """Raise InputError for bad parameters, before any training."""
        for cell in cells:
            for part, config in cell.configs.items():
                if not isinstance(config.get("_target_"), str):
                    raise InputError(
                        f"{part} {cell.names[part]}: expected a config with _target_, the name of a class "
                        f"such as purifiers.jpeg.JPEG, got {', '.join(config) or 'an empty config'}"
                    )
        known = [(cell, other) for cell in cells for other in cell.surrogates.values()]
        # If only one of several is the victim, as in OAG's Table II, its column is a white-box attack.
        if known and all(identity(other) == identity(cell.configs["victim"]) for cell, other in known):
            victim = known[0][0].names["victim"]
            raise InputError(
                f"knowledge.victims: expected another classifier than the victim, got {victim} for both, so "
                "that nothing would be transferred; name another with victim= or "
                "victim@knowledge.victims.first="
            )
        for parts in (
            [cell.configs["attack"] for cell in cells],
            [cell.knowledge for cell in cells],
            [cell.configs["purifier"] for cell in cells],
        ):
            for config in {key_of(part): part for part in parts}.values():
                build(config)

    def plan(self, cell: Cell) -> list[Purifying]:
        """Return the tasks of the cell, one for each chunk of its images; their only purifier is the cell's.

        Raises UnsuitedError, for which a cell is skipped, if files of the attack, of the purifier or of a
        surrogate are missing, or if the attack cannot be run with this knowledge on this purifier. Raises
        MissingError if the data set or the victim is missing.
        """
        dataset: Dataset = build(cell.configs["dataset"])
        about = cell.names["dataset"], dataset.label_space
        surrogates = {f"knowledge.victims.{name}": config for name, config in cell.surrogates.items()}
        same_labels("victim " + cell.names["victim"], cell.configs["victim"].get("label_space"), *about)
        parts = {name: cell.configs[name] for name in ("victim", "purifier")} | surrogates
        for name, config in parts.items():
            check_split_consistency(name, config, cell.configs["dataset"], dataset.divided_by)
        chunks = self._images(cell)
        attack, knowledge = Component(cell.configs["attack"]), Component(cell.knowledge)
        attack_object: Attack = attack.object
        knowledge_object: Knowledge = knowledge.object
        try:
            attack_object.verify_files()
            purifier = self.loader.load(cell.configs["purifier"], cell.names["purifier"], "purifier")
            for where, config in surrogates.items():
                same_labels(where, config.get("label_space"), *about)
            loaded = tuple(
                self.loader.load(config, "another victim", where) for where, config in surrogates.items()
            )
        except MissingError as error:
            raise UnsuitedError(str(error)) from error
        knowledge_object.check(attack_object, self.worker.load(purifier))
        victim = self._victim(cell)  # last, since its training may take hours
        sees_purifier = knowledge_object.uses_purifier and attack_object.needs is not None
        draws = self.settings.draws_of(self.worker.load(purifier), attacked=sees_purifier)
        tasks = []
        for chunk in chunks:
            crafting = Crafting(
                chunk=chunk,
                victim=victim,
                attack=attack,
                knowledge=knowledge,
                purifier=purifier if sees_purifier else None,
                surrogates=loaded,
                seed=self.settings.seed,
                precision=self.settings.precision,
            )
            tasks.append(Purifying(crafting, (purifier,), draws, self.worker.keeping.every))
        return tasks

    def _victim(self, cell: Cell) -> Component:
        return self.loader.load(cell.configs["victim"], "victim", "victim")

    def _images(self, cell: Cell) -> list[Images | LazyImages]:
        """Return the images of the cell in chunks; no other images are read.

        Raises MissingError if the data set is missing, InputError if it is damaged, and the errors of
        `sample_subset`.
        """
        needs_victim = self.settings.subset == subset.OF_VICTIM
        name = key_of({part: cell.configs[part] for part in ("dataset", *(["victim"] * needs_victim))})
        if name not in self._chunks:
            config, what = cell.configs["dataset"], f"dataset {cell.names['dataset']}"
            if (key := key_of(config)) not in self._indices:
                with usable(what):
                    dataset: Dataset = build(config)
                    self._indices[key] = dataset, dataset.index(self.settings.split)
            dataset, index = self._indices[key]
            if needs_victim:
                positions = self._sample_of_victim(cell, dataset, index)
            else:
                positions = self._sample(dataset, index)
            with usable(what):
                chunks = [index.take_lazy(part) for part in cut(positions, self.settings.chunk)]
                for chunk in chunks:
                    chunk.digest  # noqa: B018, a file that cannot be read is reported now
                self._chunks[name] = chunks
        return self._chunks[name]

    def _sample(self, dataset: Dataset, index: Index, right: subset.Right | None = None) -> list[int]:
        settings = self.settings
        return subset.sample_subset(
            settings.subset, index, settings.n, seed=settings.seed, classes=dataset.classes, right=right
        )

    def _sample_of_victim(self, cell: Cell, dataset: Dataset, index: Index) -> list[int]:
        """Return the positions for a rule that needs the victim, from the store if it has them."""
        victim = self._victim(cell)
        inputs = {
            "rule": self.settings.subset,
            "n": self.settings.n,
            "seed": self.settings.seed,
            "index": index.fingerprint,
            "dataset": identity(cell.configs["dataset"]),
            "victim": victim.identity,
            "precision": self.settings.precision,
        }
        artifact = Artifact("subset", inputs)

        def right(positions: Sequence[int]) -> list[bool]:
            with usable(f"dataset {cell.names['dataset']}"):
                images = index.take(positions).to(self.worker.device)
            with usable(f"victim {cell.names['victim']}"):
                network = self.worker.load(victim)
                return (in_batches(network, images.images).argmax(1) == images.labels).tolist()

        stored = self.worker.store.get_tensors(artifact)
        if stored is None:
            with self.console.status("choosing images that the victim classifies correctly"):
                stored = {"positions": torch.tensor(self._sample(dataset, index, right))}
            self.worker.store.put_tensors(artifact, stored)
        return stored["positions"].tolist()
