"""Weights & Biases (https://docs.wandb.ai): each record file is logged as a run, each table as another."""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import wandb

from data.errors import InputError
from runners import untrusted
from runners.evaluation.cell import PARTS
from runners.evaluation.records import to_parquet
from runners.files import writable, write_whole
from runners.loggers.logger import Logger
from runners.report.pictures import KINDS, Pictures
from runners.store.artifact import key_of
from runners.tables.figures import accuracy, mean
from runners.tables.reading import Table
from runners.tables.saved import FILES
from runners.validity import record_file

log = logging.getLogger(__name__)

COSTS = ("craft_seconds", "purify_seconds", "queries", "forward_passes", "backward_passes")
SHOWN = ("id", "label", "clean_label", "clean_confidence", "adversarial_label", "adversarial_confidence",
         "purified_label", "confidence", "correct", "ssim")  # fmt: skip
QUIET = {"console": "off", "silent": True, "x_disable_stats": True, "x_save_requirements": False,
         "disable_git": True, "disable_code": True}  # fmt: skip
OF_EACH_RENDERING = ("time", "command_line")  # provenance that differs although the records are the same


class WandbLogger(Logger):
    """Logs record files and tables to Weights & Biases.

    The id of a cell's run is the cell's key, so logging a cell again updates its run. What was logged is
    noted in `folder` and in the run's summary, and is not logged again as long as its content is the same.

    Args:
        project: name of the W&B project.
        entity: user or team that the project belongs to; by default the account's own.
        images: how many images of each cell are logged; wrongly classified ones come first.
        folder: where wandb keeps its files.
        store: where the images are read from.
        patience: seconds that wandb may take for one run before logging is given up.
    """

    def __init__(
        self,
        *,
        project: str = "purifybench",
        entity: str | None = None,
        images: int = 16,
        folder: str = "results/wandb",
        store: str = "results/store",
        patience: float = 60,
    ) -> None:
        if not isinstance(project, str) or not project:
            raise InputError(f"logger.project: expected a name, got {project!r}")
        if not isinstance(images, int) or images < 0:
            raise InputError(f"logger.images: expected 0 or more, got {images!r}")
        if not patience > 0:
            raise InputError(f"logger.patience: expected seconds above 0, got {patience!r}")
        self.project, self.entity, self.images, self.patience = project, entity, images, patience
        self.folder, self.pictures = Path(folder).resolve(), Pictures(Path(store))

    def log(self, records: Sequence[Path], *, table: str = "", csv: Path | None = None) -> None:
        """Log as `send` does; if that fails, log a warning that says how to log later."""
        try:
            self.send(records, table=table, csv=csv)
        except Exception as error:  # of any kind: the results are on disk, and are complete without W&B
            words = [f"records={records[0] if csv is None else records[0].parent}"] if records else []
            words += [f"only={table}", f"tables={csv.parent}"] if csv is not None else []
            later = " ".join(["python -m runners.log_wandb", *words])
            log.warning("%s; the results are complete without W&B. To log them later: %s", error, later)

    def send(self, records: Sequence[Path], *, table: str = "", csv: Path | None = None) -> int:
        """Log what is not logged yet, and return the number of runs that were logged.

        Raises InputError if a file is invalid, or if W&B fails or takes too long.
        """
        mode = _within(self.patience, self._connect)
        if mode == "disabled":
            return 0
        cells = {path: _opened(path) for path in dict.fromkeys(records)}
        runs = [self._cell(path, *content) for path, content in cells.items()]
        if csv is not None:
            runs.append(_table(csv, {facts["key"]: path for path, (_, facts) in cells.items()}))
        return sum(self._log_once(**run, group=table, offline=mode == "offline") for run in runs)

    def _connect(self) -> str:
        """Start wandb and return its mode. Raises InputError if a login is needed but not configured."""
        writable(self.folder)
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # wandb has no other way to set them
            os.environ.setdefault(variable, str(self.folder))
        mode = wandb.setup().settings.mode
        if mode in ("offline", "disabled"):
            return mode
        if not wandb.login(prompt=False):
            raise InputError("no API key is configured; run wandb login, or set WANDB_MODE=offline")
        return mode

    def _log_once(
        self, *, id: str, digest: str, group: str, offline: bool, fill: Callable[[Any], None], **about: Any
    ) -> bool:
        """Log a run unless the same content was logged before; return whether it was logged now."""
        note = self.folder / "logged" / f"{id}.json"
        target = {"project": self.project, "entity": self.entity, "digest": digest, "group": group}
        done = json.loads(note.read_text()) if note.is_file() else {}
        wanted = target if group else {**target, "group": done.get("group")}
        if wanted.items() <= done.items() and (offline or not done["offline"]):
            return False

        def send() -> None:
            settings = wandb.Settings(
                **QUIET,
                init_timeout=self.patience,
                finish_timeout=self.patience,  # also if the process ends before the run does
                finish_timeout_raises=True,
            )
            about.update(project=self.project, entity=self.entity, group=group or None, settings=settings)
            with wandb.init(id=id, resume="allow", reinit="create_new", dir=self.folder, **about) as run:
                if run.summary.get("digest") != digest:  # otherwise it was logged from another folder
                    fill(run)
                    run.summary["digest"] = digest

        _within(self.patience, send)
        write_whole(writable(note.parent) / note.name, json.dumps({**target, "offline": offline}).encode())
        return True

    def _cell(self, path: Path, records: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return a cell's run: its configs, results, costs, flags, pictures and record file."""
        parts, flags = {part: facts["names"][part] for part in PARTS}, facts.get("flags", {})
        with untrusted.readable(str(path)):
            summary = {**summary_of(records), "flags": " ".join(flags)}
            summary |= {f"flag_{name}": seen for name, seen in flags.items()}
        described = {**facts["configs"], "names": parts, "command": facts["command"]}
        rest = {name: fact for name, fact in facts.items() if name not in {*described, "configs"}}
        lasting = {name: fact for name, fact in facts.items() if name not in OF_EACH_RENDERING}

        def fill(run: Any) -> None:
            run.config.update({**described, "provenance": rest}, allow_val_change=True)
            run.summary.update(summary)
            pictures = wandb.Table(columns=[*KINDS, *SHOWN])
            for picture in self.pictures.of(records, self.images):
                views = [wandb.Image(view) for view in picture.views.values()]
                pictures.add_data(*views, *(picture.record.get(name) for name in SHOWN))
            if pictures.data:
                run.log({"pictures": pictures})
            run.log_artifact(_records(facts["key"], path))

        return {
            "id": facts["key"],
            "digest": key_of({"records": hashlib.sha256(to_parquet(records)).hexdigest(), "facts": lasting}),
            "fill": fill,
            "name": "/".join(parts.values()),
            "job_type": "evaluate",
            "tags": list(dict.fromkeys(name[:64] for name in parts.values())),  # W&B allows no longer tags
        }


def _table(csv: Path, cells: Mapping[str, Path]) -> dict[str, Any]:
    """Return a table's run: its results, its files, and its cells' record files by the cells' keys."""
    frame = Table.read(csv).frame
    frame = frame.astype(object).where(frame.notna(), "")
    files = [path for path in (csv.with_name(csv.stem + suffix) for suffix in FILES) if path.is_file()]

    def fill(run: Any) -> None:
        run.config.update({"cells": list(cells)}, allow_val_change=True)
        for key, path in cells.items():
            _use(run, _records(key, path))
        run.log({"table": wandb.Table(dataframe=frame, allow_mixed_types=True)})
        name = re.sub(r"[^\w.-]", "-", csv.stem)  # W&B allows no other characters
        artifact = wandb.Artifact(name, type="table", metadata={"cells": list(cells)})
        for file in files:
            artifact.add_file(str(file))
        run.log_artifact(artifact)

    digest = key_of({"cells": list(cells), "csv": hashlib.sha256(csv.read_bytes()).hexdigest()})
    about = {"name": csv.stem, "job_type": "table", "tags": ["table"]}
    return {"id": f"table-{csv.stem}", "digest": digest, "fill": fill, **about}


def summary_of(records: pd.DataFrame) -> dict[str, Any]:
    """Return a cell's results by name: accuracies and SSIM with their intervals, and mean costs."""
    figures = {
        "accuracy": accuracy(records.correct),
        "clean_accuracy": accuracy(records.clean_label == records.label),
        "bare_accuracy": accuracy(records.adversarial_label == records.label),
        "ssim": mean(records.ssim),
    }
    summary = {"n": len(records), **{name: float(records[name].mean()) for name in COSTS}}
    for name, figure in figures.items():
        summary[name] = figure.value
        if not math.isnan(figure.low):
            summary |= {f"{name}_low": figure.low, f"{name}_high": figure.high}
    return summary


def _opened(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the records and the provenance of a file that may come from anyone."""
    table, facts = record_file.opened(path)
    untrusted.check_shape(facts, record_file.NEEDED, f"{path}: provenance")
    return table.to_pandas(), facts


def _records(key: str, path: Path) -> Any:
    """Return a record file as an artifact; W&B makes a new version only if its content is new."""
    artifact = wandb.Artifact(f"records-{key[:16]}", type="records", metadata={"cell": key})
    artifact.add_file(str(path), name="records.parquet")
    return artifact


def _use(run: Any, artifact: Any) -> None:
    """Declare an input of the run.

    Offline, wandb refuses `use_artifact`, although the file of an offline run can hold the declaration. The
    method that `use_artifact` calls is called instead.
    """
    if run.offline:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return the result of a call of wandb, made in a thread that does not keep the process from ending.

    Raises InputError if the call fails, or does not return within so many seconds.
    """
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except Exception as error:
        late = f"no answer within {seconds:g} s"
        raise InputError(f"W&B: {(str(error) or late).splitlines()[0]}") from error
