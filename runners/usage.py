"""The help of a command: its module's docstring, then its config groups and settings, one line each.

Everything is read from the source and the YAML files, so that help is printed before PyTorch is imported.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from runners.places import CONFIGS

SHARED = "settings"
SETTING = re.compile(r"(?P<name>\w+): (?P<value>.*?)(?:\s+# (?P<meaning>.*))?")
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+),([^}]*)\}")
FROM_TABLE = re.compile(r"\$\{oc\.select:table\.\w+,([^}]*)\}")
GROUPS = {  # what a config of each group describes
    "dataset": "images and labels",
    "victim": "the undefended classifier",
    "attack": "how images are attacked",
    "knowledge": "what the attacker knows",
    "purifier": "what cleans the images",
    "table": "what is compared",
    "logger": "where results are logged",
    "service": "which service is asked",
}
FOOT = """\
Every parameter of a chosen config can be set too, for example attack.eps=8/255, and a list of values with -m
is a sweep. --cfg job prints the composed config, and --hydra-help lists the options of Hydra.
"""


@dataclass(frozen=True)
class Line:
    """One group or setting in the help of a command."""

    name: str
    default: str
    meaning: str


def groups_of(config: str, configs: Path = CONFIGS) -> list[Line]:
    """Return the config groups that a command chooses from, with their defaults."""
    lines = []
    for entry in OmegaConf.load(configs / f"{config}.yaml").get("defaults", []):
        for group, chosen in {} if isinstance(entry, str) else entry.items():
            if not group.startswith("override "):
                names = sorted(path.stem for path in (configs / group).glob("*.yaml"))
                count = len(list((configs / group).rglob("*.yaml")))
                known = (
                    ", ".join(names) if count == len(names) <= 7 else f"{count} configs in configs/{group}/"
                )
                lines.append(
                    Line(group, str(chosen or "none"), f"{GROUPS[group.rpartition('/')[2]]}: {known}")
                )
    return lines


def settings_of(config: str, configs: Path = CONFIGS) -> list[Line]:
    """Return the settings of a command in the order of its files; its own replace shared ones."""
    own = dict(_settings(configs / f"{config}.yaml"))
    shares = SHARED in OmegaConf.load(configs / f"{config}.yaml").get("defaults", [])
    shared = dict(_settings(configs / f"{SHARED}.yaml")) if shares else {}
    return list((shared | own).values())


def _settings(path: Path) -> Iterator[tuple[str, Line]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        if match := SETTING.fullmatch(text):
            value, meaning = match["value"], match["meaning"] or ""
            if variable_match := FROM_ENVIRONMENT.fullmatch(value):
                variable, value = variable_match.groups()
                meaning = f"{meaning} (environment variable {variable})".strip()
            yield match["name"], Line(match["name"], FROM_TABLE.sub(r"\1", value), meaning)


def text(config: str, description: str, *, configs: Path = CONFIGS) -> str:
    """Return the whole help of the command whose root config is `config`."""
    parts = [description.strip() + "\n"]
    for title, lines in (
        ("Config groups", groups_of(config, configs)),
        ("Settings", settings_of(config, configs)),
    ):
        if lines:
            across = max(len(f"{line.name}={line.default}") for line in lines)
            rows = [f"  {f'{line.name}={line.default}':<{across}}  {line.meaning}".rstrip() for line in lines]
            parts.append("\n".join([f"{title}:", *rows]) + "\n")
    return "\n".join([*parts, FOOT])


def asked(words: Sequence[str]) -> bool:
    """Return whether the command line asks for help."""
    return bool({"-h", "--help"}.intersection(words))
