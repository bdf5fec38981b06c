"""Compute the certified accuracy of a smoothed defense over the radius of an l2 ball.

    python -m runners.certify
    python -m runners.certify n=64 counting=1000
    python -m runners.certify dataset=cifar10 victim=resnet56 purifier.sigma=0.5

The certificate is that of Cohen, Rosenfeld, Kolter 2019, Certified Adversarial Robustness via Randomized
Smoothing, https://arxiv.org/abs/1902.02918: no change of an image that is shorter than its radius in the l2
norm changes what the defense predicts most often under normal noise. It holds except with probability alpha.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("certify")

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure as Drawing
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from scipy.stats import binomtest, norm
from torch import Tensor, nn

from data.errors import InputError
from data.images import Images
from purifiers.denoised_smoothing import DenoisedSmoothing
from runners.evaluation.compatibility import same_labels
from runners.evaluation.component import build, seed_of, to_plain_dict
from runners.evaluation.devices import configure_torch
from runners.evaluation.progress import Bar
from runners.evaluation.stages import Worker
from runners.evaluation.weights import ComponentLoader
from runners.files import folder, writable, write_together
from runners.report.plots import COLOURS, STYLE, saved
from runners.store.artifact import Artifact
from runners.store.store import Store
from runners.tables.figures import Figure, accuracy

Defense = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Certificate:
    """The prediction for an image, and the radius within which no attack changes it.

    If the draws do not determine the most frequent class, the prediction is None and the radius is 0.
    """

    predicted: int | None
    radius: float


def certificate(
    choosing: Sequence[int], counting: Sequence[int], *, sigma: float, alpha: float
) -> Certificate:
    """Return the certificate from how often each class was predicted.

    `choosing` counts the draws that choose a class, and `counting` counts fresh ones. The lower bound of the
    class's probability is that of Clopper and Pearson 1934.
    """
    chosen = int(np.argmax(choosing))
    test = binomtest(int(counting[chosen]), int(np.sum(counting)), alternative="greater")
    at_least = test.proportion_ci(1 - alpha, method="exact").low
    if at_least <= 0.5:
        return Certificate(None, 0.0)
    return Certificate(chosen, sigma * float(norm.ppf(at_least)))


def counts(defense: Defense, image: Tensor, seeds: Sequence[int], *, classes: int, batch: int) -> list[int]:
    """Return how often each class is predicted for a (C, H, W) image, with one draw per seed."""
    total = torch.zeros(classes, dtype=torch.int64)
    for i in range(0, len(seeds), batch):
        part = seeds[i : i + batch]
        with torch.no_grad():
            predicted = defense(image.expand(len(part), *image.shape), part).argmax(1)
        total += torch.bincount(predicted.cpu(), minlength=classes)
    return total.tolist()


def certified(frame: pd.DataFrame, radius: float) -> Figure:
    """Return the percentage of the images that are predicted correctly and certified within this radius."""
    return accuracy((frame.predicted == frame.label) & (frame.radius >= radius))


def main(config: DictConfig) -> None:
    """Certify the images of one defense, and write the table and the curve."""
    OmegaConf.resolve(config)
    _check(config)
    choices = HydraConfig.get().runtime.choices
    names = {part: choices[part] for part in ("dataset", "victim", "purifier")}
    configs = {part: to_plain_dict(config[part]) for part in names}
    dataset = build(configs["dataset"])
    known = configs["victim"].get("label_space")
    same_labels(f"victim {names['victim']}", known, names["dataset"], dataset.label_space)
    where = writable(folder(config.certificates, "certificates"))
    store = Store(folder(config.store, "store"))
    worker = Worker(store, configure_torch(config.device, tf32=False), "float32")
    loader = ComponentLoader(store, worker.device, app.console, config.budget_hours)
    specs = {
        part: loader.load(configs[part], f"{part} {names[part]}", part) for part in ("victim", "purifier")
    }
    victim, purifier = worker.load(specs["victim"]), worker.load(specs["purifier"])
    if not isinstance(purifier, DenoisedSmoothing):
        raise InputError(
            "purifier: expected denoised-smoothing, whose only randomness is the normal noise on the image; "
            f"got {names['purifier']}"
        )
    images = dataset.load(config.split).subset(config.n, seed=config.seed).to(worker.device)
    made_of = {part: spec.identity for part, spec in specs.items()}
    rows = []
    with Bar(app.console, f"certifying {len(images)} images") as bar:
        for i, name in enumerate(images.ids):
            image = images.take([i])
            choosing, counting = _counted(image, victim, purifier, store, made_of, config)
            result = certificate(choosing, counting, sigma=purifier.sigma, alpha=config.alpha)
            rows.append({"id": name, "label": int(image.labels), **vars(result)})
            bar.update(completed=(i + 1) / len(images))
    frame = pd.DataFrame(rows).astype({"predicted": "Int64"})
    setting = (
        f"dataset {names['dataset']}, victim {names['victim']}, sigma {purifier.sigma:g}, n={config.n}, "
        f"split {config.split}, seed {config.seed}, {config.choosing} and {config.counting} draws, "
        f"alpha {config.alpha:g}"
    )
    files = _written(frame, where / "-".join(names.values()).replace("/", "-"), setting, config.radii)
    app.console.print(_table(frame, config.radii, setting))
    app.tell("written: " + ", ".join(str(file) for file in files))


def _check(config: DictConfig) -> None:
    for name in ("choosing", "counting", "batch"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise InputError(f"{name}: expected a whole number, at least 1, got {config[name]!r}")
    if not 0 < config.alpha < 1:
        raise InputError(f"alpha: expected a probability between 0 and 1, got {config.alpha!r}")
    if not config.radii or min(config.radii) < 0:
        raise InputError(f"radii: expected radii of 0 and above, got {list(config.radii)}")


def _counted(
    one: Images,
    victim: nn.Module,
    purifier: DenoisedSmoothing,
    store: Store,
    made_of: dict,
    config: DictConfig,
) -> tuple[list[int], list[int]]:
    """Return the two counts of one image, from the store if it has them."""
    inputs = {
        **made_of,
        "image": one.to(torch.device("cpu")).digest,
        **{name: config[name] for name in ("seed", "choosing", "counting")},
    }
    artifact = Artifact("certificate", inputs)
    if (content := store.get(artifact)) is not None:
        tallies = json.loads(content)
        return tallies["choosing"], tallies["counting"]
    image, name = one.images[0], one.ids[0]
    seeds = [
        seed_of(config.seed, name, "certificate", draw) for draw in range(config.choosing + config.counting)
    ]

    def defense(images: Tensor, seeds: Sequence[int]) -> Tensor:
        return victim(purifier(images, seeds=seeds, victim=victim))

    with torch.no_grad():
        classes = victim(one.images).shape[1]
    parts = {"choosing": seeds[: config.choosing], "counting": seeds[config.choosing :]}
    tallies = {
        part: counts(defense, image, drawn, classes=classes, batch=config.batch)
        for part, drawn in parts.items()
    }
    store.put(artifact, json.dumps(tallies).encode())
    return tallies["choosing"], tallies["counting"]


def _table(frame: pd.DataFrame, radii: Sequence[float], setting: str) -> Table:
    """Return the table of the certified accuracy at each radius, for the console."""
    table = Table("l2 radius", "certified accuracy, %", title="Certified accuracy", caption=setting)
    for radius in radii:
        table.add_row(f"{radius:g}", certified(frame, radius).text(1))
    table.add_row("abstained", f"{int(frame.predicted.isna().sum())} of {len(frame)} images")
    return table


def _written(frame: pd.DataFrame, stem: Path, setting: str, radii: Sequence[float]) -> list[Path]:
    """Write one row per image as CSV, the table as Markdown, the curve as PNG and PDF; return the paths."""
    lines = ["# Certified accuracy", "", setting, "", "| l2 radius | certified accuracy, % |", "|---|---|"]
    lines += [f"| {radius:g} | {certified(frame, radius).text(1)} |" for radius in radii]
    abstained = int(frame.predicted.isna().sum())
    lines += ["", f"Abstained: {abstained} of {len(frame)} images, which count as wrong at every radius.", ""]
    texts = {
        stem.with_name(f"{stem.name}.csv"): frame.to_csv(index=False),
        stem.with_name(f"{stem.name}.md"): "\n".join(lines),
    }
    write_together({path: text.encode() for path, text in texts.items()})
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(3.4, 2.4), layout="constrained")
        axes = drawing.add_subplot(xlabel="l2 radius", ylabel="certified accuracy, %", ylim=(0, 100))
        points = np.unique([0.0, *frame.radius, *radii])
        axes.step(points, [certified(frame, point).value for point in points], where="pre", color=COLOURS[0])
        curves = saved(drawing, stem)
    return [*texts, *curves]


if __name__ == "__main__":
    app.run(main, "certify")
