"""Evaluate the cell of a record file again, from that file alone, and compare.

    python -m runners.replay 1a2b3c4d
    python -m runners.replay results/records/NAME.parquet
    python -m runners.replay 1a2b3c4d device=cpu workers=2

Exit status 0: equal; 1: not equal; 2: the cell cannot be evaluated here. docs/records.md describes what is
compared.
"""

import hashlib
import io
import string
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from runners import app, untrusted
from runners.evaluation import identity
from runners.evaluation.cell import Cell
from runners.evaluation.component import Config, usable
from runners.evaluation.devices import configure_torch
from runners.evaluation.records import to_parquet
from runners.evaluation.schema import COSTS
from runners.evaluation.settings import UNRECORDED, Settings
from runners.evaluation.tasks import SCORING
from runners.evaluation.weights import load_or_train
from runners.evaluator import CellResult, Evaluator
from runners.files import folder
from runners.store.artifact import Artifact
from runners.store.store import Store
from runners.untrusted import targets
from runners.validity import differences
from runners.validity.provenance import Facts, RecordFile

SHIPPED = untrusted.ROOT / "results" / "weights"
SHOWN = 5  # differences
UNLIMITED = 1e9  # hours


def main(config: DictConfig) -> None:
    """Exit status 0 where the records are equal, 1 where not, 2 where the cell cannot be run again."""
    recorded = RecordFile.read(find(config.record, folder(config.records, "records")))
    result, weights = remade(
        recorded,
        data_dir=folder(config.data_dir, "data_dir"),
        kept=Store(folder(config.store, "store")),
        device=config.device,
        workers=config.workers,
    )
    if (ids := result.provenance["image_ids_sha256"]) != recorded["image_ids_sha256"]:
        raise InputError(
            f"dataset {result.cell.names['dataset']}: expected image ids of sha256 "
            f"{recorded['image_ids_sha256']}, got {ids}"
        )
    with untrusted.readable(str(recorded.path)):
        report(recorded, result, weights)


def remade(
    recorded: RecordFile,
    *,
    data_dir: Path,
    kept: Store,
    device: str | None,
    workers: int | str,
    only: frozenset[str] | None = None,
) -> tuple[CellResult, list[str]]:
    """Run the recorded cell again; return its result and where its weights came from.

    Args:
        data_dir: where data and weights lie now.
        kept: the store that trained weights are taken from.
        device: that of the record where None.
        only: the ids of the images that are run again; None for all.

    Raises InputError for what cannot be run again, FailedCellsError where it fails now.
    """
    check_code(recorded)
    cell = cell_of(recorded, data_dir)
    device = device_for(recorded, device)
    with tempfile.TemporaryDirectory(prefix="replay-") as own, untrusted.readable(str(recorded.path)):
        settings = settings_of(recorded, store=own, device=device, workers=workers)
        place = configure_torch(
            settings.device, tf32=settings.tf32
        )  # as any training ran that made the weights
        weights = ready_weights(recorded, cell, kept=kept, fresh=Store(own), device=place)
        result = Evaluator(settings, app.console, only=only).evaluate([cell])[0]
    if result.skipped is not None:
        raise InputError(f"{recorded.path}: cannot run again: {result.skipped}")
    if result.failed is not None:
        raise app.FailedCellsError(f"{recorded.path}: the cell failed now: {result.failed}")
    return result, weights


def find(record: str | None, folder: Path) -> Path:
    """The record file of that name, or of a cell with that key (or its first digits)."""
    name = str(record or "")
    if name.endswith(".parquet") or Path(name).is_file():
        return Path(name)
    there = sorted(folder.glob("*.parquet"))
    known = name[:8].lower() if name and set(name) <= set(string.hexdigits) else "-"
    found = [path for path in there if path.stem.rpartition("-")[2].startswith(known)]
    if len(name) > 8:
        found = [path for path in found if RecordFile.read(path)["key"].startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    names = [path.name for path in found or there]
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    fault = f"{len(found)} records have the key {name!r}" if found else f"no record has the key {name!r}"
    raise InputError(f"{fault}; expected its first digits, or a file; in {folder}: {listed or 'none'}")


def check_code(recorded: RecordFile) -> None:
    """Raise InputError unless every component has the recorded version."""
    versions = recorded["component_versions"]
    hint = f"the record was made by commit {recorded['commit']}"
    for where, part in targets(recorded["configs"]):
        target, expected = part["_target_"], versions.get(where)
        found = identity.version_of(untrusted.component(target, where))
        if found != expected:
            raise InputError(f"{where}: expected {target} version {expected}, got version {found}; {hint}")
    if recorded["scoring"] != SCORING:
        raise InputError(f"scoring: expected version {recorded['scoring']}, got {SCORING}; {hint}")


def cell_of(recorded: RecordFile, data_dir: Path) -> Cell:
    """The recorded cell, with the places where its files and the modules of its components lie now."""
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
    """Where the recorded file or folder lies now: below `data_dir`, or among the weights that come with this
    project, under as many of its last parts as are there.

    A record file may come from anyone, so nothing outside these two folders is opened.
    """
    parts = recorded.parts[recorded.is_absolute() :]
    parts = parts[max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0) :]
    tails = [parts[i:] for i in range(len(parts))]
    candidates = [place.joinpath(*tail) for place in (data_dir, SHIPPED) for tail in tails]
    candidates += [data_dir] if name == "root" else []
    there = [place for place in candidates if place.exists()]
    return str(there[0] if there else data_dir.joinpath(*parts))


def device_for(recorded: RecordFile, wanted: str | None) -> str:
    """The device that was asked for, else that of the record, else one that is available."""
    kind = recorded["device"]["type"]
    return wanted or ("auto" if kind == "cuda" and not torch.cuda.is_available() else kind)


def settings_of(recorded: RecordFile, *, store: str, device: str, workers: int | str) -> Settings:
    """The recorded settings; TF32 only where there is such a device."""
    names, held = set(Settings.__dataclass_fields__) - set(UNRECORDED), recorded["settings"]
    if set(held) != names:
        differ = ", ".join(sorted(names ^ set(held)))
        raise InputError(
            f"{recorded.path}: other settings than now ({differ}); commit {recorded['commit']} made it"
        )
    tf32 = held["tf32"] and configure_torch(device, tf32=False).type == "cuda"
    here = {"store": store, "device": device, "workers": workers, "tf32": tf32}
    here |= {"budget_hours": UNLIMITED, "keep_purified": "none"}  # the store is thrown away
    return Settings(**{**held, **here})


def ready_weights(
    recorded: RecordFile, cell: Cell, *, kept: Store, fresh: Store, device: torch.device
) -> list[str]:
    """Take trained weights from the kept store where they are the recorded ones, or else train them again.

    Returns where the weights of each component come from. Raises InputError for weights that are not the
    recorded ones.
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
        with Progress(console=app.console, transient=True) as progress:
            bar = progress.add_task(f"weights of {where}", total=1.0, visible=False)
            report = partial(_tell, progress, bar)
            with usable(f"weights of {where}"):
                got = load_or_train(_part(cell, where), fresh, progress=report, device=device).weights_sha256
        if got != weights["sha256"]:
            raise InputError(
                f"weights of {where}: expected sha256 {weights['sha256']}, got {got} ({source}); name a "
                "store that has the recorded ones with store=..."
            )
        sources.append(f"{where}: {source}")
    return sources


def _tell(progress: Progress, bar: TaskID, share: float) -> None:
    progress.update(bar, completed=share, visible=True)


def _part(cell: Cell, where: str) -> Config:
    node: Any = cell.configs
    for step in where.split("."):
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise InputError(f"weights: expected the names of components, got {where!r}")
    return node


def report(recorded: RecordFile, result: CellResult, weights: list[str]) -> None:
    """Print what was compared and what differs. Raises FailedCellsError where the records are not equal."""
    was, is_ = recorded.provenance, result.provenance
    now = pq.read_table(io.BytesIO(to_parquet(result.records)))
    found = differences.of_records(recorded.records, now)
    same = differences.same_kind(was, is_)
    equal = differences.equal_decisions(recorded.records, now)
    rows = [
        ("record", str(recorded.path)),
        ("made by", f"commit {was['commit']}{_marked(was)}, {was['time']}, {was['device']['name']}"),
        ("replayed by", f"commit {is_['commit']}{_marked(is_)}, {is_['device']['name']}"),
        ("weights", "\n".join(weights) or "none"),
        *differences.of_provenance(was, is_),
        ("compared", f"{len(now)} images, to the bit, all columns but {', '.join(COSTS)}"),
        ("result", "not equal" if found else "equal"),
        *(("differs", str(difference)) for difference in found[:SHOWN]),
    ]
    if len(found) > SHOWN:
        rows.append(("", f"and {len(found) - SHOWN} more columns"))
    if found and not same:
        rows.append(("decisions", f"other device or versions; equal on {equal} of {len(now)} images"))
    table = Table(title=f"replay of {result.cell.label}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    app.console.print(table)
    if found and same:
        raise app.FailedCellsError(f"not equal: {', '.join(difference.column for difference in found)}")
    if found and equal < len(now):
        raise app.FailedCellsError(f"decisions differ on {len(now) - equal} of {len(now)} images")


def _marked(facts: Facts) -> str:
    return " (with changes that were not committed)" if facts["dirty"] is True else ""


def words(argv: list[str]) -> list[str]:
    """The command line, with a first word that sets nothing as the record. The record is quoted, since a key
    such as 9330e908 looks like a number."""
    first, rest = argv[:1], argv[1:]
    if first and not first[0].startswith("-") and ("=" not in first[0] or Path(first[0]).is_file()):
        first = [f"record={first[0]}"]
    return [_quoted(word) if word.startswith("record=") else word for word in [*first, *rest]]


def _quoted(word: str) -> str:
    name, _, value = word.partition("=")
    if value[:1] in ("'", '"'):
        return word
    return "{}='{}'".format(name, value.replace("\\", "\\\\").replace("'", "\\'"))


if __name__ == "__main__":
    sys.argv[1:] = words(sys.argv[1:])
    app.run(main, "replay")
