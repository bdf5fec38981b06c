"""Train what a victim or a purifier learns, and keep the weights in the store.

    python -m scripts.train victim=resnet50 dataset=cifar10
    python -m scripts.train purifier=ncis dataset=cifar10
    python -m scripts.train purifier=ncis training@purifier.weights=photographs dataset=flower17

Every evaluation finds the weights there. A training that was stopped continues from its last checkpoint, and
it has no time limit.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("evaluate")

import time
from functools import partial

import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from data.errors import InputError
from data.images import Dataset
from runners.evaluation.component import Component, Config, build, to_plain_dict, usable
from runners.evaluation.devices import configure_torch
from runners.evaluation.metrics import in_batches
from runners.evaluation.progress import Bar
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from runners.tables.figures import accuracy
from victims.victim import Victim


def main(config: DictConfig) -> None:
    """Train the victim and the purifier that the command line names, by the configs that evaluate them."""
    OmegaConf.resolve(config)
    named = {word.split("=")[0].split(".")[0].split("@")[-1] for word in HydraConfig.get().overrides.task}
    parts = [part for part in ("victim", "purifier") if part in named]
    if not parts:
        raise InputError("train: expected victim=... or purifier=..., got neither")
    if "dataset" in named and "victim" in named:
        _same_labels(to_plain_dict(config.victim), build(to_plain_dict(config.dataset)))
    device, store = configure_torch(config.device, tf32=config.tf32), Store(config.store)
    for part in parts:
        start, name = time.perf_counter(), HydraConfig.get().runtime.choices[part]
        with Bar(app.console, f"training {name}") as bar, usable(f"{part} {name}"):
            report = partial(_advanced, bar)
            spec = load_or_train(to_plain_dict(config[part]), store, progress=report, device=device)
        if spec.trained is None:
            raise InputError(
                f"{part} {name} learns nothing here: it has no network, or its weights are a file"
            )
        seconds = time.perf_counter() - start
        app.tell(
            f"{part} {name}\nweights: {store.path(spec.trained)}\nsha256:  {spec.weights_sha256}\n"
            f"seconds: {seconds:.0f}"
        )
        if part == "victim":
            app.tell(f"tuning:  {_on_tuning(spec, store, device)}")


def _advanced(bar: Bar, share: float) -> None:
    bar.update(completed=share)


def _same_labels(victim: Config, dataset: Dataset) -> None:
    if victim["label_space"] != dataset.label_space:
        raise InputError(
            f"victim knows the labels of {victim['label_space']!r}, but the data set has those of "
            f"{dataset.label_space!r}; a victim is trained on its own, victim.weights.dataset"
        )


def _on_tuning(spec: Component, store: Store, device: torch.device) -> str:
    """Return the victim's accuracy on the tuning split, of which no table is made."""
    victim: Victim = spec.load(store)
    images = victim.weights.dataset.load("tuning").to(device)
    right = in_batches(victim.to(device), images.images).argmax(1) == images.labels
    return accuracy(pd.Series(right.cpu().numpy())).text(1)


if __name__ == "__main__":
    app.run(main, "evaluate")
