"""Explains errors of configs and of the command line in one line, which lists the names that exist."""

import difflib
import re
import sys
from collections.abc import Sequence

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import InputError
from runners.exits import FailedCellsError
from runners.places import CONFIGS

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, yaml.MarkedYAMLError)  # for a bad config


def explain(error: Exception, config: str, words: Sequence[str] | None = None) -> str:
    """Return an error in one line: what is wrong and, if a name is wrong, which names exist.

    `words` are those that were composed; by default, those of the command line.
    """
    words = sys.argv[1:] if words is None else words
    if isinstance(error, FailedCellsError | InputError):
        return " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return f"no {group} is called {name!r}{_near(name, names_of(group))}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: expected name=value, with quotes around a value with ( or ="
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        return f"{mark.name} line {mark.line + 1}: this is not valid YAML ({error.problem})"
    text = str(error)
    if match := re.search(r"Could not override '([\w./@-]+)'", text):
        return _unknown_option(match[1], config, words)
    if match := re.search(r"Could not find '([\w/-]+)'", text):
        group, _, name = match[1].partition("/")
        return f"no {group} is called {name!r}{_near(name, names_of(group))}"
    if match := re.search(r"Key '([\w./-]+)' is not in struct", text):
        return _unknown_option(match[1], config, words)
    if match := re.search(r"Interpolation key '([\w./@-]+)' not found", text):
        return f"a config refers to ${{{match[1]}}}, and no setting is called {match[1]!r}"
    return next(line for line in text.splitlines() if line.strip())


def names_of(group: str) -> list[str]:
    """Return the names of all configs of a group, as they are written on the command line."""
    folder = CONFIGS / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def _unknown_option(name: str, config: str, words: Sequence[str]) -> str:
    own = OmegaConf.load(CONFIGS / f"{config}.yaml")
    leaves = {k: v for d in own.defaults if not isinstance(d, str) for k, v in d.items()}
    # An option names a nested group by its last part: logger.mode=offline for output/logger=wandb.
    groups = {group.rpartition("/")[2]: group for group in leaves if not group.startswith("override ")}
    group, *path = name.split(".")
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    if config == "table" and group == "purifier":
        purifier = typed.get("purifier", "NAME")
        return (
            f"no option is called {name!r}: each row of a table has its purifier; to add a row, set "
            f"rows=[{purifier}], or run make compare PURIFIER={purifier}"
        )
    if group not in groups or not path:
        shared = OmegaConf.load(CONFIGS / "settings.yaml") if "settings" in own.defaults else {}
        known = {*groups.values(), *own, *shared} - {"hydra", "defaults"}
        return f"no option is called {name!r}{_near(name, sorted(known))}"
    full = groups[group]
    chosen = (typed.get(full) or leaves[full] or "").split(",")[0]
    if not chosen:
        return f"no option is called {name!r}: also name the {group} that it belongs to, with {full}=..."
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        node = compose(config, [f"{full}={chosen}"]).get(group)
    for step in path[:-1]:
        node = node.get(step) if isinstance(node, DictConfig) else None
    options = sorted({*node} - {"_target_"}) if isinstance(node, DictConfig) else []
    owner = " ".join([group, chosen, *path[:-1]])
    return f"no option is called {name!r}{_near(path[-1], options, f'; {owner} has ')}"


def _near(name: str, known: list[str], intro: str = "; there are ") -> str:
    return f"{did_you_mean(name, known)}{intro}{', '.join(known) or 'none'}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question that names the known name nearest to this one, or empty text if none is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
