"""How well a table keeps the order of its paper's figures, on made-up records with a known answer."""

import json

import numpy as np
import pytest
from hydra import initialize_config_dir
from made_tables import made, right

from runners import app
from runners.claims.counterparts import counted
from runners.claims.finished import finished
from runners.tables.agreement import Agreement
from runners.tables.reading import Table

ROWS = ("No defense", "ComDefend", "NRP", "DIPDefend")


def table(folder, ours: tuple[np.ndarray, ...], theirs: tuple[float, ...], **more) -> Table:
    """Return a table of four rows with the column PGD 8."""
    places = [(row, "PGD", 8.0) for row in ROWS]
    return Table.read(
        made(
            folder, dict(zip(places, ours, strict=True)), paper=dict(zip(places, theirs, strict=True)), **more
        )
    )


def test_the_same_order_and_the_other_way(tmp_path):
    """Each of four rows has 20 more right images than the last, so all six pairs are decided."""
    ours = tuple(right(count, 80) for count in (10, 30, 50, 70))
    same = table(tmp_path, ours, (5.0, 20.0, 60.0, 90.0)).agreement
    assert same == Agreement(6, 0, 0, 4, pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0))
    other = table(tmp_path, ours, (90.0, 60.0, 20.0, 5.0)).agreement
    assert (other.same, other.opposite, other.undecided) == (0, 6, 0)
    assert other.correlation == pytest.approx(-1.0)


def test_pairs_that_the_paper_hardly_separates_do_not_count(tmp_path):
    """A difference of 5.0 points is not more than five, so three of the six pairs remain."""
    ours = tuple(right(count, 80) for count in (10, 30, 50, 70))
    agreement = table(tmp_path, ours, (10.0, 15.0, 12.0, 80.0)).agreement
    assert (agreement.same, agreement.opposite, agreement.undecided) == (3, 0, 0)


def test_what_chance_explains_is_undecided(tmp_path):
    """Our figures differ by one image from row to row."""
    ours = tuple(right(count, 80) for count in (40, 41, 42, 43))
    agreement = table(tmp_path, ours, (5.0, 20.0, 60.0, 90.0)).agreement
    assert (agreement.same, agreement.opposite, agreement.undecided) == (0, 0, 6)
    assert agreement.correlation == pytest.approx(1.0)


def test_ssim_is_compared_in_hundredths(tmp_path):
    draws = np.random.default_rng(0)
    ours = tuple(level + draws.normal(0, 0.02, 60) for level in (0.7, 0.8, 0.9, 0.901))
    agreement = table(tmp_path, ours, (0.80, 0.84, 0.90, 0.96), metric="ssim").agreement
    assert (agreement.same, agreement.opposite, agreement.undecided) == (4, 0, 1), (
        "0.80 and 0.84 are not 0.05 apart"
    )
    assert agreement.low <= agreement.correlation <= agreement.high


def test_it_stands_under_the_table_and_in_its_json(tmp_path):
    ours = tuple(right(count, 80) for count in (10, 30, 50, 70))
    read = table(tmp_path, ours, (5.0, 20.0, 60.0, 90.0))
    sentence = (
        "of 6 pairs of entries in one column that differ by more than 5 points in the paper, our results "
        "have the same order in 6, the opposite order in 0"
    )
    assert sentence in (tmp_path / f"{read.stem}.md").read_text()
    assert json.loads((tmp_path / f"{read.stem}.json").read_text())["agreement"]["same"] == 6


def test_without_figures_of_a_paper_there_is_none(tmp_path):
    read = Table.read(made(tmp_path, {("A", "PGD", 8.0): right(3, 9), ("B", "PGD", 8.0): right(4, 9)}))
    assert read.agreement is None


def test_figures_with_a_counterpart_are_counted_once(tmp_path):
    """Two tables show the same four figures of DDIP; one of them is on the embedded data."""
    ours = tuple(right(count, 80) for count in (10, 30, 50, 70))
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        entry = {"attack": "pgd", "verdict": "matches"}
        table(tmp_path, ours, (0.0, 50.1, 35.9, 73.6), entry=entry)
        setting = "dataset=digits-photos victim=digits-resnet8"
        table(
            tmp_path,
            ours,
            (0.0, 50.1, 35.9, 73.6),
            stem="ddip-table1",
            setting=setting,
            entry={"attack": "pgd"},
        )
        counts = counted(["ddip", "oag"], finished(tmp_path, ["ddip/table1"]))
    assert counts.loc["ddip"].tolist() == [394, 4, 4, 4, 4, 4]
    assert counts.loc["oag"].tolist() == [133, 0, 0, 0, 0, 0]
    assert counts.loc["all", "printed"] == 394 + 133
