"""Checks that the parts of a cell fit each other."""

from collections.abc import Sequence

from omegaconf import OmegaConf

from data.errors import InputError
from runners.evaluation.component import INNER, Config
from runners.places import CONFIGS

VICTIMS = CONFIGS / "victim"


def victims_for(label_space: str) -> list[str]:
    """Return the names of the victims whose classes are those of this label space."""
    leaves = {str(leaf.relative_to(VICTIMS).with_suffix("")): leaf for leaf in VICTIMS.rglob("*.yaml")}
    return sorted(n for n, leaf in leaves.items() if OmegaConf.load(leaf).get("label_space") == label_space)


def same_labels(what: str, known: str | None, dataset: str, labels: str) -> None:
    """Raise InputError unless the labels of a classifier mean the same as those of the data set."""
    if known is None:
        raise InputError(f"{what}: expected a label_space in its config, such as {labels!r}; got none")
    if known != labels:
        fitting = ", ".join(victims_for(labels)) or "none"
        raise InputError(
            f"{what} knows the labels of {known!r}, but dataset {dataset} has those of {labels!r}; "
            f"victims for it: {fitting}"
        )


def check_split_consistency(what: str, component: Config, dataset: Config, divided_by: Sequence[str]) -> None:
    """Raise InputError if a component is trained on another division of the evaluated data set.

    Some of the images that it is trained on would then be among those that it is tested on.
    """
    for inner in INNER:
        component = component.get(inner, component)
    learnt = (component.get("weights") or {}).get("dataset", {})
    if learnt.get("_target_") != dataset["_target_"]:
        return
    for name in divided_by:
        if learnt.get(name) != dataset.get(name):
            raise InputError(
                f"{what}: learns images with {name}={learnt.get(name)}, of which some are evaluated with "
                f"dataset.{name}={dataset.get(name)}; set {what}.weights.dataset.{name}={dataset.get(name)}"
            )
