"""Components made ready for a run: weights verified, or trained within what the run may take; each once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from data.errors import InputError, MissingError
from data.weights import UnverifiedError
from runners.evaluation.component import INNER, Config, Spec, load_or_train, usable, victims_for
from runners.evaluation.progress import Allowance, Bar
from runners.evaluation.stages import Worker
from runners.evaluation.training_progress import Reached
from runners.store.leases import Holder
from runners.store.store import key_of


@dataclass
class Ready:
    """What a run has made ready so far.

    Args:
        budget_hours: a training that would take longer by its first steps is refused.
    """

    worker: Worker
    console: Console
    budget_hours: float
    specs: dict[str, Spec | MissingError] = field(default_factory=dict)

    def spec(self, config: Config, what: str, where: str) -> Spec:
        """The component; `what` is its name for people, `where` the setting that holds its config.

        Raises MissingError where a file is missing, InputError where it cannot be used.
        """
        name = key_of(config)
        if name not in self.specs:
            try:
                with usable(what), _naming(config, where):
                    self.specs[name] = self._made(config, what)
            except MissingError as error:
                self.specs[name] = error
        found = self.specs[name]
        if isinstance(found, MissingError):
            raise found
        return found

    def _made(self, config: Config, what: str) -> Spec:
        allowance = Allowance(what, self.budget_hours)
        with Bar(self.console, f"training {what}") as bar:

            def told(share: float) -> None:
                allowance.check(share)
                bar.update(completed=share, description=f"training {what}")

            def waiting(holder: Holder, reached: Reached | None) -> None:
                share, left = (0.0, None) if reached is None else (reached.share, reached.left)
                bar.update(completed=share, left=left, description=f"{what}: trained by {holder.label}")

            return load_or_train(
                config, self.worker.store, progress=told, waiting=waiting, device=self.worker.device
            )


def same_labels(what: str, known: str | None, dataset: str, labels: str) -> None:
    """Raise InputError where a classifier's labels mean something else than the data set's."""
    if known is None:
        raise InputError(f"{what}: expected a label_space in its config, such as {labels!r}; got none")
    if known != labels:
        fitting = ", ".join(victims_for(labels)) or "none"
        raise InputError(
            f"{what} knows the labels of {known!r}, but dataset {dataset} has those of {labels!r}; "
            f"victims for it: {fitting}"
        )


def apart(what: str, component: Config, dataset: Config, divided_by: Sequence[str]) -> None:
    """Raise InputError where a component learns the evaluated data set in another division: some images
    that it learns would be among those that it is tested on."""
    for inner in INNER:
        component = component.get(inner, component)
    learnt = (component.get("weights") or {}).get("dataset", {})
    if learnt.get("_target_") != dataset["_target_"]:
        return
    for name in divided_by:
        if learnt.get(name) != dataset.get(name):
            raise InputError(
                f"{what}: learns images with {name}={learnt.get(name)}, of which some are evaluated with "
                f"dataset.{name}={dataset.get(name)}; set {what}.weights.dataset.{name}={dataset.get(name)}"
            )


@contextmanager
def _naming(config: Config, where: str) -> Iterator[None]:
    """Name the whole setting in the error about a weight file whose sha256 is not set.

    Args:
        where: the setting that holds `config`: "victim", "knowledge.victims.first".
    """
    try:
        yield
    except UnverifiedError as error:
        setting = ".".join(filter(None, (where, _setting_of(config, str(error.path)), "sha256")))
        raise UnverifiedError(error.path, error.found, setting) from error


def _setting_of(config: Any, path: str) -> str:
    """Where a config names the weight file at `path`: "weights", "weights.start"; empty where it does not."""
    for name, item in config.items() if isinstance(config, dict) else ():
        if isinstance(item, dict) and item.get("path") == path:
            return name
        if inner := _setting_of(item, path):
            return f"{name}.{inner}"
    return ""
