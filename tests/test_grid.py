"""Whole runs end in the records of an undisturbed run after a resume, damage, a failure or SIGKILL."""

import copy
import inspect
import io
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import composed
from rich.console import Console
from small_table import TIMINGS

from data.errors import InputError
from runners.evaluation.cell import PARTS, Cell
from runners.evaluation.component import to_plain_dict
from runners.evaluation.estimator import Estimator
from runners.evaluation.settings import Settings
from runners.evaluator import CellResult, Evaluator
from runners.places import CONFIGS
from tests.broken import Raises
from victims.victim import Victim

ROOT = CONFIGS.parent
RAISED = inspect.getsourcelines(Raises.purify)[1] + 1


def cell(*overrides: str, purifier: str | None = None) -> Cell:
    """Return a cell, by default of the embedded data and victim; `purifier` names a class of broken.py."""
    config = composed(*overrides)
    choices = config.hydra.runtime.choices
    configs = {part: to_plain_dict(config[part]) for part in PARTS}
    names = {part: choices[part] for part in PARTS}
    if purifier is not None:
        configs["purifier"], names["purifier"] = {"_target_": f"tests.broken.{purifier}"}, purifier
    return Cell(names, configs, "")


# A fit of few parameters: these tests do not depend on the size of its network.
DIP = ("purifier=dip", "network@purifier.trace.network=small")
CELLS = [
    cell("attack=clean", "purifier=none"),
    cell("attack=pgd", "attack.steps=2", "purifier=none"),
    cell("attack=pgd", "attack.steps=2", "purifier=jpeg"),
    cell("attack=pgd", "attack.steps=2", *DIP, "purifier.steps=6"),
    cell("attack=pgd", "attack.steps=2", "purifier=dipdefend", DIP[1], "purifier.steps=8"),
]


def run(
    store: Path,
    cells=CELLS,
    *,
    here: bool = False,
    only: frozenset[str] | None = None,
    estimated: bool = False,
    **changes,
) -> tuple[list[CellResult], str]:
    """Evaluate the cells, and return the results and what was printed.

    Unless `estimated`, no trial is made, and all work counts as short.
    """
    settings = {
        "n": 5,
        "seed": 0,
        "split": "evaluation",
        "subset": "random",
        "chunk": 2,
        "device": "cpu",
        "tf32": False,
        "workers": 1,
        "budget_hours": 1.0,
        "audit": "cheap",
        "draws": 3,
    }
    settings = Settings(store=str(store), **(settings | changes))
    console = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        if not estimated:
            patch.setattr(Estimator, "seconds", lambda self, task: 0.0)
        results = Evaluator(settings, console, only=only, here=here).evaluate(cells)
    return results, console.file.getvalue()


def same(results: list[CellResult], expected: list[CellResult]) -> None:
    """Check that the records are equal to the bit, apart from the timings."""
    for ours, theirs in zip(results, expected, strict=True):
        pd.testing.assert_frame_equal(
            ours.records.drop(columns=list(TIMINGS)),
            theirs.records.drop(columns=list(TIMINGS)),
            check_exact=True,
        )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, list[CellResult]]:
    store = tmp_path_factory.mktemp("undisturbed")
    return store, run(store, estimated=True)[0]


@pytest.fixture
def store(undisturbed, tmp_path) -> Path:
    """Return a store that holds only the trained victim, and that the components have passed their checks."""
    for stage in ("weights", "traits"):
        subprocess.run(["cp", "-r", str(undisturbed[0] / stage), str(tmp_path)], check=True)
    return tmp_path


def files(store: Path, stage: str) -> list[Path]:
    return sorted(p for p in (store / stage).rglob("*") if p.is_file())


def test_records_hold_what_a_table_needs(undisturbed):
    _, results = undisturbed
    for result in results:
        records = result.records
        assert len(records) == records.id.nunique() == 5
        assert (records.correct == (records.purified_label == records.label)).all()
    clean, attacked = results[0].records, results[1].records
    assert (clean.linf == 0).all()
    assert (clean.ssim > 0.9999).all()
    assert attacked.linf.between(1e-6, 8 / 255 + 1e-6).all()
    assert (attacked.adversarial_label == attacked.purified_label).all(), (
        "a cell without a defense is the bare victim"
    )
    assert attacked.id.tolist() == clean.id.tolist()


def test_adversarial_examples_are_crafted_once_for_all_purifiers(undisturbed):
    store, results = undisturbed
    assert len(files(store, "adversarial")) == 2 * 3, "two attacks, three chunks"
    assert results[1].records.adversarial.tolist() == results[4].records.adversarial.tolist()


def test_a_second_run_computes_nothing(undisturbed):
    store, expected = undisturbed
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    results, output = run(store)
    assert "nothing to compute" in output
    assert before == {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    same(results, expected)


def test_two_processes_give_what_one_does(store, undisturbed):
    results, _ = run(store, workers=2)
    same(results, undisturbed[1])


def test_cells_may_come_in_any_order_and_alone(store, undisturbed):
    for i in (3, 1):
        same(run(store, [CELLS[i]])[0], [undisturbed[1][i]])
    same(run(store, CELLS[::-1])[0], undisturbed[1][::-1])


def test_chunk_size_changes_no_decision_and_hardly_a_bit(store, undisturbed):
    results, _ = run(store, chunk=5)
    for ours, theirs in zip(results, undisturbed[1], strict=True):
        assert ours.records.purified_label.tolist() == theirs.records.purified_label.tolist()
        assert (ours.records.ssim - theirs.records.ssim).abs().max() < 1e-3


def test_more_images_keep_the_chunks_already_done(undisturbed, tmp_path):
    store = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(store)], check=True)
    before = files(store, "purified")
    results, _ = run(store, n=6)
    assert set(before) < set(files(store, "purified"))
    apart = [*TIMINGS, "image_ids_sha256"]  # the digest of all images of the cell
    first = results[3].records.iloc[:4].drop(columns=apart)
    pd.testing.assert_frame_equal(first, undisturbed[1][3].records.iloc[:4].drop(columns=apart))


@pytest.mark.parametrize("stage", ["records", "purified", "adversarial"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_chunk_is_noticed_said_and_made_again(undisturbed, tmp_path, caplog, stage, damage):
    store = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(undisturbed[0]), str(store)], check=True)
    for victim in files(store, stage):
        raw = victim.read_bytes()
        if damage == "delete":
            victim.unlink()
        else:
            flipped = raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:]
            victim.write_bytes({"flip": flipped, "truncate": raw[:-50], "empty": b""}[damage])
    if stage != "records":  # otherwise the stages below are not read
        subprocess.run(["rm", "-r", str(store / "records")], check=True)
    if stage == "adversarial":
        subprocess.run(["rm", "-r", str(store / "purified")], check=True)
    with caplog.at_level(logging.WARNING):
        results, _ = run(store, CELLS[1:4])
    assert ("damaged" in caplog.text) == (damage != "delete")
    same(results, undisturbed[1][1:4])


@pytest.mark.parametrize(
    ("purifier", "workers", "reason"),
    [
        ("Raises", 1, f"broken.py line {RAISED}: ZeroDivisionError: on purpose"),
        ("MakesNaN", 1, "NaN or infinity"),
        pytest.param("Dies", 2, "process died", marks=pytest.mark.slow),
    ],
)
def test_a_failure_is_a_failed_cell_and_the_others_go_on(store, undisturbed, purifier, workers, reason):
    bad = cell("attack=pgd", "attack.steps=2", purifier=purifier)
    results, _ = run(store, [bad, *CELLS[:4]], workers=workers)
    assert results[0].records is None
    assert reason in results[0].failed
    same(results[1:], undisturbed[1][:4])


def test_a_victim_that_answers_nan_is_a_failed_cell(store, monkeypatch):
    run(store, [CELLS[0]])  # it passes its checks first
    monkeypatch.setattr(Victim, "forward", lambda self, x: torch.full((len(x), 10), float("nan")))
    monkeypatch.setattr(Estimator, "seconds", lambda self, task: 0.0)  # so the work is done in this process
    result = run(store, [CELLS[0]], seed=1)[0][0]
    assert result.records is None
    assert "logits of purified images hold NaN" in result.failed


def test_ids_of_no_image_are_refused(undisturbed):
    with pytest.raises(InputError, match="that the settings choose, got nope"):
        run(undisturbed[0], CELLS[:1], only=frozenset({"nope"}))


def test_the_next_run_retries_what_failed(store):
    bad = cell("attack=clean", purifier="Raises")
    assert run(store, [bad])[0][0].failed
    mended = copy.deepcopy(bad)
    mended.configs["purifier"] = cell("purifier=none").configs["purifier"]
    assert run(store, [mended])[0][0].records is not None
    assert run(store, [bad])[0][0].failed


TABLE = [
    sys.executable, "-m", "runners.table", "table=ddip/table1", "n=8", "chunk=2",
    "table.rows=[{label:DIP,cell:['purifier=dip','purifier.steps=12']},{label:Bare,cell:['purifier=none']}]",
    "table.columns=[{label:Clean,attack:clean,cell:['attack=clean']},{label:FGSM,attack:fgsm,cell:['attack=fgsm']}]",
]  # fmt: skip


def table_records(folder: Path, kill_after: float | None = None) -> pd.DataFrame | None:
    """Make the small table with results below `folder`; return its records, or None if it was killed."""
    environment = {**os.environ, "PURIFYBENCH_STORE": str(folder / "store"), "COLUMNS": "100"}
    process = subprocess.Popen(
        [*TABLE, f"tables={folder}/tables", f"records={folder}/records"], cwd=ROOT, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        _, err = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, err.decode()
    return pd.read_parquet(folder / "tables" / "ddip-table1-records.parquet").drop(columns=list(TIMINGS))


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_gives_the_same_records(tmp_path):
    start = time.perf_counter()
    expected = table_records(tmp_path / "calm")
    duration = time.perf_counter() - start
    moments, killed = random.Random(7), 0
    while killed < 3:
        if table_records(tmp_path / "stormy", moments.uniform(0.4, 0.9) * duration) is not None:
            break
        killed += 1
    assert killed >= 1, "no run was killed: this tests nothing"
    records = table_records(tmp_path / "stormy")
    pd.testing.assert_frame_equal(records, expected, check_exact=True)
    for stage in ("records", "purified", "adversarial"):
        calm, stormy = (files(tmp_path / which / "store", stage) for which in ("calm", "stormy"))
        assert [p.name for p in calm] == [p.name for p in stormy if not p.name.startswith(".part-")]
