"""Weights & Biases (https://docs.wandb.ai): a run a cell, a run a table.

wandb runs in a process of its own (wandb_writer.py, beside this), which is told of the run through a queue
and a pipe: whatever it does, hangs or dies of, the evaluation neither waits for it nor fails by it.
"""

import logging
import math
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import InputError
from runners.app import CONFIGS
from runners.cells.records import to_parquet
from runners.tables.figures import accuracy, mean
from runners.work.observer import Observer, Planned

log = logging.getLogger(__name__)

ROOT = CONFIGS.parent
STARTING = 30  # seconds that a process of wandb's may take to start
EVERY = 2.0  # seconds between two tellings of one cell's progress, at least


class WandbLogger(Observer):
    """Tells Weights & Biases.

    A cell's run has the cell's key as its id, so that a resumed or repeated cell updates it: group = table,
    job type = stage, tags = the names of its parts, config = its resolved configs, summary = its figures.
    Where the server does not answer, runs are kept in `folder`, and `wandb sync` sends them later.

    Args:
        project: where the runs go.
        entity: whose project; none is the account's own.
        images: of each cell, in a table of images, wrongly classified ones first.
        folder: where wandb keeps its files.
        store: where the images lie.
        patience: seconds that a run has to end; what is not sent by then is left for wandb sync.
    """

    def __init__(
        self,
        *,
        project: str = "purifybench",
        entity: str | None = None,
        images: int = 16,
        folder: str = "results/wandb",
        store: str = "results/store",
        patience: float = 30,
    ) -> None:
        if not isinstance(project, str) or not project:
            raise InputError(f"logger.project: expected a name, got {project!r}")
        if not isinstance(images, int) or images < 0:
            raise InputError(f"logger.images: expected 0 or more, got {images!r}")
        if not patience > 0:
            raise InputError(f"logger.patience: expected seconds above 0, got {patience!r}")
        self.patience, self.table = patience, ""
        self.settings = {
            "project": project,
            "entity": entity,
            "images": images,
            "folder": str(Path(folder).resolve()),
            "store": str(Path(store).resolve()),
            "patience": patience,
        }
        self.events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.writer: subprocess.Popen[bytes] | None = None
        self.told: dict[str, float] = {}  # when, by the cell's key
        self.heard = time.monotonic()  # when the writer last did something

    def begin(self, table: str) -> None:
        """The group of the runs that follow."""
        self.table = table

    def planned(self, cells: Sequence[Planned]) -> None:
        """Start wandb's process, while the first chunks are worked on."""
        if cells and self.writer is None:
            self._start()

    def advanced(self, cell: Planned, images: int) -> None:
        """One point of the cell's progress."""
        now = time.monotonic()
        if now - self.told.get(cell.key, -EVERY) >= EVERY:
            self.told[cell.key] = now
            self._tell("advanced", **self._about(cell), images=images, of=cell.images)

    def finished(self, cell: Planned, result: Any) -> None:
        """The cell's figures, images and records; or why it failed."""
        if result.records is None:
            self._tell("finished", **self._about(cell), summary={"status": "failed", "reason": result.failed})
            return
        self._tell(
            "finished",
            **self._about(cell),
            summary={"status": "done", **_flags(result)},
            provenance=result.provenance,
            records=result.records,
        )

    def made(self, name: str, frame: pd.DataFrame, files: Sequence[Path], cells: Sequence[str]) -> None:
        """The table, and which cells it is made from."""
        paths = [str(Path(file).resolve()) for file in files]
        self._tell("made", name=name, table=self.table, frame=frame, files=paths, cells=list(cells))

    def close(self) -> None:
        """Wait for wandb as long as it gets on, and leave it what it could not send."""
        if self.writer is None:
            return
        self.events.put(None)
        self.heard = time.monotonic()
        writer, allowed = self.writer, 2 * self.patience + STARTING
        while writer.poll() is None:
            if time.monotonic() - self.heard > allowed:
                self.writer = None
                writer.kill()
                log.warning("W&B: no sign of life for %g s; wandb sync sends what is in %s", allowed,
                            self.settings["folder"])  # fmt: skip
            time.sleep(0.05)
        self.reader.join(timeout=1)
        self.writer = None

    def _about(self, cell: Planned) -> dict[str, Any]:
        """What a run of this cell is opened with."""
        return {
            "key": cell.key,
            "label": cell.cell.label,
            "table": self.table,
            "tags": list(dict.fromkeys(cell.cell.names.values())),
            "config": {**cell.cell.configs, "names": cell.cell.names, "command": cell.cell.command},
        }

    def _tell(self, event: str, **content: Any) -> None:
        self.events.put({"event": event, **content})

    def _start(self) -> None:
        """Begin the writer and the two threads that talk to it and listen to it."""
        places = {name: self.settings["folder"] for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
        try:
            self.writer = subprocess.Popen(
                [sys.executable, "-m", "runners.tracking.wandb_writer"],
                cwd=ROOT,
                env={**os.environ, **places},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run; the writer then ends by itself
            )
        except OSError as error:
            log.warning("W&B: its process cannot be started (%s); nothing is logged", error)
            return
        self.events.put(self.settings)
        self.reader = threading.Thread(target=self._listen, args=(self.writer,), daemon=True)
        self.reader.start()
        threading.Thread(target=self._feed, args=(self.writer,), daemon=True).start()

    def _feed(self, writer: "subprocess.Popen[bytes]") -> None:
        """Pass the events on; the queue takes what the pipe does not yet."""
        try:
            while (event := self.events.get()) is not None:
                pickle.dump(_light(event), writer.stdin)
                writer.stdin.flush()
            writer.stdin.close()
        except OSError:  # it is gone, and has said why if it could
            return

    def _listen(self, writer: "subprocess.Popen[bytes]") -> None:
        """Lines of the writer: empty ones are signs of life, others are said."""
        for line in writer.stdout:
            self.heard = time.monotonic()
            if text := line.decode(errors="replace").strip():
                log.warning("W&B: %s", text)
        if writer.wait() and self.writer is writer:
            log.warning(
                "W&B: its process ended with status %s; the run goes on without it", writer.returncode
            )


def summary_of(records: pd.DataFrame) -> dict[str, Any]:
    """A cell's figures by name: accuracy and SSIM with their intervals, and what they cost."""
    figures = {
        "accuracy": accuracy(records.correct),
        "clean_accuracy": accuracy(records.clean_label == records.label),
        "bare_accuracy": accuracy(records.adversarial_label == records.label),
        "ssim": mean(records.ssim),
    }
    summary = {}
    for name, figure in figures.items():
        summary[name] = figure.value
        if not math.isnan(figure.low):
            summary |= {f"{name}_low": figure.low, f"{name}_high": figure.high}
    costs = ("craft_seconds", "purify_seconds", "queries", "forward_passes", "backward_passes")
    return {"n": len(records), **summary, **{name: float(records[name].mean()) for name in costs}}


def _flags(result: Any) -> dict[str, Any]:
    names = [flag.name for flag in result.flags]
    return {"flags": " ".join(names), **{f"flag_{flag.name}": flag.seen for flag in result.flags}}


def _light(event: dict[str, Any]) -> dict[str, Any]:
    """With a cell's figures, and its records as bytes: made here, not where the run would wait for it."""
    records = event.get("records")
    if records is None:
        return event
    summary = {**event["summary"], **summary_of(records)}
    return {**event, "summary": summary, "records": to_parquet(records, event["provenance"])}
