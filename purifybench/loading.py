"""Loads victims and data sets as the runners do."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import nn

from data.errors import InputError
from data.images import Dataset, Images
from data.process_state import restored
from runners import app
from runners.composition import composed
from runners.evaluate import settings_of
from runners.evaluation.component import build, to_plain_dict, usable
from runners.evaluation.devices import configure_torch
from runners.evaluation.stages import Worker
from runners.evaluation.subset import sample_subset
from runners.evaluation.weights import ComponentLoader
from runners.store.store import Store


@overload
def load(
    *, victim: str, overrides: Sequence[str] = (), config_dir: Path | str | None = None
) -> nn.Module: ...


@overload
def load(
    *,
    dataset: str,
    n: int | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> Images: ...


def load(
    *,
    victim: str | None = None,
    dataset: str | None = None,
    n: int | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> nn.Module | Images:
    """Return a victim, or images of a data set.

    Args:
        victim: the name of a config. Its weights are verified, or trained if it has none yet. The victim is
            in evaluation mode, takes images in [0, 1] and returns logits.
        dataset: the name of a config. The images are those that an evaluation uses.
        n: the number of images; None for all of the split.
        overrides: further arguments of the command line, such as "split=tuning" or "seed=1".
        config_dir: a folder with configs of your own.

    Raises InputError, with a message of one line, for input that cannot be loaded.
    """
    if (victim is None) == (dataset is None):
        raise InputError(
            'load: expected either victim="..." or dataset="...", got '
            + ("neither" if victim is None else "both")
        )
    if victim is not None:
        return _victim(victim, overrides, config_dir)
    config, _ = composed("evaluate", [f"dataset={dataset}", *overrides], config_dir=config_dir)
    with usable(f"dataset {dataset}"):
        source: Dataset = build(to_plain_dict(config.dataset))
        index = source.index(config.split)
        count = len(index.ids) if n is None else n
        picked = sample_subset(config.subset, index, count, seed=config.seed, classes=source.classes)
        return index.take(picked)


def _victim(name: str, overrides: Sequence[str], config_dir: Path | str | None) -> nn.Module:
    config, _ = composed("evaluate", [f"victim={name}", *overrides], config_dir=config_dir)
    settings = settings_of(config)
    with restored(torch.device("cpu")):
        device = configure_torch(settings.device, tf32=settings.tf32)
        worker = Worker(Store(settings.store), device, settings.precision)
        loader = ComponentLoader(worker.store, device, app.console, settings.budget_hours)
        return worker.load(loader.load(to_plain_dict(config.victim), "victim", "victim"))
