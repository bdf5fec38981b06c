"""Components with their weights, which are read from a file or from the store, or trained now."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from data.errors import InputError, MissingError
from data.from_datasets import SavedDataset
from data.images import Dataset
from data.listing import FileDataset
from data.weights import UnverifiedError, WeightFile
from runners.evaluation.component import INNER, Component, Config, build, usable, weights_of
from runners.evaluation.identity import identity
from runners.evaluation.own_state import own_state
from runners.evaluation.progress import Allowance, Bar
from runners.evaluation.shipped import shipped_content
from runners.evaluation.task_progress import EVERY, Reached, forget_reached, reached_of, write_reached
from runners.store.artifact import Artifact, key_of
from runners.store.holder import Holder
from runners.store.store import Store


@dataclass
class Training:
    """The state and the progress of a training that goes on, as the store holds them."""

    store: Store
    weights: Artifact
    begun: tuple[float, float] | None = field(default=None, init=False)  # time and share of the first report
    written: float = field(default=-EVERY, init=False)

    @property
    def checkpoint(self) -> Artifact:
        return Artifact("checkpoint", {"of": self.weights.key})

    def load(self) -> dict[str, Tensor] | None:
        """Return the state that was saved last, or None."""
        return self.store.get_tensors(self.checkpoint)

    def save(self, state: dict[str, Tensor]) -> None:
        """Replace the saved state."""
        self.store.put_tensors(self.checkpoint, state)

    def report(self, share: float) -> None:
        """Record how far the training is; this is called after each step and writes every few seconds."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = now, share
        if now - self.written < EVERY:
            return
        since, first = self.begun
        left = (now - since) * (1 - share) / (share - first) if share > first else None
        write_reached(self.store, self.weights.key, Reached(share, left=left))
        self.written = now


class UntrainedError(InputError):
    """Raised if weights would have to be trained in a run that computes nothing."""


Waiting = Callable[[Holder, Reached], None]  # who trains, and how far the training has come


def load_or_train(
    config: Config,
    store: Store,
    *,
    progress: Callable[[float], None] | None = None,
    waiting: Waiting = lambda holder, reached: None,
    device: torch.device | None = None,
    may_train: bool = True,
) -> Component:
    """Return the component with weights that are known.

    They are those of its file, those that come with the project or that the store has, or else trained ones;
    training uses `device` if the component can be trained there. One process trains, and others that need the
    same weights wait for it; `waiting` is called with the process that they wait for. Raises MissingError if
    a file is missing, InputError if one does not fit, UntrainedError if a training is needed and not allowed.
    """
    if inner := next((config[part] for part in INNER if part in config), None):
        loaded = load_or_train(
            inner, store, progress=progress, waiting=waiting, device=device, may_train=may_train
        )
        return Component(config, loaded.weights_sha256, loaded.trained)  # the weights are the inner one's
    component = build(config)
    weights = weights_of(component)
    if weights is None:
        return Component(config, own_state(component))
    if isinstance(weights, WeightFile):
        component.load_frozen(weights.load())
        return Component(config, weights.digest())
    trained = trained_weights(config, component)
    content = shipped_content(config, component)
    if content is not None and store.get(trained) != content:
        store.put(trained, content)
    content = content or store.get(trained)
    if content is None:
        name = config["_target_"].rpartition(".")[2]
        if not may_train:
            raise UntrainedError(f"the weights of {name} are not in the store, and nothing is trained here")
        training = Training(store, trained)
        what = f"training: {name}"

        def wait(holder: Holder) -> None:
            waiting(holder, reached_of(store, trained.key))

        with store.leases.alone(trained.key, what, wait):
            content = store.get(trained) or train(component, training, progress=progress, device=device)
    return Component(config, hashlib.sha256(content).hexdigest(), trained)


def trained_weights(config: Config, component: Any) -> Artifact:
    """Return the weights that the training of a component makes, in the store or not."""
    inference_only = getattr(component, "inference_only", frozenset())
    learnt = {name: item for name, item in config.items() if name not in inference_only}
    return Artifact("weights", {"component": identity(learnt), **_learnt_from(component.weights.dataset)})


def _learnt_from(dataset: Dataset) -> dict[str, Any]:
    """Return which images are learnt from a data set in files, since its folder may change."""
    is_in_files = isinstance(dataset, FileDataset | SavedDataset)
    return {"images": dataset.index("train").fingerprint} if is_in_files else {}


def train(
    component: Any,
    training: Training,
    *,
    progress: Callable[[float], None] | None = None,
    device: torch.device | None = None,
) -> bytes:
    """Train the component, store its weights and return them; a training that was stopped continues."""
    store, weights = training.store, component.weights
    wanted = {"checkpoint": training} if getattr(component, "resumable", False) else {}
    if getattr(weights, "gpu", False) and device is not None:
        wanted["device"] = device

    def advanced(share: float) -> None:
        training.report(share)
        if progress is not None:
            progress(share)

    try:
        state: Mapping[str, Tensor] = weights.fit(component, progress=advanced, **wanted)
    finally:
        forget_reached(store, training.weights.key)
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise InputError("training diverged (NaN or infinite weights): lower its lr")
    store.put_tensors(training.weights, dict(state))
    store.remove(training.checkpoint)
    content = store.get(training.weights)
    if content is None:
        raise InputError(f"store {store.root}: what was written cannot be read back")
    return content


@dataclass
class ComponentLoader:
    """Loads each component of a run once; its weights are verified, or trained if a run may take that long.

    Args:
        device: the device on which components are trained.
        budget_hours: a training that would take longer is refused.
        may_train: whether a training that is needed may begin; otherwise it raises UntrainedError.
    """

    store: Store
    device: torch.device
    console: Console
    budget_hours: float
    may_train: bool = field(default=True, kw_only=True)
    loaded: dict[str, Component | MissingError] = field(default_factory=dict)

    def load(self, config: Config, what: str, where: str) -> Component:
        """Return the component of a config.

        Raises MissingError if a file is missing, InputError if the component cannot be used.

        Args:
            what: the name of the component in messages.
            where: the setting that holds the config, such as "victim" or "knowledge.victims.first".
        """
        name = key_of(config)
        if name not in self.loaded:
            try:
                with usable(what), _naming(config, where):
                    self.loaded[name] = self._load(config, what)
            except MissingError as error:
                self.loaded[name] = error
        component = self.loaded[name]
        if isinstance(component, MissingError):
            raise component
        return component

    def _load(self, config: Config, what: str) -> Component:
        allowance = Allowance(what, self.budget_hours)
        with Bar(self.console, f"training {what}") as bar:

            def advanced(share: float) -> None:
                allowance.check(share)
                bar.update(completed=share, description=f"training {what}")

            def waiting(holder: Holder, reached: Reached) -> None:
                description = f"{what} is being trained by {holder.label}"
                bar.update(completed=reached.share, left=reached.left, description=description)

            return load_or_train(
                config,
                self.store,
                progress=advanced,
                waiting=waiting,
                device=self.device,
                may_train=self.may_train,
            )


@contextmanager
def _naming(config: Config, where: str) -> Iterator[None]:
    """Name the whole setting in the error about a weight file whose sha256 is not set."""
    try:
        yield
    except UnverifiedError as error:
        setting = ".".join(filter(None, (where, _setting_of(config, str(error.path)), "sha256")))
        raise UnverifiedError(error.path, error.found, setting) from error


def _setting_of(config: Any, path: str) -> str:
    """Return the setting of the weight file at `path`, such as "weights.start"; empty if there is none."""
    for name, item in config.items() if isinstance(config, dict) else ():
        if isinstance(item, dict) and item.get("path") == path:
            return name
        if inner := _setting_of(item, path):
            return f"{name}.{inner}"
    return ""
