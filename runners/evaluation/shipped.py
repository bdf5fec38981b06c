"""Trained weights that come with the project, so that the first result needs no training."""

import json
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from data.weights import WeightFile
from runners.evaluation.identity import identity
from runners.places import ROOT

log = logging.getLogger(__name__)

RECIPE = "recipe"  # the name of the recipe in a file's metadata


def recipe_of(config: dict[str, Any], inference_only: Collection[str] = ()) -> str:
    """Return the identity of everything that the weights of a component are trained from, as JSON.

    Args:
        inference_only: the component's arguments on which its training does not depend.
    """
    learnt = {name: item for name, item in config.items() if name not in inference_only}
    learnt["weights"] = {name: item for name, item in learnt["weights"].items() if name != "shipped"}
    return json.dumps(identity(learnt), sort_keys=True)


def shipped_content(config: dict[str, Any], component: Any) -> bytes | None:
    """Return the content of the weight file that a component's trainer names as shipped, or None.

    It is None if the trainer names no file, if the file does not exist, and if it was made by another recipe
    than the config's, so that weights are always trained again after parameters change. Raises InputError for
    a file whose sha256 is not the expected one, or that does not fit the component.
    """
    shipped: WeightFile | None = getattr(component.weights, "shipped", None)
    if shipped is None:
        return None
    shipped = replace(shipped, path=str(ROOT / shipped.path))
    if not Path(shipped.path).is_file():
        log.warning("%s does not exist: its weights are trained here and may differ slightly", shipped.path)
        return None
    recipe = recipe_of(config, getattr(component, "inference_only", ()))
    if shipped.metadata().get(RECIPE) != recipe:
        return None
    component.load_frozen(shipped.load())
    return shipped.read()


def to_ship(state: dict[str, Tensor], recipe: str) -> bytes:
    """Return the content of a weight file with the recipe in its metadata."""
    return safetensors.torch.save(state, metadata={RECIPE: recipe})
