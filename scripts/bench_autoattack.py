"""Measures the cost of AutoAttack, APGD and Square in comparison with torchattacks on the same images.

    python -m scripts.bench_autoattack dataset=mnist victim=mnist/lenet5-adv n=64 \\
        attack=autoattack attack.eps=0.3

The arguments are those of runners.evaluate. Our attack runs first, then torchattacks with the whole batch,
both in this process on one thread. A row is appended to
results/bench/autoattack-torch<version>-cpu-float32.csv, with the CPU seconds (user and system) of both and
their ratio, the number of the n images that resist each attack, and the number on which both agree.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import torchattacks
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from attacks.apgd import APGD
from attacks.attack import Attack
from attacks.auto_attack import TARGETS, AutoAttack
from attacks.knowledge import Blind
from attacks.square import Square
from data.images import Images
from runners.evaluation.component import build, to_plain_dict
from runners.evaluation.weights import load_or_train
from runners.places import CONFIGS
from runners.store.store import Store
from victims.victim import Victim

BENCH = Path("results/bench")
NAMES = {"linf": "Linf", "l2": "L2"}  # names of the norms in torchattacks
Theirs = Callable[[Tensor, Tensor], Tensor]  # maps images and labels to adversarial examples


def composed(words: list[str]) -> tuple[Victim, Images, Attack]:
    """Return the victim, the images and the attack of an evaluation with these arguments."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("evaluate", words)
    OmegaConf.resolve(config)
    with TemporaryDirectory() as folder:
        store = Store(folder)
        victim = load_or_train(to_plain_dict(config.victim), store).load(store)
    images = build(to_plain_dict(config.dataset)).load(config.split).subset(config.n, seed=config.seed)
    return victim, images, build(to_plain_dict(config.attack))


def ours(attack: Attack, victim: Victim, data: Images) -> Tensor:
    """Return adversarial examples of our attack."""
    seeds = range(len(data))
    target = Blind().target(victim, None, [], seeds=seeds)
    return attack(target, data.images, data.labels, seeds=seeds).images


def theirs(attack: Attack, victim: Victim, data: Images) -> Tensor:
    """Return adversarial examples of torchattacks.

    Each part attacks all images that are still classified correctly as one batch.
    """
    adversarial = data.images.clone()
    standing = (decisions(victim, adversarial) == data.labels).nonzero().flatten()
    with torch.no_grad():
        classes = victim(adversarial[:1]).shape[1]
    for part in parts(attack, victim, classes):
        if len(standing):
            candidates, labels = (
                part(data.images[standing], data.labels[standing]).detach(),
                data.labels[standing],
            )
            fell = decisions(victim, candidates) != labels
            adversarial[standing[fell]] = candidates[fell]
            standing = standing[~fell]
    return adversarial


def parts(attack: Attack, victim: Victim, classes: int) -> list[Theirs]:
    """Return the attacks of torchattacks that correspond to ours."""
    within = {"norm": NAMES[attack.norm], "eps": attack.eps}
    match attack:
        case APGD():
            run = {"steps": attack.steps, "n_restarts": attack.restarts, "rho": attack.rho}
            return [torchattacks.APGD(victim, loss=attack.loss, **run, **within)]
        case Square():
            run = {"n_queries": attack.queries, "p_init": attack.p_init, "resc_schedule": attack.rescale}
            return [torchattacks.Square(victim, **run, **within)]
        case AutoAttack():
            targets = {"n_classes": min(classes, TARGETS + 1), "steps": attack.steps}
            square = {"n_queries": attack.queries_of_square, "resc_schedule": False}
            return [
                torchattacks.APGD(victim, steps=attack.steps, loss="ce", **within),
                torchattacks.APGDT(victim, **targets, **within),
                torchattacks.FAB(victim, multi_targeted=True, **targets, **within),
                torchattacks.Square(victim, **square, **within),
            ]
        case _:
            sys.exit(f"attack: expected AutoAttack, APGD or Square, got {type(attack).__name__}")


def decisions(victim: Victim, images: Tensor) -> Tensor:
    """Return the victim's classes."""
    with torch.no_grad():
        return victim(images).argmax(1)


def measure(words: list[str]) -> dict[str, str | int | float]:
    """Return one row with both attacks, which run in turn on the same images."""
    victim, data, attack = composed(words)
    took, stands = [], []
    for craft in (ours, theirs):
        start = time.process_time()
        adversarial = craft(attack, victim, data)
        took.append(time.process_time() - start)
        stands.append(decisions(victim, adversarial) == data.labels)
    return {
        "words": " ".join(words),
        "n": len(data),
        "clean": int((decisions(victim, data.images) == data.labels).sum()),
        "stand_ours": int(stands[0].sum()),
        "stand_torchattacks": int(stands[1].sum()),
        "agree": int((stands[0] == stands[1]).sum()),
        "cpu_seconds_ours": round(took[0], 2),
        "cpu_seconds_torchattacks": round(took[1], 2),
        "ratio": round(took[0] / took[1], 3),
    }


def main() -> None:
    """Measure one row, and append and print it."""
    torch.set_num_threads(1)
    row = {"date": time.strftime("%Y-%m-%d"), **measure(sys.argv[1:])}
    BENCH.mkdir(parents=True, exist_ok=True)
    path = BENCH / f"autoattack-torch{torch.__version__.split('+')[0]}-cpu-float32.csv"
    pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
    sys.stdout.write(f"{row}\nwritten: {path}\n")


if __name__ == "__main__":
    main()
