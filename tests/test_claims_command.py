"""The command `make claims`: what it prints and writes, and what it says of bad input."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from made_tables import made, right

from runners.claims import __main__ as command_of
from runners.claims import shown

CELLS = {
    ("DDIP as printed", "PGD", 8.0): right(40, 60),
    ("DIPDefend", "PGD", 8.0): right(20, 60),
}


def test_records_of_another_schema_are_refused_in_one_line(tmp_path, command):
    csv = made(tmp_path, CELLS)
    parquet = csv.with_name(f"{csv.stem}-records.parquet")
    records = pd.read_parquet(parquet).drop(columns=["moved"]).assign(moved_by=0.0)
    records.to_parquet(parquet, index=False)
    csv.with_suffix(".json").unlink()
    parquet.rename(tmp_path / "aside")
    made_again(csv, tmp_path / "aside", parquet)
    status, _, err = command(command_of.main, "claims", f"tables={tmp_path}")
    assert status == 2
    assert err.count("\n") == 1
    assert (
        "expected the columns of this version's record files, got others: without moved and with moved_by"
        in err
    )


def made_again(csv: Path, aside: Path, parquet: Path) -> None:
    """Put changed records beside a table as though one run had made both."""
    aside.rename(parquet)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in csv.parent.iterdir()}
    csv.with_suffix(".json").write_text(json.dumps({"files": files}))


def test_the_command_prints_and_writes_the_verdicts(tmp_path, command):
    made(tmp_path / "tables", CELLS)
    document = tmp_path / "findings.md"
    document.write_text(f"# By hand\n\n{shown.BEGIN}\nold\n{shown.END}\n\nMore by hand.\n")
    words = [f"tables={tmp_path}/tables", f"findings={document}"]
    status, out, err = command(command_of.main, "claims", *words)
    assert (status, err) == (0, "")
    text = document.read_text()
    assert text.startswith("# By hand\n")
    assert text.endswith("\nMore by hand.\n")
    assert "\nold\n" not in text
    assert "dipdefend-pgd8" in out
    assert "| **holds**, p = " in text
    assert "| cifar10, resnet50, n = 60 |" in text
    status, _, err = command(command_of.main, "claims", *words)
    assert document.read_text() == text, "a second run writes the same"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paper=dddip"], "paper: expected one of ddip, dip-vit, oag, ride, ncis, got 'dddip'"),
        (["tables=nowhere"], "tables: expected a folder of finished tables, got nowhere"),
        (["findings={folder}/none.md"], "cannot be read (No such file or directory)"),
        (["findings={folder}/unmarked.md"], "expected one line '<!-- claims: begin"),
    ],
)
def test_bad_words_are_refused_in_one_line(tmp_path, command, words, told):
    (tmp_path / "unmarked.md").write_text("# Findings\n")
    words = [f"tables={tmp_path}", *(word.format(folder=tmp_path) for word in words)]
    status, _, err = command(command_of.main, "claims", *words)
    assert (status, err.count("\n")) == (2, 1)
    assert told in err
