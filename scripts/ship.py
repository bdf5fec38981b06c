"""Train the weights that come with the project: python -m scripts.ship digits-resnet8 comdefend

Without a name all of them are trained. Each is written to results/weights/ as NAME.safetensors, with its
recipe, cost and accuracy in NAME.json, and its new sha256 is written into its config.
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
from torch import Tensor

from data.errors import InputError
from data.images import Images
from runners.app import CONFIGS, console
from runners.evaluation.component import Config, build, to_plain_dict
from runners.evaluation.metrics import in_batches
from runners.evaluation.progress import Bar
from runners.evaluation.shipped import FOLDER, recipe_of, to_ship
from victims.victim import Victim

SHA256 = re.compile(r"sha256: [0-9a-f]{64}")
BATCH = 16  # images that are purified at once


def shipped_names() -> dict[str, str]:
    """The names of the configs that declare shipped weights, and the group of each."""
    leaves = {leaf: part for part in ("victim", "purifier") for leaf in (CONFIGS / part).glob("*.yaml")}
    declared = {leaf: OmegaConf.load(leaf).get("weights") for leaf in sorted(leaves)}
    return {
        leaf.stem: leaves[leaf]
        for leaf, weights in declared.items()
        if OmegaConf.is_dict(weights) and "shipped" in weights
    }


def composed(part: str, name: str) -> Config:
    """The config of a victim or purifier on the embedded data."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return to_plain_dict(compose("evaluate", [f"{part}={name}"])[part])


def trained(name: str, config: Config) -> tuple[dict[str, Tensor], float]:
    """The weights of one training, and the CPU seconds that it took."""
    component, before = build(config), os.times()
    with Bar(console, f"training {name}") as bar:
        state = component.weights.fit(component, progress=lambda share: bar.update(completed=share))
    after = os.times()
    return state, after.user + after.system - before.user - before.system


def right_on_tuning(part: str, config: Config, state: dict[str, Tensor]) -> tuple[int, int]:
    """How many tuning images the victim gets right, and of how many; a purifier's are purified first."""
    component = build(config).freeze(state)
    tuning: Images = component.weights.dataset.load("tuning")
    images, victim = tuning.images, component
    if part == "purifier":
        victim = shipped_victim()
        parts = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        seeds = list(range(len(images)))
        images = torch.cat([component(images[part], seeds=seeds[part], victim=victim) for part in parts])
    return int((in_batches(victim, images).argmax(1) == tuning.labels).sum()), len(images)


def shipped_victim() -> Victim:
    """The default victim with its shipped weights."""
    victim: Victim = build(composed("victim", "digits-resnet8"))
    return victim.freeze(victim.weights.shipped.load())


def ship(part: str, name: str) -> dict[str, Any]:
    """Train one component and write its files; returns what is stated beside the weights."""
    config = composed(part, name)
    state, seconds = trained(name, config)
    recipe = recipe_of(config, getattr(build(config), "afterwards", ()))
    content = to_ship(state, recipe)
    right, of = right_on_tuning(part, config, state)
    stated = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "recipe": json.loads(recipe),
        "cpu_seconds": round(seconds),
        "tuning_images": of,
        "tuning_images_right": right,
        "torch": torch.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.safetensors").write_bytes(content)
    (FOLDER / f"{name}.json").write_text(json.dumps(stated, indent=1) + "\n")
    leaf = Path(CONFIGS / part / f"{name}.yaml")
    leaf.write_text(SHA256.sub(f"sha256: {stated['sha256']}", leaf.read_text()))
    return stated


def main(names: list[str]) -> None:
    """Train these, victims first, since the accuracy of a purifier is that of a victim behind it."""
    known = shipped_names()
    if unknown := set(names) - set(known):
        raise InputError(f"ship: expected names of {', '.join(known)}; got {', '.join(sorted(unknown))}")
    for name in sorted(names or known, key=lambda name: (known[name] == "purifier", name)):
        stated = ship(known[name], name)
        right, of = stated["tuning_images_right"], stated["tuning_images"]
        console.print(f"{name}: {right} of {of} tuning images right, {stated['cpu_seconds']} CPU seconds")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
