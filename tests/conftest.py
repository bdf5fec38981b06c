"""Shared parts of the tests: a linear victim with known answers, small images and a short trace."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # no spinning: two test processes share the cores

from functools import cache
from pathlib import Path

import pytest
import torch
from fake_data import FAKES
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.knowledge import Decision, Full, Knowledge, Score
from attacks.open_defense import Everything
from attacks.rows import Rows
from attacks.target import Target
from data.images import Images
from purifiers.dip import DIPTrace
from purifiers.fitting.draws import Draws
from purifiers.networks.skipnet import SkipNet
from purifiers.purifier import Purifier
from runners import app
from runners.claims import shape
from runners.config_errors import names_of
from runners.evaluation.component import build, to_plain_dict
from runners.places import CONFIGS

pytest_plugins = ["tests.vision_api"]
torch.set_num_threads(1)  # one process per core, as the runners have it


class LinearVictim(nn.Module):
    """A classifier of two classes with logits (0, w.x + b) + 50.

    Its smallest perturbations are known in closed form. The offset changes no decision; torchattacks' C&W
    needs positive logits.
    """

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), bias

    def margin(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight + self.bias

    def forward(self, images: Tensor) -> Tensor:
        score = self.margin(images)
        return torch.stack([torch.zeros_like(score), score], 1) + 50


class RowByRow(nn.Module):
    """A linear classifier of several classes whose logits for a row are the same to the bit in any batch."""

    def __init__(self, size: int = 16, classes: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(classes, 3 * size * size, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.weight @ row for row in images.flatten(1).double()]).float() + 50


class Noise(Purifier):
    """A purifier that adds normal noise and records the seeds that it was given."""

    stochastic = True
    gradient = "exact"

    def __init__(self, *, sigma: float = 0.05) -> None:
        self.sigma = sigma
        self.seen: list[int] = []

    def purify(self, images: Tensor, seeds, victim) -> Tensor:
        self.seen += seeds
        noise = Draws(seeds, images.device).normal(images.shape[1:])
        return (images + self.sigma * noise).clamp(0, 1)


ATTACKS = [name for name in names_of("attack") if name != "file"]  # attacks that craft examples
SMALL = {
    "steps": 3,
    "queries": 60,
    "draws": 2,
    "queries_of_square": 20,
    "budget": 520,  # for the adaptive attack on a stochastic purifier
    "first_evaluations": 10,
    "kappa": 1000.0,  # so that C&W has a gradient at every step
}


@cache
def composed(*words: str, config: str = "evaluate") -> DictConfig:
    """Return the config of a command with these words, and Hydra's own part.

    Composing takes a tenth of a second, so all tests of a process share one config, which is read-only.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config_with_hydra = compose(config, list(words), return_hydra_config=True)
    OmegaConf.set_readonly(config_with_hydra, True)
    return config_with_hydra


def config_of(group: str, name: str, *words: str) -> dict:
    """Return the config of a component, such as the purifier jpeg, with further words of the command line."""
    return to_plain_dict(composed(f"{group}={name}", *words)[group])


@cache
def class_of(group: str, name: str) -> type:
    """Return the class of a component without composing its config."""
    config = OmegaConf.load(CONFIGS / group / f"{name}.yaml")
    if "_target_" in config:
        return get_class(config._target_)
    return class_of(
        group,
        next(default for default in config.defaults if isinstance(default, str) and default != "_self_"),
    )


@cache
def table_of(name: str) -> DictConfig:
    """Return a table of configs/table. The code under test shares it, so tests only read it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return shape.config_of(name)


def small_attack(name: str, **changes) -> Attack:
    """Return an attack of configs/attack with a small budget."""
    config = config_of("attack", name)
    return build({key: changes.get(key, SMALL.get(key, value)) for key, value in config.items()})


def answering(attack: Attack) -> Knowledge:
    """Return knowledge of the whole defense that gives the attack what it needs, and no more."""
    return {"decision": Decision, "score": Score, "everything": Everything}.get(attack.needs, Full)()


def crafted(attack, knowledge, victim, purifier, images, labels, others=()) -> Tensor:
    """Return the adversarial examples that the attack makes under this knowledge."""
    seeds = list(range(40, 40 + len(images)))
    target = knowledge.target(victim, purifier, list(others), seeds=seeds)
    return attack(target, images, labels, seeds=seeds).images


def random_images(n: int, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def rows_of(victim, count: int) -> Rows:
    target = Target(lambda images, seeds: victim(images), seeds=range(count))
    return Rows.of(target, range(count), torch.device("cpu"))


def inner_images(count: int, size: int = 16):
    """Return images away from the borders of [0, 1]."""
    return 0.3 + 0.4 * random_images(count, size)


def linear_victim(size: int = 32) -> LinearVictim:
    weight = torch.randn(3 * size * size, generator=torch.Generator().manual_seed(2))
    return LinearVictim(weight, float(-weight.sum() / 2))


def losses_of(purifier, images: Tensor, *, steps: int, lr: float) -> list[float]:
    """Return the values of a learned purifier's objective along some plain Adam steps."""
    draws, losses = torch.Generator().manual_seed(0), []
    optimiser = torch.optim.Adam(purifier.network.parameters(), lr=lr)
    for _ in range(steps):
        loss = purifier.objective(images, draws)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def linear() -> tuple[LinearVictim, Images]:
    """Return a linear victim and 64 images away from the borders of [0, 1], all classified correctly."""
    generator = torch.Generator().manual_seed(1)
    images = 0.3 + 0.4 * torch.rand(64, 3, 8, 8, generator=generator)
    weight = torch.randn(192, generator=generator)
    victim = LinearVictim(weight, float(-(images.flatten(1) @ weight).median()) - 1e-3)
    labels = (victim.margin(images) > 0).long()
    return victim, Images(tuple(f"t/{i}" for i in range(64)), images, labels)


@pytest.fixture
def network() -> nn.Module:
    """Return an untrained convolutional network of ten classes for images that are 16 pixels wide."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10))
    return layers.eval().requires_grad_(False)


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs a main function as its command line would, without any data.

    It returns the exit status, the output and the errors.
    """
    monkeypatch.delenv("DATA_DIR", raising=False)
    # Hydra composes each config once more to see whether it sets hydra.mode, which none of ours does.
    monkeypatch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)

    def call(main, config: str, *words: str, after=None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["purifybench", *words])
        status = 0
        try:
            app.run(main, config, after=after)
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def small_trace() -> DIPTrace:
    return DIPTrace(
        network=SkipNet(down=[8, 8], up=[8, 8], skip=[2, 2], kernel_down=[3, 3], kernel_up=[3, 3])
    )


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that writes the tiny copy of a data set and returns its folder."""

    def write(name: str) -> Path:
        FAKES[name](tmp_path, monkeypatch.setattr)
        return tmp_path

    return write
