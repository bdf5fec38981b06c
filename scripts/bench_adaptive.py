"""Controls of the adaptive attack: a purifier that only masks gradients, one that only draws, and none.

    python -m scripts.bench_adaptive n=128 dataset=mnist victim=mnist/lenet5-adv attack.eps=0.3

The arguments are those of runners.evaluate, for the data, the victim and the ball. Each control is attacked
by the adaptive attack and by AutoAttack, both with their standard budgets (AutoAttack through the purifier's
own gradient). For each control, a row is appended to results/bench/adaptive-torch<version>-cpu-float32.csv,
with the percentage of images that are classified correctly before and under each attack (the mean of ten
fresh draws), and the CPU seconds.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from attacks.adaptive import Adaptive
from attacks.attack import Attack
from attacks.auto_attack import AutoAttack
from attacks.knowledge import Full, Knowledge
from attacks.open_defense import Everything
from data.images import Images
from purifiers.fitting.draws import Draws
from purifiers.identity import Identity
from purifiers.purifier import Purifier
from scripts.bench_autoattack import BENCH, composed
from victims.victim import Victim

DRAWS = 10  # number of draws that score an example


class Rounded(Purifier):
    """Rounds values to 64 levels, so that the gradient is 0: robust only against attacks that follow it."""

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images with the nearest levels."""
        return (images * 64).round() / 64


class Noisy(Purifier):
    """Adds normal noise of standard deviation 0.02: robust only against attacks that follow single draws."""

    stochastic = True
    gradient = "exact"

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the noisy images."""
        return (images + 0.02 * Draws(seeds, images.device).normal(images.shape[1:])).clamp(0, 1)


CONTROLS = {"masked": Rounded(), "random": Noisy(), "robust": Identity()}


def share_right(victim: Victim, purifier: Purifier, images: Tensor, labels: Tensor) -> float:
    """Return the percentage of images that are classified correctly, as the mean over fresh draws."""
    with torch.no_grad():
        right = [
            victim(purifier(images, seeds=range(at, at + len(images)))).argmax(1) == labels
            for at in range(10**6, 10**6 + DRAWS * len(images), len(images))
        ]
    return round(100 * torch.stack(right).float().mean().item(), 2)


def crafted(attack: Attack, knowledge: Knowledge, victim: Victim, purifier: Purifier, data: Images) -> Tensor:
    """Return adversarial examples of all images, attacked as one batch."""
    seeds = range(len(data))
    target = knowledge.target(victim, purifier, [], seeds=seeds, batch=len(data))
    return attack(target, data.images, data.labels, seeds=seeds).images


def measure(name: str, victim: Victim, data: Images, ball: dict[str, Any]) -> dict[str, Any]:
    """Return one row with both attacks on one control."""
    purifier, row = CONTROLS[name], {"control": name, "n": len(data), **ball}
    row["clean"] = share_right(victim, purifier, data.images, data.labels)
    for attack, knowledge in ((Adaptive(**ball), Everything()), (AutoAttack(**ball), Full())):
        start = time.process_time()
        adversarial = crafted(attack, knowledge, victim, purifier, data)
        kind = type(attack).__name__.lower()
        row[kind] = share_right(victim, purifier, adversarial, data.labels)
        row[f"cpu_seconds_{kind}"] = round(time.process_time() - start, 1)
    return row


def main() -> None:
    """Measure each control, and append and print its row."""
    torch.set_num_threads(1)
    words = sys.argv[1:]
    victim, data, attack = composed(words)
    BENCH.mkdir(parents=True, exist_ok=True)
    path = BENCH / f"adaptive-torch{torch.__version__.split('+')[0]}-cpu-float32.csv"
    for name in CONTROLS:
        row = measure(name, victim, data, {"eps": attack.eps, "norm": attack.norm})
        row = {"date": time.strftime("%Y-%m-%d"), "words": " ".join(words), **row}
        pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
        sys.stdout.write(f"{row}\n")
    sys.stdout.write(f"written: {path}\n")


if __name__ == "__main__":
    main()
