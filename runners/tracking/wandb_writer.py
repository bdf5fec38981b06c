"""The process that talks to wandb, for wandb_logger.py: events come in pickled, words go out.

It gives up nothing that it was told: where the server does not answer, a second process of this kind goes on
offline, in files (wandb refuses to open a run again in the process where opening it has failed).
"""

import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from runners.pages.pictures import KINDS, Pictures

AT_ONCE = 4  # runs that are being finished
OPENING = 15  # seconds at most that a run has to begin online
AFTERWARDS = 2  # seconds that a run has to end, once the server is known not to answer
UNNAMED = "cells"  # the group of cells that belong to no table
TOLD = ("id", "label", "clean_label", "clean_confidence", "adversarial_label", "adversarial_confidence",
        "purified_label", "confidence", "correct", "ssim")  # fmt: skip


class UnopenedError(Exception):
    """A run could not be opened here: it is for the offline process."""


@dataclass
class Writer:
    """Turns events into wandb's runs.

    Args:
        settings: of WandbLogger.
        say: one line for the person; an empty one is a sign of life.
        words: where such lines go.
    """

    settings: dict[str, Any]
    say: Callable[[str], None]
    words: int
    offline: subprocess.Popen[bytes] | None = None  # once the server has failed
    runs: dict[str, Any] = field(default_factory=dict)  # open, by the cell's key
    files: dict[str, bytes] = field(default_factory=dict)  # of records, by the cell's key
    complaints: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.finishing, self.leaving = ThreadPoolExecutor(AT_ONCE), threading.Lock()
        self.pictures, self.reading = Pictures(Path(self.settings["store"])), threading.Lock()

    def take(self, event: dict[str, Any]) -> None:
        """Deal with an event, or hand it on."""
        try:
            getattr(self, event["event"])(event)
        except UnopenedError:
            self._hand_on(event)

    def advanced(self, event: dict[str, Any]) -> None:
        """One point of a cell's progress; its run is begun with the first."""
        run, done = self._run(event), event["images"]
        self._try(lambda: run.log({"images": done, "share": done / event["of"]}))

    def finished(self, event: dict[str, Any]) -> None:
        """A cell's summary, images and records; the run ends, others go on meanwhile."""
        run = self._run(event)
        del self.runs[event["key"]]
        self.finishing.submit(self._safely, lambda: self._finish(run, event), event)

    def made(self, event: dict[str, Any]) -> None:
        """The table as a run and an artifact, into which its cells' records go."""
        self.finishing.shutdown(wait=True)  # an artifact is there before it is used
        self.finishing = ThreadPoolExecutor(AT_ONCE)
        self.files |= event.get("records_of", {})
        about = {"key": f"table-{event['name']}", "label": event["name"], "table": event["table"]}
        run = self._run({**about, "tags": ["table"], "config": {"cells": event["cells"]}}, stage="table")
        del self.runs[about["key"]]
        self._safely(lambda: self._finish_table(run, event), event)

    def close(self) -> None:
        """End what is open: cells that the run did not come to."""
        self.finishing.shutdown(wait=True)
        for run in self.runs.values():
            run.summary["status"] = "stopped"
            self._try(lambda run=run: self._end(run, 1))
        if self.offline is not None:
            self.offline.stdin.close()
            self.offline.wait()

    def _run(self, about: dict[str, Any], stage: str = "evaluate") -> Any:
        """The open run of this key. Raises UnopenedError where there is none."""
        key = about["key"]
        if key not in self.runs:
            run = None if self.offline else self._try(lambda: self._init(about, stage))
            if run is None:
                raise UnopenedError
            self.runs[key] = run
        return self.runs[key]

    def _init(self, about: dict[str, Any], stage: str) -> Any:
        return wandb.init(
            id=about["key"],
            resume="allow",
            reinit="create_new",
            project=self.settings["project"],
            entity=self.settings["entity"],
            name=about["label"],
            group=about["table"] or UNNAMED,
            job_type=stage,
            tags=[tag[:64] for tag in about["tags"]],
            config=about["config"],
            dir=self.settings["folder"],
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_disable_stats=True,
                disable_git=True,
                disable_code=True,
                init_timeout=min(OPENING, self.settings["patience"]),
            ),
        )

    def _finish(self, run: Any, event: dict[str, Any]) -> None:
        content = event.get("records")
        run.summary.update(event["summary"])
        if content is not None:
            known = {*event["config"], "configs"}
            said = {name: item for name, item in event["provenance"].items() if name not in known}
            run.config.update({"provenance": said}, allow_val_change=True)
            records = pd.read_parquet(io.BytesIO(content))
            run.log({"images": len(records), "share": 1.0, "pictures": self._pictures(records)})
            self.files[event["key"]] = content
            run.log_artifact(_records(event["key"], content))
        self._end(run, 0 if content is not None else 1)

    def _pictures(self, records: pd.DataFrame) -> Any:
        table = wandb.Table(columns=[*KINDS, *TOLD])
        with self.reading:
            pictures = self.pictures.of(records, self.settings["images"])
        for picture in pictures:
            views = [wandb.Image(view) for view in picture.views.values()]
            table.add_data(*views, *(picture.record.get(name) for name in TOLD))
        return table

    def _finish_table(self, run: Any, event: dict[str, Any]) -> None:
        for key in event["cells"]:
            if key in self.files:
                _use(run, _records(key, self.files[key]))
        artifact = wandb.Artifact(event["name"], type="table", metadata={"cells": event["cells"]})
        for file in event["files"]:
            artifact.add_file(file)
        frame = event["frame"]
        told = frame.assign(**{name: frame[name].astype(str) for name in frame.select_dtypes("object")})
        run.log({"table": wandb.Table(dataframe=told.fillna(""), allow_mixed_types=True)})
        run.log_artifact(artifact)
        self._end(run, 0)

    def _end(self, run: Any, status: int) -> None:
        """Finish a run, in so many seconds; what has not been sent by then lies in its file."""
        problems: list[Exception] = []

        def end() -> None:
            try:
                run.finish(status)
            except Exception as error:  # as when wandb's own service has died
                problems.append(error)

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        ending.join(AFTERWARDS if self.offline else self.settings["patience"])
        if ending.is_alive() and self._go_offline():
            raise TimeoutError("the server does not answer")
        if problems:
            raise problems[0]

    def _go_offline(self) -> bool:
        """Begin the process for what cannot be opened here; False where this is it: wandb cannot write."""
        with self.leaving:
            if self.offline is None and os.environ.get("WANDB_MODE") != "offline":
                known = {name: item for name, item in os.environ.items() if name != "WANDB_SERVICE"}
                self.offline = subprocess.Popen(
                    [sys.executable, "-m", "runners.tracking.wandb_writer"],
                    env={**known, "WANDB_MODE": "offline"},
                    stdin=subprocess.PIPE,
                    stdout=self.words,
                )
                self._pass(self.settings)
        return self.offline is not None

    def _hand_on(self, event: dict[str, Any]) -> None:
        """Let the offline process deal with an event."""
        if self._go_offline():
            with self.leaving:
                self._pass({**event, "records_of": dict(self.files)})

    def _pass(self, event: dict[str, Any]) -> None:
        pickle.dump(event, self.offline.stdin)
        self.offline.stdin.flush()

    def _safely(self, call: Callable[[], None], event: dict[str, Any]) -> None:
        """Do what an event asks for here, or else offline; what is only late lies in a file already."""

        def done() -> bool:
            try:
                call()
            except TimeoutError as error:
                self._complain(error)
            return True

        if not self._try(done):
            self._hand_on(event)

    def _try(self, call: Callable[[], Any]) -> Any:
        """The call's result, or None where it fails, which is said once a kind."""
        try:
            return call()
        except Exception as error:
            self._complain(error)
            return None
        finally:
            self.say("")

    def _complain(self, error: Exception) -> None:
        """Say what is wrong, once a run."""
        if not self.complaints:
            reason = str(error).splitlines()[0] if str(error) else "no message"
            kept = f"runs go on in {self.settings['folder']}, and wandb sync sends them later"
            self.say(f"{type(error).__name__}: {reason}; {kept}")
        self.complaints.add(type(error).__name__)


def _records(key: str, content: bytes) -> Any:
    """A cell's record file as an artifact; equal content is one version of it."""
    artifact = wandb.Artifact(f"records-{key[:16]}", type="records", metadata={"cell": key})
    with artifact.new_file("records.parquet", mode="wb") as file:
        file.write(content)
    return artifact


def _use(run: Any, artifact: Any) -> None:
    """Declare an input of the run. Offline the public method refuses, though a run's file can hold it: what
    it would call is called."""
    if run.offline:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def main() -> None:
    """Serve events until there are no more."""
    words = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what wandb prints is for nobody
    saying = threading.Lock()

    def say(text: str) -> None:
        with saying:
            try:
                words.write(text + "\n")
                words.flush()
            except OSError:  # the run was stopped; its events are dealt with all the same
                return

    writer = None
    try:
        while True:
            event = pickle.load(sys.stdin.buffer)
            if writer is None:
                Path(event["folder"]).mkdir(parents=True, exist_ok=True)
                writer = Writer(event, say, words.fileno())
            else:
                writer.take(event)
    except EOFError:
        if writer is not None:
            writer.close()
    finally:
        os._exit(0)  # wandb would wait at exit for what it could not send


if __name__ == "__main__":
    main()
