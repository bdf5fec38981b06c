"""A recorded cell, made ready to run again here: its code, files, device, settings and weights."""

import hashlib
import string
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from data.errors import InputError
from runners import app, untrusted
from runners.evaluation import identity
from runners.evaluation.cell import Cell
from runners.evaluation.component import Config, usable
from runners.evaluation.devices import configure_torch
from runners.evaluation.settings import UNRECORDED, Settings
from runners.evaluation.tasks import SCORING
from runners.evaluation.weights import load_or_train
from runners.places import WEIGHTS
from runners.store.artifact import Artifact
from runners.store.store import Store
from runners.untrusted import targets
from runners.validity.record_file import RecordFile

UNLIMITED = 1e9  # hours


def find(record: str | None, folder: Path) -> Path:
    """Return the record file of this name, or of the cell whose key begins with these digits."""
    name = str(record or "")
    if name.endswith(".parquet") or Path(name).is_file():
        return Path(name)
    paths = sorted(folder.glob("*.parquet"))
    prefix = name[:8].lower() if name and set(name) <= set(string.hexdigits) else "-"
    matches = [path for path in paths if path.stem.rpartition("-")[2].startswith(prefix)]
    if len(name) > 8:
        matches = [path for path in matches if RecordFile.read(path)["key"].startswith(name.lower())]
    if len(matches) == 1:
        return matches[0]
    names = [path.name for path in matches or paths]
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    fault = f"{len(matches)} records have the key {name!r}" if matches else f"no record has the key {name!r}"
    raise InputError(f"{fault}; expected its first digits, or a file; in {folder}: {listed or 'none'}")


def check_code(recorded: RecordFile) -> None:
    """Raise InputError unless every component has the recorded version."""
    versions = recorded["component_versions"]
    hint = f"the record was made by commit {recorded['commit']}"
    for where, part in targets(recorded["configs"]):
        target, expected = part["_target_"], versions.get(where)
        version = identity.version_of(untrusted.component(target, where))
        if version != expected:
            raise InputError(f"{where}: expected {target} version {expected}, got version {version}; {hint}")
    if recorded["scoring"] != SCORING:
        raise InputError(f"scoring: expected version {recorded['scoring']}, got {SCORING}; {hint}")


def cell_of(recorded: RecordFile, data_dir: Path) -> Cell:
    """Return the recorded cell, with the present paths of its files and of its components' modules."""
    configs = {
        part: _placed(untrusted.relocated(config, part), data_dir)
        for part, config in recorded["configs"].items()
    }
    return Cell(names=recorded["names"], configs=configs, command=recorded["command"])


def _placed(config: Any, data_dir: Path) -> Any:
    if isinstance(config, list):
        return [_placed(item, data_dir) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        name: _now_at(name, Path(item), data_dir)
        if name in ("path", "root") and isinstance(item, str)
        else _placed(item, data_dir)
        for name, item in config.items()
    }


def _now_at(name: str, recorded: Path, data_dir: Path) -> str:
    """Return the present path of the recorded file or folder.

    It is looked for below `data_dir` and among the weights that come with this project, under as many of its
    last parts as exist there. A record file may come from anyone, so nothing outside these two folders is
    opened.
    """
    parts = recorded.parts[recorded.is_absolute() :]
    parts = parts[max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0) :]
    tails = [parts[i:] for i in range(len(parts))]
    candidates = [place.joinpath(*tail) for place in (data_dir, WEIGHTS) for tail in tails]
    candidates += [data_dir] if name == "root" else []
    existing = [place for place in candidates if place.exists()]
    return str(existing[0] if existing else data_dir.joinpath(*parts))


def device_for(recorded: RecordFile, wanted: str | None) -> str:
    """Return the device that was asked for, else the recorded one if it is available, else "auto"."""
    kind = recorded["device"]["type"]
    return wanted or ("auto" if kind == "cuda" and not torch.cuda.is_available() else kind)


def settings_of(recorded: RecordFile, *, store: str, device: str, workers: int | str) -> Settings:
    """Return the recorded settings, with TF32 only on a device that has it."""
    names, stored = set(Settings.__dataclass_fields__) - set(UNRECORDED), recorded["settings"]
    if set(stored) != names:
        differ = ", ".join(sorted(names ^ set(stored)))
        raise InputError(
            f"{recorded.path}: other settings than now ({differ}); commit {recorded['commit']} made it"
        )
    tf32 = stored["tf32"] and configure_torch(device, tf32=False).type == "cuda"
    changed = {"store": store, "device": device, "workers": workers, "tf32": tf32}
    changed |= {"budget_hours": UNLIMITED, "keep_purified": "none"}  # the store is temporary
    return Settings(**{**stored, **changed})


def ready_weights(
    recorded: RecordFile, cell: Cell, *, kept: Store, fresh: Store, device: torch.device
) -> list[str]:
    """Take trained weights from the kept store if they are the recorded ones, otherwise train them again.

    Returns the source of each component's weights. Raises InputError for weights that are not the recorded
    ones.
    """
    sources = []
    for where, weights in recorded["weights"].items():
        if weights["sha256"] is None:
            continue
        source = "their file"
        if weights["trained"] is not None:
            trained = Artifact.read(weights["trained"])
            content = kept.get(trained)
            if content is not None and hashlib.sha256(content).hexdigest() == weights["sha256"]:
                fresh.put(trained, content)
                source = f"from {kept.root}"
            else:
                source = f"trained again, {kept.root} lacks them"
        got = _sha256_of(_part(cell, where), f"weights of {where}", fresh, device)
        if got != weights["sha256"]:
            raise InputError(
                f"weights of {where}: expected sha256 {weights['sha256']}, got {got} ({source}); name a "
                "store that has the recorded ones with store=..."
            )
        sources.append(f"{where}: {source}")
    return sources


def _part(cell: Cell, where: str) -> Config:
    node: Any = cell.configs
    for step in where.split("."):
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise InputError(f"weights: expected the names of components, got {where!r}")
    return node


def _sha256_of(config: Config, what: str, store: Store, device: torch.device) -> str | None:
    """Return the sha256 of a component's weights, which are trained if no file and no store has them."""
    with Progress(console=app.console, transient=True) as progress, usable(what):
        bar = progress.add_task(what, total=1.0, visible=False)
        component = load_or_train(
            config,
            store,
            progress=lambda share: progress.update(bar, completed=share, visible=True),
            device=device,
        )
    return component.weights_sha256
