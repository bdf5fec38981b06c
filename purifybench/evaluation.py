"""Evaluates one cell from Python, given by names of configs or by objects of the caller."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from torch import Tensor, nn

from data.errors import InputError
from data.images import Dataset, Images
from data.process_state import restored
from purifiers.purifier import Purifier
from purifybench import own
from runners import app
from runners.composition import composed
from runners.evaluate import save_records, settings_of
from runners.evaluation.cell import PARTS, Cell
from runners.evaluation.component import Config, build, to_plain_dict
from runners.evaluator import CellResult, Evaluator
from runners.store.manifest import Manifest
from runners.tables import summary
from runners.tables.figures import Figure, accuracy

OWN_LABELS = "own"  # the label space of images and a network that are both passed as objects
WIDTH = 110  # characters of a line of text


@dataclass(frozen=True)
class Evaluation:
    """The result of a cell. `print` it to see its figures, their 95 % intervals and its flags.

    Attributes:
        result: the cell, its records and their provenance, as the runners return them.
    """

    result: CellResult

    @property
    def records(self) -> pd.DataFrame:
        """The records, with one row per image; docs/records.md describes the columns."""
        return self.result.records

    @property
    def accuracy(self) -> Figure:
        """The defended accuracy in %: `value`, the 95 % interval from `low` to `high`, and `n` images."""
        return accuracy(self.records.correct)

    @property
    def undefended(self) -> Figure:
        """The accuracy in % on the same adversarial examples without the purifier."""
        return accuracy(self.records.adversarial_label == self.records.label)

    @property
    def clean(self) -> Figure:
        """The accuracy in % of the undefended victim on the clean images."""
        return accuracy(self.records.clean_label == self.records.label)

    @property
    def flags(self) -> dict[str, str]:
        """Reasons to doubt the figure: what was observed, by the flags' names in docs/flags.md."""
        return {flag.name: flag.seen for flag in self.result.flags}

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that is needed to compute the records again."""
        return self.result.provenance

    def save(self, folder: Path | str) -> Path:
        """Write the records and their provenance to the folder as a Parquet file, and return its path."""
        return save_records(self.result, Path(folder))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH)
        console.print(summary.of_cell(self.result))
        return console.file.getvalue().rstrip()

    def __repr__(self) -> str:
        return f"<Evaluation {self.result.cell.label}: {self.accuracy.text(1)}>"


def evaluate(
    purifier: str | Purifier | Callable[..., Tensor],
    *,
    victim: str | nn.Module = "digits-resnet8",
    dataset: str | Images | tuple[Tensor, Tensor] = "digits-photos",
    attack: str = "pgd",
    knowledge: str = "blind",
    n: int = 24,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a purifier in front of a victim under an attack, as `python -m runners.evaluate` does.

    Args:
        purifier: the name of a config, an instance of `purifiers.purifier.Purifier`, or a callable that takes
            (images, seeds, victim) and returns images. A callable may carry the traits of a purifier as
            attributes, such as `stochastic = True` or `gradient = "exact"`.
        victim: the name of a config, or a network that maps images (N, C, H, W) in [0, 1] to logits. Its
            classes are assumed to be those of the data set, in the same order. It is copied, so that yours
            is not changed.
        dataset: the name of a config, `purifybench.Images`, or a pair (images, labels) of tensors.
        attack: the name of a config.
        knowledge: the name of a config, for what the attacker knows.
        n: the number of images.
        overrides: further arguments of the command line, such as "attack.eps=4/255", "store=my-store" or
            "device=cuda".
        config_dir: a folder with configs of your own, as for the option --config-dir of the command line.
        workers: the number of processes. 1 uses this process. Only names of configs, not objects, can be
            sent to other processes, and your script then needs `if __name__ == "__main__":`.
        quiet: whether to print no progress.

    Raises InputError, with a message of one line, for input that cannot be evaluated, and FailedCellsError if
    the evaluation failed. Finished chunks are kept in the store, so that the same call continues from there.
    """
    given: dict[str, Any] = dict(zip(PARTS, (dataset, victim, attack, knowledge, purifier), strict=True))
    for part in ("attack", "knowledge"):
        if not isinstance(given[part], str):
            raise InputError(f"{part}: expected the name of a config, got a {type(given[part]).__name__}")
    named = {part: value for part, value in given.items() if isinstance(value, str)}
    objects = [part for part in given if part not in named]
    if lost := [word for word in overrides for part in objects if re.match(rf"[+~]*{part}(@|\.|=)", word)]:
        raise InputError(f"overrides: expected no words about what is given as an object, got {lost[0]}")
    words = [*(f"{part}={value}" for part, value in named.items()), f"n={n}", *overrides]
    config, choices = composed("evaluate", [*words, f"workers={workers}"], config_dir=config_dir)
    configs = {part: to_plain_dict(config[part]) for part in named}
    configs |= _own_configs(given, configs)
    if workers != 1 and len(named) < len(given):
        raise InputError(
            f"workers: expected 1, since objects cannot be sent to other processes; got {workers}"
        )
    typed = " ".join(["python -m runners.evaluate", *words])
    cell = Cell(
        names={part: choices[part] if part in named else own.name_of(given[part]) for part in PARTS},
        configs={part: configs[part] for part in PARTS},
        command=typed
        if len(named) == len(given)
        else f"purifybench.evaluate of {', '.join({*given} - {*named})}",
    )
    of_command_line = len(named) == len(given) and config_dir is None
    request = Manifest("runners.evaluate", cell.label, tuple(words)) if of_command_line else None
    console = Console(quiet=True) if quiet else app.console
    with restored(torch.device("cpu")):
        evaluator = Evaluator(settings_of(config), console, here=workers == 1)
        (result,) = evaluator.evaluate([cell], request)
    if result.skipped is not None:
        raise InputError(result.skipped)
    if result.failed is not None:
        raise app.FailedCellsError(f"failed cell {cell.label}: {result.failed}")
    return Evaluation(result)


def _own_configs(given: dict[str, Any], named: dict[str, Config]) -> dict[str, Config]:
    """Return configs for the parts that are objects."""
    configs: dict[str, Config] = {}
    if "dataset" not in named:
        label_space = named.get("victim", {}).get("label_space", OWN_LABELS)
        configs["dataset"] = own.dataset_config(given["dataset"], label_space)
    if "victim" not in named:
        dataset: Dataset = build(named.get("dataset") or configs["dataset"])
        configs["victim"] = own.victim_config(given["victim"], dataset.label_space)
    if "purifier" not in named:
        configs["purifier"] = own.purifier_config(given["purifier"])
    return configs
