"""All files of a table come from one run: they are written together and checked before they are read."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.errors import InputError
from runners.evaluation.metrics import survived
from runners.files import write_together
from runners.places import CONFIGS
from runners.tables import render, saved
from runners.tables.frame import METRICS
from runners.tables.reading import Table
from scripts.bench_report import made_up

FOLDER = CONFIGS.parent / "results" / "tables"
SUFFIXES = (".md", ".csv", ".tex", ".json", saved.RECORDS)


def committed() -> list[Path]:
    """Return the tables that are part of the repository; others may lie beside them."""
    listing = subprocess.run(
        ["git", "ls-files", "*.csv"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return sorted(FOLDER / name for name in listing.stdout.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return the CSV file of a table with records."""
    images = np.random.default_rng(0).random((10, 3, 12, 12), dtype=np.float32)
    return made_up(tmp_path_factory.mktemp("made"), images, rows=2, columns=3, chunk=4)


def agrees(csv: Path) -> None:
    """Check that all files of a table say the same."""
    assert csv.with_suffix(".json").is_file()
    saved.check(csv)
    table = Table.read(csv)
    heading = render.Heading(table.title, table.note, table.setting)
    text, tex = csv.with_suffix(".md").read_text(), csv.with_suffix(".tex").read_text()
    grid = render.grid(table.frame)
    rows = ["| " + " | ".join(row) + " |" for row in grid.to_numpy()]
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == rows
    lines = [*([f"**{table.note}**"] if table.note else []), *(f"- {line}" for line in table.legend)]
    assert [line for line in text.splitlines() if line.startswith(("**", "- "))] == lines
    latex = render.latex(table.frame, heading).partition("\\midrule")[2]
    assert tex.partition("\\midrule")[2] == latex
    number = table.setting.partition("n=")[2].split(" ")[0]
    assert not number or {float(number)} == set(table.frame.n.dropna())
    if len(table.records):
        recomputed(table)


def recomputed(table: Table) -> None:
    """Check that the records give the figures."""
    records = dict(list(table.records.groupby("command")))
    done = table.frame[(table.frame.status == "done") & (table.frame.command != "")]
    assert set(records) == set(done.command)
    for _, entry in done.iterrows():
        rows = records[entry.command]
        values = (
            rows[METRICS[entry.metric]]
            if pd.isna(entry.queries)
            else survived(rows.path, eps=entry.eps_255 / 255, queries=entry.queries)
        )
        assert entry.n == len(rows)
        is_share = METRICS[entry.metric].startswith("correct")
        assert entry.value == pytest.approx(values.mean() * (100 if is_share else 1))


def test_tables_are_committed():
    assert committed() or not (CONFIGS.parent / ".git").exists()


@pytest.mark.parametrize("csv", committed(), ids=lambda path: path.stem)
def test_the_files_of_a_committed_table_agree(csv):
    agrees(csv)


def test_the_files_of_a_new_table_agree(made):
    assert {path.name for path in made.parent.iterdir()} == {f"{made.stem}{suffix}" for suffix in SUFFIXES}
    agrees(made)


@pytest.mark.parametrize("suffix", [".md", ".csv", ".tex", saved.RECORDS])
def test_a_file_of_another_run_is_refused(made, tmp_path, suffix):
    for path in made.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = tmp_path / f"{made.stem}{suffix}"
    other.write_bytes(other.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(InputError, match=rf"{other.name}: expected the file of the run that made .*again$"):
        saved.check(tmp_path / made.name)
    with pytest.raises(InputError, match="make the table again"):
        Table.read(tmp_path / made.name)


def test_records_that_nothing_vouches_for_are_refused(made, tmp_path):
    for suffix in (".csv", saved.RECORDS):
        (tmp_path / f"{made.stem}{suffix}").write_bytes(made.with_name(f"{made.stem}{suffix}").read_bytes())
    with pytest.raises(
        InputError, match=r"-records\.parquet: expected ddip-table1\.json beside it, got none"
    ):
        saved.check(tmp_path / made.name)
    (tmp_path / f"{made.stem}.json").write_text(json.dumps({"title": "of an earlier version"}))
    with pytest.raises(InputError, match=r"json: expected the sha256 of the table's files, got none"):
        saved.check(tmp_path / made.name)


def test_records_that_hold_an_image_of_a_cell_twice_are_refused(made, tmp_path):
    """Tests and intervals would take each copy for a further image."""
    table = Table.read(made)
    twice = pd.concat([table.records, table.records.head(3)], ignore_index=True)
    saved.write(table.frame, render.Heading("t", "", "s"), tmp_path / "t", twice)
    with pytest.raises(InputError, match=r"expected each image of a cell once, got 3 rows twice"):
        Table.read(tmp_path / "t.csv")


def test_records_of_an_earlier_run_do_not_stay(made, tmp_path):
    table = Table.read(made)
    heading = render.Heading("t", "", "s")
    saved.write(table.frame, heading, tmp_path / "t", table.records)
    assert (tmp_path / f"t{saved.RECORDS}").is_file()
    saved.write(table.frame, heading, tmp_path / "t")
    assert not (tmp_path / f"t{saved.RECORDS}").exists()
    saved.check(tmp_path / "t.csv")


def test_files_that_belong_together_are_written_all_or_none(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".b"):
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="b: cannot write"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


CHOICES = {"table": "oag/table1", "dataset": "digits-photos", "victim": "digits-resnet8"}


@pytest.mark.parametrize(
    ("changes", "only", "added", "stem"),
    [
        ({}, [], [], "oag-table1"),
        ({"dataset": "cifar10", "victim": "resnet56"}, [], [], "oag-table1-cifar10-resnet56"),
        ({}, ["JPEG", "No defense"], [], "oag-table1-only-JPEG-No-defense"),
        ({}, [], ["gamma power=2"], "oag-table1-with-gamma-power=2"),
        ({}, ["JPEG"], ["../x"], "oag-table1-only-JPEG-with-..-x"),
    ],
)
def test_a_table_of_other_rows_has_files_of_another_name(changes, only, added, stem):
    assert saved.stem_of(CHOICES | changes, only=only, added=added) == stem


def test_many_rows_make_no_name_too_long():
    names = {saved.stem_of(CHOICES, only=[f"purifier {i}" for i in range(count)]) for count in (50, 51)}
    assert len(names) == 2
    assert max(map(len, names)) < 100
