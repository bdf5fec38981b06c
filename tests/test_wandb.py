"""Weights & Biases: what an offline run holds, read back with wandb's own tool; and servers that fail."""

import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from data.errors import InputError
from runners.cells.cell import Cell
from runners.store.store import Store, key_of
from runners.tracking.wandb_logger import WandbLogger
from runners.trust.flags import Flag
from runners.work.observer import Planned

WANDB = Path(sys.executable).parent / "wandb"
PARTS = {"dataset": "digits", "victim": "small", "attack": "pgd", "knowledge": "blind", "purifier": "jpeg"}

RECIPES = {stage: {"stage": stage, "of": "made up"} for stage in ("clean", "adversarial", "purified")}


def planned(key: str, n: int = 6) -> Planned:
    configs = {part: {"_target_": f"x.{name}", "eps": 0.5} for part, name in PARTS.items()}
    return Planned(Cell(PARTS, configs, "python -m x"), key, {f"{key}-0": n}, frozenset())


def records(store: Path, n: int = 6) -> pd.DataFrame:
    """Records whose images lie in the store; the second half is classified wrongly."""
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
            **{stage: key_of(recipe) for stage, recipe in RECIPES.items()}, **same,
        }
    )  # fmt: skip


def log_cells(folder: Path, *, patience: float = 20, **changes) -> float:
    """Log a finished and a failed cell and their table; the seconds that the run was kept before the end."""
    logger = WandbLogger(folder=str(folder / "w"), store=str(folder / "store"), patience=patience, **changes)
    good, bad = planned("a" * 64), planned("b" * 64)
    rows, flags = records(folder / "store"), [Flag("small_n", "6 images")]
    done = SimpleNamespace(
        records=rows, flags=flags, failed=None, provenance={"key": good.key, "commit": "c0"}
    )
    start = time.perf_counter()
    logger.begin("ddip/table1")
    logger.planned([good, bad])
    logger.advanced(good, 3)
    logger.finished(good, done)
    logger.finished(bad, SimpleNamespace(records=None, failed="NaN in the network"))
    file = folder / "t.csv"
    file.write_text("row,value\n")
    frame = pd.DataFrame({"row": ["JPEG", "DDIP"], "value": [50.0, None]})
    logger.made("ddip-table1", frame, [file], [good.key])
    kept = time.perf_counter() - start
    logger.close()
    return kept


def read(folder: Path, only: str = "") -> list[tuple[dict, list[dict]]]:
    """wandb's own summary of each run and its records."""
    found = []
    for run in sorted((folder / "w" / "wandb").glob(f"*run-*{only}")):
        summary, lines = (
            subprocess.run([WANDB, "leet", "inspect", *words, "--json", run], capture_output=True, check=True)
            for words in (["--summary"], [])
        )
        found.append((json.loads(summary.stdout), [json.loads(line) for line in lines.stdout.splitlines()]))
    return found


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        log_cells(folder)
    return folder


@pytest.fixture(scope="module")
def runs(offline) -> dict[str, tuple[dict, list[dict]]]:
    return {told["run_id"]: (told, lines) for told, lines in read(offline)}


def test_a_cell_is_a_run_of_its_key_with_its_parts_config_and_figures(runs):
    told, lines = runs["a" * 64]
    run = next(line["run"] for line in lines if line["type"] == "run")
    assert (run["run_group"], run["job_type"], run["project"]) == ("ddip/table1", "evaluate", "purifybench")
    assert told["tags"] == list(PARTS.values())
    assert told["config"]["attack"]["eps"] == 0.5
    assert told["config"]["provenance"]["commit"] == "c0"
    assert told["state"] == "finished"
    summary = told["summary"]
    assert (summary["accuracy"], summary["n"], summary["flags"]) == (50, 6, "small_n")
    assert summary["accuracy_low"] < 50 < summary["accuracy_high"]
    progress = [line["history"]["item"]["images"] for line in lines if line["type"] == "history"]
    assert progress == [3, 6]


def test_its_table_of_images_has_failures_first(offline):
    path = next((offline / "w" / "wandb").glob(f"*{'a' * 64}/files/media/table/pictures*.json"))
    table = json.loads(path.read_text())
    right = [row[table["columns"].index("correct")] for row in table["data"]]
    assert right == [False] * 3 + [True] * 3
    assert table["columns"][:5] == ["clean", "adversarial", "noise ×10", "purified", "residual ×10"]


def test_a_failed_cell_is_a_failed_run_with_its_reason_and_no_figure(runs):
    told, _ = runs["b" * 64]
    assert told["exit_code"] == 1
    assert told["summary"]["reason"] == "NaN in the network"
    assert "accuracy" not in told["summary"]


def test_the_table_is_an_artifact_made_from_its_cells_records(runs):
    _, lines = runs["table-ddip-table1"]
    artifacts = [line["artifact"] for line in lines if line["type"] == "artifact"]
    used = {artifact["name"] for artifact in artifacts if artifact.get("use_after_commit")}
    (table,) = [artifact for artifact in artifacts if artifact["type"] == "table"]
    assert used == {"records-" + "a" * 16}
    assert [item["path"] for item in table["manifest"]["contents"]] == ["t.csv"]


def test_a_repeated_cell_has_the_same_run_id_and_record_version(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_cells(tmp_path)
    ((told, again),) = read(tmp_path, only="a" * 64)
    assert told["run_id"] == "a" * 64

    def digest(lines: list[dict]) -> str:
        artifacts = [line["artifact"] for line in lines if line["type"] == "artifact"]
        return next(artifact["digest"] for artifact in artifacts if artifact["type"] == "records")

    assert digest(runs["a" * 64][1]) == digest(again)


@pytest.mark.parametrize(
    "wrong", [{"project": ""}, {"images": -1}, {"patience": 0}], ids=["project", "images", "patience"]
)
def test_a_bad_setting_is_told_by_its_name(wrong):
    with pytest.raises(InputError, match=rf"logger\.{next(iter(wrong))}: expected"):
        WandbLogger(**wrong)


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
        """The name of the operation."""
        content = self.rfile.read(int(self.headers.get("content-length") or 0)).decode(errors="replace")
        found = re.search(r"(?:query|mutation) (\w+)", content)
        return found[1] if found else self.path

    def reply(self, data: dict) -> None:
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""


def says_500(request: Broken) -> None:
    request.send_error(500)


def hangs(request: Broken) -> None:
    time.sleep(60)


def goes_away(request: Broken) -> None:
    """Lets runs begin, and answers nothing else."""
    answer = OPENING.get(request.asked())
    request.reply(answer) if answer else hangs(request)


def talks_nonsense(request: Broken) -> None:
    """Lets runs begin; its other answers are empty, which wandb's own service dies of (wandb 0.31)."""
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
    """The address of a server of this kind; of none at all for None."""
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "server",
    [None, says_500, hangs, goes_away, talks_nonsense],
    indirect=True,
    ids=["refuses", "500", "hangs", "goes away in the middle", "kills wandb's service"],
)
def test_a_server_that_fails_keeps_no_run_and_loses_nothing(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    start = time.perf_counter()
    kept = log_cells(tmp_path, patience=6)
    assert kept < 1, "the run waited for wandb"
    assert time.perf_counter() - start < 90
    assert caplog.text.count("wandb sync") == 1
    figures = [told["summary"].get("accuracy") for told, _ in read(tmp_path, only="a" * 64)]
    assert 50 in figures
