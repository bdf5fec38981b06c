"""Trained weights that come with the project, so that the first result does not wait for a training."""

import json
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from hydra.utils import get_class
from torch import Tensor

from data.weights import WeightFile
from runners.app import CONFIGS

log = logging.getLogger(__name__)

PROJECT = CONFIGS.parent
FOLDER = PROJECT / "results" / "weights"
RECIPE = "recipe"  # the name of the recipe in a file's metadata
NOT_TRAINED = {"shipped", "path", "root", "source", "published"}  # arguments that change no trained weight


def recipe_of(config: dict[str, Any], afterwards: Collection[str] = ()) -> str:
    """All that the weights of a component depend on, as JSON: its arguments, and the names and versions of
    its classes. A class is named without its module, so that it may move within its top-level folder.

    Args:
        afterwards: the component's arguments on which its training does not depend.
    """
    learnt = {name: item for name, item in config.items() if name not in afterwards}
    return json.dumps(_described(learnt), sort_keys=True)


def _described(item: Any) -> Any:
    if isinstance(item, list):
        return [_described(inner) for inner in item]
    if not isinstance(item, dict):
        return item
    described = {name: _described(inner) for name, inner in item.items() if name not in NOT_TRAINED}
    if target := described.pop("_target_", None):
        package, _, name = target.partition(".")[0], *target.rpartition(".")[1:]
        described["class"] = f"{package}.{name}, version {getattr(get_class(target), 'version', 1)}"
    return described


def shipped_content(config: dict[str, Any], component: Any) -> bytes | None:
    """The content of the weight file that a component's trainer names as shipped.

    None where it names none, where the file is not there, and where it was made by another recipe than the
    config's, so that changed parameters are always trained anew. Raises InputError for a file that is not the
    one that its sha256 names, or that does not fit the component.
    """
    shipped: WeightFile | None = getattr(component.weights, "shipped", None)
    if shipped is None:
        return None
    shipped = replace(shipped, path=str(PROJECT / shipped.path))
    if not Path(shipped.path).is_file():
        log.warning("%s is not there, so its weights are trained here and may differ a little", shipped.path)
        return None
    recipe = recipe_of(config, getattr(component, "afterwards", ()))
    if shipped.metadata().get(RECIPE) != recipe:
        return None
    component.freeze(shipped.load())
    return shipped.read()


def to_ship(state: dict[str, Tensor], recipe: str) -> bytes:
    """The content of a weight file with the recipe in its metadata."""
    return safetensors.torch.save(state, metadata={RECIPE: recipe})
