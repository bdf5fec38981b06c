"""Train the weights that come with the project: python -m scripts.ship digits-resnet8 comdefend

Without a name all are trained that learn from the embedded data; the denoiser of CIFAR-10 takes two hours and
must be named. What the store already has is trained anew, but a long training that was stopped continues.
The weights are written to results/weights/ as NAME.safetensors, with their recipe, their cost and their
quality in NAME.json, and their new sha256 is written into the config.
"""

import hashlib
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load
from torch import Tensor

from data.errors import InputError
from data.images import Images
from runners.app import console
from runners.evaluation.component import Config, build, to_plain_dict
from runners.evaluation.metrics import in_batches
from runners.evaluation.progress import Bar
from runners.evaluation.shipped import recipe_of, to_ship
from runners.evaluation.weights import Training, train, trained_weights
from runners.places import CONFIGS, WEIGHTS
from runners.store.store import Store
from victims.victim import Victim

PARTS = ("victim", "denoiser", "purifier")  # in this order, since a purifier is measured with a victim
LEVELS = (0.0125, 0.025, 0.05, 0.1, 0.25, 0.5)  # noise levels on images in [0, 1] that measure a denoiser
DATASETS = {"cifar10-denoiser": ["dataset=cifar10"]}  # what is not trained on the embedded data
SHA256 = re.compile(r"sha256: [0-9a-f]{64}")
BATCH = 16  # images that are purified at once


def shipped_names() -> dict[str, str]:
    """Return the names of the configs that declare shipped weights, and the group of each."""
    leaves = {leaf: part for part in PARTS for leaf in (CONFIGS / part).glob("*.yaml")}
    declared = {leaf: OmegaConf.load(leaf).get("weights") for leaf in sorted(leaves)}
    return {
        leaf.stem: leaves[leaf]
        for leaf, weights in declared.items()
        if OmegaConf.is_dict(weights) and "shipped" in weights
    }


def composed(part: str, name: str) -> Config:
    """Return the config of a victim, denoiser or purifier on its data set, the embedded one unless stated."""
    word = f"+{part}={name}" if part == "denoiser" else f"{part}={name}"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return to_plain_dict(compose("evaluate", [word, *DATASETS.get(name, [])])[part])


def trained(name: str, config: Config, store: Store) -> tuple[dict[str, Tensor], int | None]:
    """Return the weights of a new training, and its CPU seconds (None if it continued a stopped one)."""
    component = build(config)
    training = Training(store, trained_weights(config, component))
    continued, before = store.get(training.checkpoint) is not None, os.times()
    with Bar(console, f"training {name}") as bar:
        content = train(component, training, progress=lambda share: bar.update(completed=share))
    after = os.times()
    seconds = round(after.user + after.system - before.user - before.system)
    return load(content), None if continued else seconds


def right_on_tuning(part: str, config: Config, state: dict[str, Tensor]) -> tuple[int, int]:
    """Return the number of tuning images that are classified correctly, and that of all tuning images.

    For a purifier, the images are purified first.
    """
    component = build(config).load_frozen(state)
    tuning: Images = component.weights.dataset.load("tuning")
    images, victim = tuning.images, component
    if part == "purifier":
        victim = shipped_victim()
        parts = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        seeds = list(range(len(images)))
        images = torch.cat([component(images[part], seeds=seeds[part], victim=victim) for part in parts])
    return int((in_batches(victim, images).argmax(1) == tuning.labels).sum()), len(images)


def denoising_errors(config: Config, state: dict[str, Tensor]) -> dict[str, float]:
    """Return the root mean squared error of the estimate of the tuning images at each noise level, which is
    itself the error of the noisy images."""
    component = build(config).load_frozen(state)
    clean = 2 * component.weights.dataset.load("tuning").images - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = {}
    for level in LEVELS:
        levels = torch.full((len(clean),), 2 * level)
        with torch.no_grad():
            estimate = component.network(clean + 2 * level * noise, levels)
        errors[f"{level:g}"] = round((estimate - clean).square().mean().sqrt().item() / 2, 5)
    return errors


def quality(part: str, config: Config, state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the quality of the weights on the tuning split, which is stated in their JSON file."""
    if part == "denoiser":
        size = sum(value.numel() for value in state.values())
        return {"parameters": size, "denoising_error_at_noise_level": denoising_errors(config, state)}
    right, count = right_on_tuning(part, config, state)
    return {"tuning_images": count, "tuning_images_right": right}


def shipped_victim() -> Victim:
    """Return the default victim with its shipped weights."""
    victim: Victim = build(composed("victim", "digits-resnet8"))
    return victim.load_frozen(victim.weights.shipped.load())


def ship(part: str, name: str, store: Store) -> dict[str, Any]:
    """Train one component, write its files, and return the content of its JSON file."""
    config = composed(part, name)
    state, seconds = trained(name, config, store)
    recipe = recipe_of(config, getattr(build(config), "inference_only", ()))
    content = to_ship(state, recipe)
    stated = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "recipe": json.loads(recipe),
        "cpu_seconds": seconds,
        **quality(part, config, state),
        "torch": torch.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    (WEIGHTS / f"{name}.safetensors").write_bytes(content)
    (WEIGHTS / f"{name}.json").write_text(json.dumps(stated, indent=1) + "\n")
    leaf = Path(CONFIGS / part / f"{name}.yaml")
    leaf.write_text(SHA256.sub(f"sha256: {stated['sha256']}", leaf.read_text()))
    return stated


def main(names: list[str]) -> None:
    """Train these components, or without names those of the embedded data; victims come first."""
    known = shipped_names()
    if unknown := set(names) - set(known):
        raise InputError(f"ship: expected names of {', '.join(known)}; got {', '.join(sorted(unknown))}")
    store = Store(OmegaConf.load(CONFIGS / "settings.yaml").store)
    embedded = known.keys() - DATASETS.keys()
    for name in sorted(names or embedded, key=lambda name: (PARTS.index(known[name]), name)):
        stated = ship(known[name], name, store)
        console.print(f"{name}: {json.dumps({key: stated[key] for key in stated if key != 'recipe'})}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
