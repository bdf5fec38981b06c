"""The provenance that a cell's record file states about itself (record_file.py reads it back).

What varies from run to run (date, commit, machine) is stated here and in the header of an artifact. The names
and contents of artifacts do not depend on it.
"""

import hashlib
import json
import platform
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import get_object

from purifiers.fitting.stack import STACKS
from runners import untrusted
from runners.evaluation.cell import Cell
from runners.evaluation.identity import identity, version_of
from runners.evaluation.settings import UNRECORDED, Settings
from runners.evaluation.tasks import SCORING, Purifying
from runners.places import ROOT
from runners.store.artifact import Artifact, key_of
from runners.store.store import Store
from runners.untrusted import targets

FORMAT = 1  # raised when a change matters to readers
PACKAGES = ("torch", "torchvision", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "advertorch",
            "scikit-image", "numpy")  # fmt: skip
MAKER = ("commit", "dirty", "versions", "device")  # facts about its maker in the header of an artifact
UNKNOWN = "unknown"
CODE = {"commit": str, "dirty": (bool, str), "versions": {...: str}}
MADE_BY = {**CODE, "device": {...: str}}  # the shape of the facts about a maker

Facts = dict[str, Any]


def of_process(device: torch.device) -> Facts:
    """Return the facts about this process: code, libraries, machine, command line, time."""
    return {
        **of_code(),
        "versions": _versions(device),
        "device": _device(device),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command_line": shlex.join(sys.orig_argv).replace("${", "$ {"),  # readers refuse interpolations
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def of_code(root: Path = ROOT) -> Facts:
    """Return the commit, and whether the tree differs from it (new files count).

    Both are "unknown" without git, and if `root` is not itself a repository.
    """
    words = ["git", "--no-optional-locks", "-C", str(root)]

    def git(*asked: str) -> str:
        result = subprocess.run([*words, *asked], capture_output=True, text=True, check=True, timeout=60)
        return result.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == root.resolve():
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"commit": UNKNOWN, "dirty": UNKNOWN}


def cell_key(cell: Cell, purified: Sequence[str], settings: Settings) -> str:
    """Return the key of a cell, from its configs and the store's keys of its purified images."""
    made_of = {"cell": identity(cell.configs), "images": list(purified)}
    if settings.subset != "random":  # a few images may be the same under two rules
        made_of["subset"] = settings.images
    return key_of(made_of)


def maker(facts: Facts) -> Facts:
    """Return the facts that the header of an artifact holds."""
    return {name: facts[name] for name in MAKER}


def of_cell(
    cell: Cell,
    tasks: Sequence[Purifying],
    *,
    records: pd.DataFrame,
    settings: Settings,
    store: Store,
    facts: Facts,
) -> Facts:
    """Return all facts that are needed to make a cell's records again, with those of this process."""
    crafting, (purifier,) = tasks[0].crafting, tasks[0].purifiers
    specs = {"victim": crafting.victim, "purifier": purifier}
    surrogates = zip(cell.surrogates, crafting.surrogates, strict=True)
    specs |= {f"knowledge.victims.{name}": surrogate for name, surrogate in surrogates}
    return {
        "format": FORMAT,
        "key": cell_key(cell, list(records.purified.unique()), settings),
        "names": cell.names,
        "configs": cell.configs,
        "command": cell.command,
        "component_versions": {
            where: version_of(get_object(part["_target_"])) for where, part in targets(cell.configs)
        },
        "scoring": SCORING,
        "settings": {k: v for k, v in asdict(settings).items() if k not in UNRECORDED},
        "precision": settings.precision,
        "weights": {
            where: {"sha256": spec.weights_sha256, "trained": spec.trained and spec.trained.made_from}
            for where, spec in specs.items()
        },
        "image_ids_sha256": of_ids(records.id),
        "images_sha256": key_of({"chunks": [task.crafting.chunk.digest for task in tasks]}),
        **facts,
        "made_elsewhere": _made_elsewhere(tasks, store, maker(facts)),
    }


def of_ids(ids: Sequence[str]) -> str:
    """Return the sha256 of image ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def differing(recorded: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> Facts:
    """Return those of the named facts that differ, such as {"versions.numpy": (recorded, now)}."""
    pairs: Facts = {}
    for name in names:
        was, is_ = recorded.get(name, UNKNOWN), now.get(name, UNKNOWN)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            inner = differing(was, is_, sorted({*was, *is_}))
            pairs |= {f"{name}.{part}": pair for part, pair in inner.items()}
        elif was != is_:
            pairs[name] = (was, is_)
    return pairs


def _made_elsewhere(tasks: Sequence[Purifying], store: Store, here: Facts) -> list[Facts]:
    """Count the chunks from the store that other code or another device made, by what differs."""
    counts: Counter[tuple[str, str]] = Counter()
    for task in tasks:
        (spec,) = task.purifiers
        images = task.purified(spec)  # they may not be kept, but the records state who made them
        artifacts = (task.crafting.artifact, *([images] if store.has(images) else []), task.records(spec))
        for artifact in artifacts:
            by = made_by(store, artifact)
            if by != here:
                differs = (
                    {name: pair[0] for name, pair in differing(by, here, MAKER).items()} if by else UNKNOWN
                )
                counts[artifact.stage, json.dumps(differs, sort_keys=True)] += 1
    return [{"stage": stage, "chunks": n, "by": json.loads(by)} for (stage, by), n in sorted(counts.items())]


def made_by(store: Store, artifact: Artifact) -> Facts | None:
    """Return the facts about the maker in an artifact's header, or None if it has none.

    Raises InputError if the header has them in another form than ours, since an archive may have brought it.
    """
    maker = store.made_by(artifact)
    if maker is not None:
        untrusted.check_plain(maker, f"{store.path(artifact)}: made_by")
        untrusted.check_shape(maker, MADE_BY, f"{store.path(artifact)}: made_by")
    return maker


def _versions(device: torch.device) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if device.type == "cuda":
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return versions


def _device(device: torch.device) -> dict[str, str]:
    """Return the facts about a device that decide how sums are rounded."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        cudnn = torch.backends.cudnn
        return {
            "type": "cuda",
            "name": torch.cuda.get_device_name(device),
            "capability": capability,
            "convolution": STACKS["cuda"].convolution,  # of networks that are fitted to images
            "cudnn": f"deterministic {cudnn.deterministic}, benchmark {cudnn.benchmark}",
        }
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        model = None
    name = model[1] if model else platform.processor() or platform.machine()
    return {"type": "cpu", "name": name, "capability": torch.backends.cpu.get_cpu_capability()}
