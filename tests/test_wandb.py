"""Logging to Weights & Biases: an offline run as wandb's own tool reads it, repeated logging, and faults."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import wandb

from data.errors import InputError
from runners import log_wandb
from runners.evaluation.records import to_parquet
from runners.loggers.wandb import WandbLogger
from runners.places import CONFIGS
from runners.store.artifact import Artifact
from runners.store.store import Store
from runners.tables.frame import COLUMNS

ROOT = CONFIGS.parent
WANDB = Path(sys.executable).parent / "wandb"
PARTS = {"dataset": "digits", "victim": "small", "attack": "pgd", "knowledge": "blind", "purifier": "jpeg"}
RECIPES = {stage: Artifact(stage, {"of": "made up"}) for stage in ("clean", "adversarial", "purified")}
KEY = "a" * 64
RUN = f"*-{KEY}"  # its folders


def records(store: Path, n: int = 6) -> pd.DataFrame:
    """Return records whose images lie in the store; the second half is classified wrongly."""
    rng = np.random.default_rng(0)
    for recipe in RECIPES.values():
        content = safetensors.numpy.save({"images": rng.random((n, 3, 8, 8), dtype=np.float32)})
        Store(store).put(recipe, content)
    right = np.arange(n) < n // 2
    same = dict.fromkeys(["ssim", "confidence", "clean_confidence", "adversarial_confidence"], 0.5)
    same |= dict.fromkeys(["craft_seconds", "purify_seconds", "queries"], 2.0)
    same |= dict.fromkeys(["forward_passes", "backward_passes"], 1)
    return pd.DataFrame(
        {
            "id": [f"t/{i}" for i in range(n)], "label": 1, "clean_label": 1, "adversarial_label": 0,
            "purified_label": right.astype(int), "correct": right, "row": range(n),
            **{stage: recipe.key for stage, recipe in RECIPES.items()}, **same,
        }
    )  # fmt: skip


def provenance(**changes: Any) -> dict[str, Any]:
    """Return the provenance of a cell of a user's own components."""
    return {
        "format": 1, "commit": "c0", "dirty": False, "versions": {}, "key": KEY, "names": PARTS,
        "configs": {part: {"_target_": f"theirs.{name}", "eps": 0.5} for part, name in PARTS.items()},
        "command": "python -m runners.evaluate", "component_versions": {}, "scoring": 1, "settings": {},
        "precision": "float32", "weights": {}, "image_ids_sha256": "0" * 64, "made_elsewhere": [],
        "device": {"type": "cpu", "name": "some"}, "time": "now", "flags": {"small_n": "6 images"}, **changes,
    }  # fmt: skip


def write_cell(folder: Path, *, misled: int = 3, **changes: Any) -> Path:
    """Write a record file and its images in the store, and return the path of the file."""
    rows = records(folder / "store").assign(correct=lambda frame: frame.index < len(frame) - misled)
    path = folder / "records" / f"digits-small-pgd-blind-jpeg-n6-{KEY[:8]}.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(to_parquet(rows, provenance(**changes)))
    return path


def write_table(folder: Path, record: str = KEY[:8]) -> Path:
    """Write a table's CSV file of one cell and one skipped column, and return its path."""
    entry = dict.fromkeys(COLUMNS) | {"row": "JPEG", "column": "PGD", "metric": "accuracy", "value": 50.0}
    entry |= {"knowledge": "blind", "status": "done", "best": False, "record": record}
    path = folder / "tables" / "ddip-table1.csv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame([entry, entry | {"value": None, "record": ""}]).to_csv(path, index=False)
    return path


def logger(folder: Path, *, patience: float = 300, **changes: Any) -> WandbLogger:
    return WandbLogger(folder=str(folder / "w"), store=str(folder / "store"), patience=patience, **changes)


def runs_in(folder: Path, which: str = "*") -> list[Path]:
    return sorted((folder / "w" / "wandb").glob(f"*run-{which}"))


def read(run: Path) -> tuple[dict, list[dict]]:
    """Return wandb's own summary of a run, and the records of the run."""
    summary, lines = (
        subprocess.run([WANDB, "leet", "inspect", *words, "--json", run], capture_output=True, check=True)
        for words in (["--summary"], [])
    )
    return json.loads(summary.stdout), [json.loads(line) for line in lines.stdout.splitlines()]


def artifacts(lines: list[dict]) -> list[dict]:
    return [line["artifact"] for line in lines if line["type"] == "artifact"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Iterator[Path]:
    """Yield a folder in which a cell and its table have been logged offline; wandb stays offline."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            patch.setenv(name, str(folder / "w"))
        logged = logger(folder).send([write_cell(folder)], table="ddip/table1", csv=write_table(folder))
        assert logged == 2
        yield folder
        wandb.teardown()


@pytest.fixture(scope="module")
def cell(offline) -> tuple[dict, list[dict]]:
    (run,) = runs_in(offline, RUN)
    return read(run)


def test_a_cell_is_a_run_of_its_key_with_its_parts_config_and_figures(cell):
    content, lines = cell
    run = next(line["run"] for line in lines if line["type"] == "run")
    assert (run["run_group"], run["job_type"], run["project"]) == ("ddip/table1", "evaluate", "purifybench")
    assert (content["run_id"], content["state"]) == (KEY, "finished")
    assert content["tags"] == list(PARTS.values())
    assert content["config"]["attack"]["eps"] == 0.5
    assert content["config"]["provenance"]["commit"] == "c0"
    summary = content["summary"]
    assert (summary["accuracy"], summary["clean_accuracy"], summary["bare_accuracy"]) == (50, 100, 0)
    assert summary["accuracy_low"] < 50 < summary["accuracy_high"]
    assert (summary["n"], summary["purify_seconds"], summary["queries"]) == (6, 2, 2)
    assert (summary["flags"], summary["flag_small_n"]) == ("small_n", "6 images")


def test_its_table_of_images_has_failures_first(offline):
    (path,) = (runs_in(offline, RUN)[0] / "files" / "media" / "table").glob("pictures*.json")
    table = json.loads(path.read_text())
    right = [row[table["columns"].index("correct")] for row in table["data"]]
    assert right == [False] * 3 + [True] * 3
    assert table["columns"][:5] == ["clean", "adversarial", "noise ×10", "purified", "residual ×10"]


def test_the_table_is_an_artifact_made_from_its_cells_record_files(offline, cell):
    (run,) = runs_in(offline, "*-table-ddip-table1")
    content, lines = read(run)
    assert content["config"]["cells"] == [KEY]
    (used,) = [artifact for artifact in artifacts(lines) if artifact.get("use_after_commit")]
    (logged,) = [artifact for artifact in artifacts(cell[1]) if artifact["type"] == "records"]
    assert used["digest"] == logged["digest"]
    (table,) = [artifact for artifact in artifacts(lines) if artifact["type"] == "table"]
    assert [item["path"] for item in table["manifest"]["contents"]] == ["ddip-table1.csv"]


@pytest.fixture
def copy(offline, tmp_path) -> Path:
    """Return a copy of the folder in which the cell and its table have been logged."""
    shutil.copytree(offline, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("misled", "changes", "logged"),
    [(3, {"time": "later", "command_line": "python -m runners.table"}, 0), (2, {}, 1), (3, {"flags": {}}, 1)],
    ids=["made again", "other figures", "other flags"],
)
def test_a_cell_is_logged_again_only_where_its_content_is_new(copy, misled, changes, logged):
    path = write_cell(copy, misled=misled, **changes)
    assert logger(copy).send([path]) == logged
    assert len(runs_in(copy, RUN)) == 1 + logged
    assert logger(copy).send([path]) == 0


class Run:
    """A stand-in for a resumed online run."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary, self.logged, self.offline = summary, [], False
        self.config = SimpleNamespace(update=lambda *_, **__: None)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def log(self, content: dict[str, Any]) -> None:
        self.logged += content

    def log_artifact(self, artifact: Any) -> None:
        self.logged.append(artifact.type)


@pytest.fixture
def online(monkeypatch) -> Iterator[dict[str, Any]]:
    """Pretend that wandb has a login, without a server; return its runs by id.

    Each run holds the settings with which it was begun.
    """
    runs: dict[str, Any] = {}

    def init(**words: Any) -> Run:
        run = runs.setdefault(words["id"], Run({}))
        run.logged, run.words = [], words
        return run

    settings = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    monkeypatch.setattr(wandb, "setup", lambda: settings)
    monkeypatch.setattr(wandb, "login", lambda *, prompt: True)
    monkeypatch.setattr(wandb, "init", init)
    return runs


def test_what_was_logged_offline_is_logged_once_online(copy, online):
    path = write_cell(copy)
    assert logger(copy).send([path]) == 1
    assert online[KEY].logged == ["pictures", "records"]
    assert online[KEY].words["resume"] == "allow"
    assert logger(copy).send([path]) == 0


def test_a_run_that_another_machine_has_logged_is_left_as_it_is(tmp_path, online):
    path = write_cell(tmp_path)
    logger(tmp_path).send([path])
    shutil.rmtree(tmp_path / "w")
    logger(tmp_path).send([path])
    assert online[KEY].logged == []
    write_cell(tmp_path, misled=1)
    logger(tmp_path).send([path])
    assert online[KEY].summary["accuracy"] == pytest.approx(500 / 6)


def words(folder: Path, *more: str) -> list[str]:
    return [
        f"records={folder / 'records'}", f"tables={folder / 'tables'}", f"store={folder / 'store'}",
        f"logger.folder={folder / 'w'}", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], "logged 0 of 1 run;"),
        (["only=ddip/table1"], "logged 0 of 2 runs"),
        (["only=mine", "logger.project=other"], "logged 2 of 2 runs"),
    ],
    ids=["a folder", "a table", "another project"],
)
def test_the_command_logs_what_is_not_logged_yet(copy, command, more, expected):
    if "only=mine" in more:
        shutil.copy(copy / "tables" / "ddip-table1.csv", copy / "tables" / "mine-cifar10.csv")
    status, out, err = command(log_wandb.main, "log_wandb", *words(copy, *more))
    assert (status, err) == (0, "")
    assert expected in out


def test_a_table_without_record_files_does_not_stop_the_others(copy, command, caplog):
    text = (copy / "tables" / "ddip-table1.csv").read_text()
    (copy / "tables" / "ddip-table1-cifar10.csv").write_text(text.replace(KEY[:8], "b" * 8))
    status, out, _ = command(log_wandb.main, "log_wandb", *words(copy, "only=ddip/table1"))
    assert status == 0
    assert "logged 0 of 2 runs" in out
    assert "there is none of bbbbbbbb; this table is not logged" in caplog.text


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["records=nowhere"], "records: expected a record file, or a folder with some, got nowhere"),
        (["only=ddip/table"], "only: expected a table that lies in"),
        (["only=lacking"], "but there is none of bbbbbbbb"),
        (["logger.patience=0"], "logger.patience: expected seconds above 0"),
    ],
    ids=["no folder", "no table", "no record file", "patience"],
)
def test_the_command_says_in_a_line_what_it_lacks(tmp_path, offline, command, more, expected):
    write_cell(tmp_path)
    write_table(tmp_path, "b" * 8).rename(tmp_path / "tables" / "lacking.csv")
    status, _, err = command(log_wandb.main, "log_wandb", *words(tmp_path, *more))
    assert (status, len(err.splitlines())) == (2, 1)
    assert expected in err
    assert not runs_in(tmp_path)


def test_the_command_takes_no_other_logger(command):
    status, _, err = command(log_wandb.main, "log_wandb", "logger=none")
    assert (status, err) == (2, "error: logger: expected wandb, got another logger\n")


@pytest.mark.parametrize(
    "wrong", [{"project": ""}, {"images": -1}, {"patience": 0}], ids=["project", "images", "patience"]
)
def test_a_bad_setting_is_told_by_its_name(wrong):
    with pytest.raises(InputError, match=rf"logger\.{next(iter(wrong))}: expected"):
        WandbLogger(**wrong)


@pytest.mark.parametrize(
    "changes",
    [{"command": "${oc.create:{_target_: os.mkdir}}"}, {"key": "../../a"}, {"names": {"dataset": "a"}}],
    ids=["interpolation", "key", "names"],
)
def test_a_record_file_of_anyone_is_plain_data_or_is_refused(tmp_path, online, changes):
    with pytest.raises(InputError, match="provenance"):
        logger(tmp_path).send([write_cell(tmp_path, **changes)])
    assert not online


def no_login(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wandb, "login", lambda *, prompt: prompt)


def hangs_at_init(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wandb, "init", lambda **_: time.sleep(60))


def fails_at_init(patch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise wandb.errors.CommError("the server\nis gone")

    patch.setattr(wandb, "init", init)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (no_login, "no API key is configured; run wandb login, or set WANDB_MODE=offline"),
        (hangs_at_init, "W&B: no answer within 0.2 s"),
        (fails_at_init, "W&B: the server"),
    ],
)
def test_a_failure_of_wandb_is_one_warning_that_says_how_to_log_later(
    tmp_path, online, monkeypatch, caplog, fault, expected
):
    fault(monkeypatch)
    path, csv = write_cell(tmp_path), write_table(tmp_path)
    start = time.perf_counter()
    logger(tmp_path, patience=0.2).log([path], table="ddip/table1", csv=csv)
    assert time.perf_counter() - start < 10
    (warning,) = caplog.messages
    assert expected in warning
    later = f"python -m runners.log_wandb records={path.parent} only=ddip/table1 tables={csv.parent}"
    assert warning.endswith(later)
    assert not (tmp_path / "w" / "logged").exists()


class Broken(http.server.BaseHTTPRequestHandler):
    """A stand-in for W&B's service that answers as `how` says."""

    how: Callable[["Broken"], None]

    def do_POST(self) -> None:
        try:
            type(self).how(self)
        except OSError:  # the client has gone
            return

    do_GET = do_POST  # noqa: N815

    def asked(self) -> str:
        """Return the name of the operation."""
        content = self.rfile.read(int(self.headers.get("content-length") or 0)).decode(errors="replace")
        match = re.search(r"(?:query|mutation) (\w+)", content)
        return match[1] if match else self.path

    def reply(self, data: dict) -> None:
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing on the console."""


def says_500(request: Broken) -> None:
    request.send_error(500)


def hangs(request: Broken) -> None:
    time.sleep(60)


def goes_away(request: Broken) -> None:
    """Let runs begin, and answer nothing else."""
    answer = OPENING.get(request.asked())
    request.reply(answer) if answer else hangs(request)


def talks_nonsense(request: Broken) -> None:
    """Let runs begin; other answers are empty, which makes wandb's own service die (wandb 0.31)."""
    request.reply(OPENING.get(request.asked(), {}))


PROJECT = {"id": "p", "name": "purifybench", "entity": {"id": "e", "name": "me"}}
OPENING = {
    "RunResumeStatus": {"model": {**PROJECT, "bucket": None}},
    "UpsertBucket": {
        "upsertBucket": {
            "bucket": {"id": "b", "name": "r", "displayName": "r", "config": "{}", "project": PROJECT},
            "inserted": True,
        }
    },
}


@pytest.fixture
def server(request) -> Iterator[str]:
    """Yield the address of a server of this kind; for None, no server is there."""
    handler = type("Handler", (Broken,), {"how": request.param or says_500})
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving.daemon_threads = True
    if request.param is None:
        serving.server_close()
    else:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    if request.param is not None:
        serving.shutdown()


LOGS = """
import sys, time
from pathlib import Path
from runners.loggers.wandb import WandbLogger
record, csv, folder = map(Path, sys.argv[1:])
logger = WandbLogger(folder=str(folder), store=str(folder), patience=4)
print(time.time())
logger.log([record], table="ddip/table1", csv=csv)
print(time.time())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "server",
    [None, says_500, hangs, goes_away, talks_nonsense],
    indirect=True,
    ids=["refuses", "500", "hangs", "goes away in the middle", "kills wandb's service"],
)
def test_a_process_whose_server_fails_goes_on_and_ends(server, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"WANDB_BASE_URL": server, "WANDB_API_KEY": "0" * 40, "PYTHONPATH": str(ROOT)}
    words = [write_cell(tmp_path), write_table(tmp_path), tmp_path / "w"]
    done = subprocess.run(
        [sys.executable, "-c", LOGS, *words], env=environment, capture_output=True, text=True, timeout=120
    )
    end = time.time()
    assert done.returncode == 0
    before, after = map(float, done.stdout.split())
    assert after - before < 15, "logging was not given up after `patience` seconds"
    assert end - after < 25, "the process did not end"
    assert done.stderr.count("To log them later: python -m runners.log_wandb records=") == 1
    assert not (tmp_path / "w" / "logged").exists()
