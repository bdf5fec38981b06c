"""Measures how much of a perturbation a fitted purifier reproduces, along its optimisation.

    python -m scripts.survival dataset=flower17 victim=flower17/mobilenet_v2-int8 split=tuning n=4 \\
      attack=bim attack.eps=6/255 attack.alpha=1/255 attack.steps=8 attack.targeted=true \\
      purifier=oag trace@purifier.trace=oag-imagenet purifier.network_steps=300

Each image x and its attacked form x + d are purified with the same seed. The share of d that survives is
<P(x + d) - P(x), d> / |d|^2, which is 0 if nothing of it comes back, and 1 if all of it does. One run gives
all numbers of steps. `attack=gaussian` measures white noise instead. A row for each number of steps is
appended to results/bench/survival-torch<version>-<device>-<precision>.csv.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("evaluate")

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from attacks.attack import Attack
from attacks.knowledge import Blind
from data.errors import InputError
from data.similarity import ssim
from purifiers.fitting.trace import Trace, TracePurifier
from runners.evaluation.component import build, seed_of, to_plain_dict
from runners.evaluation.devices import configure_torch
from runners.evaluation.metrics import in_batches
from runners.evaluation.subset import sample_subset
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from scripts.bench_engine import append
from victims.victim import Victim

EVERY = 50  # updates between two measurements


def survived(made: Tensor, made_of_attacked: Tensor, images: Tensor, attacked: Tensor) -> Tensor:
    """Return the (N,) shares of the perturbations that remain in the purified attacked images."""
    difference = (attacked - images).flatten(1)
    returned = (made_of_attacked - made).flatten(1)
    return (returned * difference).sum(1) / difference.square().sum(1)


def changed(attack: Attack, victim: Victim, images: Tensor, labels: Tensor, seeds: list[int]) -> Tensor:
    """Return the images under an attack that knows only the victim; raise InputError if one is unchanged."""
    target = Blind().target(victim, None, [], seeds=seeds, device=images.device)
    attacked = attack(target, images, labels, seeds=seeds).images
    if not (attacked != images).flatten(1).any(1).all():
        raise InputError("attack: expected one that changes every image, got an image as it was")
    return attacked


def along(trace: Trace, images: Tensor, seeds: list[int], steps: int) -> dict[int, Tensor]:
    """Return the reconstructions of the images after every `EVERY` updates, and at the end."""
    snapshots: dict[int, Tensor] = {}

    def observe(step: int, reconstructions: Tensor) -> None:
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            snapshots[step + 1] = reconstructions.cpu()

    trace.stream(images, seeds, steps, observe)
    return snapshots


def main(config: DictConfig) -> None:
    """Measure the images, the attack and the purifier that the command line names, and append the rows."""
    OmegaConf.resolve(config)
    device, store = configure_torch(config.device, tf32=config.tf32), Store(config.store)
    purifier = build(to_plain_dict(config.purifier))
    if not isinstance(purifier, TracePurifier):
        raise InputError(
            "purifier: expected one that fits a network to each image, such as oag, got "
            f"{HydraConfig.get().runtime.choices['purifier']}"
        )
    victim = load_or_train(to_plain_dict(config.victim), store, device=device).load(store).to(device)
    dataset = build(to_plain_dict(config.dataset))
    index = dataset.index(config.split)
    chosen = sample_subset("random", index, config.n, seed=config.seed, classes=dataset.classes)
    data = index.take(chosen).to(device)
    images, labels = data.images, data.labels
    drawn = [seed_of(config.seed, image_id, "craft") for image_id in data.ids]
    attacked = changed(build(to_plain_dict(config.attack)), victim, images, labels, drawn)
    seeds = [seed_of(config.seed, image_id, "purify") for image_id in data.ids]
    snapshots = along(purifier.trace, torch.cat([images, attacked]), 2 * seeds, purifier.steps)
    words = " ".join(word for word in HydraConfig.get().overrides.task if not word.startswith("store="))
    rows = []
    for step, pair in snapshots.items():
        clean, defended = pair.to(device).chunk(2)
        shares = survived(clean, defended, images, attacked)
        right = in_batches(victim, defended).argmax(1) == labels
        rows.append(
            {
                "words": words,
                "n": len(images),
                "step": step,
                "survives": shares.mean().item(),
                "spread": shares.std().item(),
                "ssim": ssim(defended, images).mean().item(),
                "accuracy": 100 * right.float().mean().item(),
            }
        )
    append(rows, "survival")


if __name__ == "__main__":
    app.run(main, "evaluate")
