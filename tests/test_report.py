"""The command `make report`: it works from files alone, whatever they lack, and explains bad input."""

import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from data.errors import InputError
from runners import app
from runners.evaluation import progress
from runners.evaluation.progress import Bar, RunProgress
from runners.report import __main__ as report
from runners.report.image_embedding import EmbeddedImages
from runners.report.page import page
from runners.report.pictures import KINDS, Pictures
from runners.tables.reading import Table
from scripts.bench_report import made_up


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with a table of two rows and three columns, and its store."""
    folder = tmp_path_factory.mktemp("made")
    images = np.random.default_rng(0).random((10, 3, 12, 12), dtype=np.float32)
    made_up(folder, images, rows=2, columns=3, chunk=4)
    return folder


def reported(made: Path, to: Path, *words: str) -> Path:
    """Make the report, and return its folder."""
    places = [f"tables={made}/tables", f"store={made}/store", f"report={to}", f"traces={to}/none"]
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        report.main(compose("report", [*places, *words]))
    return to


def told(path: Path) -> dict:
    return json.loads(path.read_text().split('id="told">')[1].split("</script>")[0])


def test_a_page_an_index_and_plots_are_written(made, tmp_path):
    folder = reported(made, tmp_path)
    page = (folder / "ddip-table1.html").read_text()
    assert {path.name for path in (folder / "plots").iterdir()} >= {
        "ddip-table1-cost.png",
        "ddip-table1-cost.pdf",
    }
    assert 'href="ddip-table1.html"' in (folder / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page), "the page loads something from outside"


def test_a_figure_has_its_facts_and_images_failures_first(made, tmp_path):
    data = told(reported(made, tmp_path, "images=4") / "ddip-table1.html")
    records = pd.read_parquet(made / "tables" / "ddip-table1-records.parquet")
    figure = data["figures"][1]
    own_records = records[
        records.command == dict((n, v) for n, v, _ in figure["facts"])["evaluate this cell alone"]
    ]
    right = [picture["correct"] for picture in figure["pictures"]]
    assert right == sorted(own_records.correct)[:4]
    assert all(name in data["images"] for picture in figure["pictures"] for name in picture["views"])
    assert data["kinds"] == list(KINDS)


def test_without_the_store_the_table_is_there_and_says_that_images_are_not(made, tmp_path):
    data = told(reported(made, tmp_path, f"store={tmp_path}/nowhere") / "ddip-table1.html")
    assert not any(figure["pictures"] for figure in data["figures"])
    assert data["images"] == {}
    assert "does not have them" in data["figures"][0]["shows"]


def test_without_records_and_heading_the_table_is_there(made, tmp_path):
    (tmp_path / "tables").mkdir()
    csv = (made / "tables" / "ddip-table1.csv").read_bytes()
    (tmp_path / "tables" / "ddip-table1.csv").write_bytes(csv)
    page = (reported(tmp_path, tmp_path / "out") / "ddip-table1.html").read_text()
    assert page.count('class="figure ') == 2 * (3 + 2)


def test_a_damaged_chunk_is_left_out_and_said(made, tmp_path, caplog):
    records = pd.read_parquet(made / "tables" / "ddip-table1-records.parquet")
    cell_records = records[records.command == records.command.iloc[0]]
    chunk = next((made / "store" / "purified").rglob(cell_records.purified.iloc[0]))
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-9] + b"\0" + content[-8:])
    try:
        pictures = Pictures(made / "store").of(cell_records, 10)
    finally:
        chunk.write_bytes(content)
    assert len(pictures) == 10 - 4
    assert "damaged" in caplog.text


def test_a_page_grows_no_larger_than_it_may(made):
    records = pd.read_parquet(made / "tables" / "ddip-table1-records.parquet")
    album, pictures = EmbeddedImages(), Pictures(made / "store")
    figures = [[album.add(image) for image in pictures.of(part, 8)] for _, part in records.groupby("command")]
    size = sum(map(len, album.used(figures, 8).values()))
    count = album.fitting(figures, 8, size // 2)
    assert 0 < count < 8
    assert sum(map(len, album.used(figures, count).values())) <= size // 2


def test_a_label_that_looks_like_markup_stays_text(made, tmp_path):
    table = Table.read(made / "tables" / "ddip-table1.csv")
    table.frame.loc[0, "row"] = "</script><b>x"
    text = page(table, plots=[], traces=[], store=made / "store", images=0)
    assert "</script><b>" not in text
    assert "&lt;/script&gt;&lt;b&gt;x" in text


def test_a_page_of_many_images_is_made_in_seconds_and_stays_small(tmp_path):
    """It is a fifteenth of DDIP's Table 1 at the paper's size; scripts/bench_report.py measures the whole."""
    images = np.random.default_rng(0).random((1000, 3, 32, 32), dtype=np.float32)
    made_up(tmp_path, images, rows=2, columns=3)
    start = time.process_time()
    path = reported(tmp_path, tmp_path / "out") / "ddip-table1.html"
    assert time.process_time() - start < 10
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tables=/nowhere"], "no table in /nowhere; make one first"),
        (["only=ddip/table9"], "only: expected one of ddip-table1, got 'ddip/table9'"),
        (["images=-1"], "images: expected 0 or more, got -1"),
        (["images=few"], "images: expected 0 or more, got 'few'"),
    ],
)
def test_bad_input_is_told(made, tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        reported(made, tmp_path, *words)


def test_a_file_that_is_no_table_is_told_by_its_name(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"x\.csv: expected a table's columns; it lacks row"):
        reported(tmp_path, tmp_path / "out")


def test_among_tables_what_is_none_is_left_out(made, tmp_path, capsys):
    shutil.copytree(made / "tables", tmp_path / "tables")
    (tmp_path / "tables" / "apis.csv").write_text("a,b\n1,2\n")
    out = reported(tmp_path, tmp_path / "out")
    assert (out / "index.html").is_file()
    assert (out / "ddip-table1.html").is_file()
    assert not (out / "apis.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("ddip-table1.csv", None), ("ddip-table1.json", "{"), ("ddip-table1-records.parquet", "PAR1")],
)
def test_a_damaged_table_is_one_line(made, tmp_path, name, content):
    shutil.copytree(made / "tables", tmp_path / "tables")
    path = tmp_path / "tables" / name
    path.write_text(path.read_text().splitlines()[0] + "\n" if content is None else content)
    with pytest.raises(InputError, match="make the table again"):
        reported(tmp_path, tmp_path / "out", "only=ddip/table1")


def test_cells_and_images_are_counted_as_chunks_get_done():
    counted = RunProgress([{"a0": 8, "shared": 4}, {"b0": 8, "shared": 4}], {"b0"})
    assert counted.text("purifying") == "purifying 0/2 cells, 8/24 images"
    for key in ("shared", "shared", "b0"):  # what is done already counts once
        counted.finish(key)
        assert counted.text("purifying") == "purifying 1/2 cells, 16/24 images"


def test_progress_is_lines_without_a_terminal_and_a_bar_with_one(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        with Bar(console, "purifying 1/2 cells, 12/24 images", total=4) as bar:
            bar.update(advance=0)
            bar.update(advance=1)
            deadline = time.monotonic() + 20
            while not terminal and "%" not in console.file.getvalue() and time.monotonic() < deadline:
                time.sleep(0.005)  # one step of the work, longer than the time between two lines
        output = console.file.getvalue()
        assert "1/2 cells, 12/24 images" in output
        assert ("\x1b[" in output) == terminal
        assert ("25 %, " in output) != terminal


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ([(0.0, None)], "fit: 0 %, 60 s so far"),
        ([(0.0, None), (0.001, None)], "fit: 0 %, 60 s so far"),  # too little to estimate the pace
        ([(0.0, None), (0.25, None)], "fit: 25 %, 3 min left"),
        ([(0.5, None), (0.75, None)], "fit: 75 %, 60 s left"),  # half of it was done by an earlier run
        ([(0.5, 600.0)], "fit: 50 %, 10 min left"),  # as another process says
    ],
)
def test_a_line_of_progress_says_the_share_and_the_time_left(updates, expected, monkeypatch):
    times = iter([0.0, 60.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    bar = Bar(Console(file=io.StringIO()), "fit")
    for share, left in updates:
        bar.update(completed=share, left=left)
    assert bar.line() == expected


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True)
    console.print("[red]failed[/]")
    assert "\x1b[31m" not in console.file.getvalue()
