"""The papers' figures are read with types, and each is a cell of exactly one table or has a reason."""

import math
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from conftest import table_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import scripts.tables
from data.errors import InputError
from runners.config_errors import names_of
from runners.places import CONFIGS
from runners.tables import layout
from runners.tables.layout import Composer, added, changes_of, chosen, on
from runners.tables.paper_results import COLUMNS, PAPERS, figure_of, figures_of, panel_for, panels_of, printed

EMBEDDED = ("digits-photos", "digits-resnet8")
HELD = {"ddip": 394, "dip-vit": 16, "ncis": 461, "oag": 133, "ride": 61}
# They show figures of other tables again:
TWICE = {"ddip/ddn", "ddip/tuning", "oag/tuning", "oag/tuning-imagenet", "ride/tuning"}


def tables() -> dict:
    return {name: table_of(name) for name in names_of("table")}


@pytest.fixture(scope="module")
def claimed() -> pd.Series:
    """Return the cells that claim each figure, by paper and line; each cell claims at most one figure."""
    claims = {}
    for name, table in tables().items():
        if name in TWICE:
            continue
        ends = [table[end] for end in ("average", "worst") if table.get(end)]
        for panel in panels_of(table):
            figures = printed(table, panel)
            rows, columns = (on(e, panel.dataset, panel.victim) for e in (table.rows, table.columns))
            for row in rows:
                for column in [*columns, *ends]:
                    claimed_figures = figure_of(figures, row, column, table.metric)
                    assert len(claimed_figures) <= 1, (
                        f"{name}: {row.label} / {column.label} claims {len(claimed_figures)} figures"
                    )
                    for line in claimed_figures.index:
                        claims.setdefault((table.paper, line), []).append(
                            f"{name}: {row.label}/{column.label}"
                        )
    return pd.Series(claims)


@cache
def rules() -> list[dict]:
    """Return the rules that say which figures no cell has, and why."""
    return OmegaConf.to_container(OmegaConf.load(PAPERS / "elsewhere.yaml"))


def elsewhere(figure: pd.Series) -> list[str]:
    """Return the reasons given for a figure that no cell has."""
    reasons = []
    for rule in rules():
        wanted = {key: [v] if isinstance(v, str) else list(v) for key, v in rule.items() if key != "reason"}
        if all(figure[key] in values for key, values in wanted.items()):
            reasons.append(rule["reason"])
    return reasons


@pytest.mark.slow
@pytest.mark.parametrize("paper", HELD)
def test_every_figure_is_one_cells_or_told_why_not(paper, claimed):
    for line, figure in figures_of(paper).iterrows():
        cells, reasons = claimed.get((paper, line), []), elsewhere(figure)
        what = (
            f"{paper}.csv:{line + 2}: {figure.table}, {figure.defense} under {figure.attack} {figure.params}"
        )
        assert len(cells) + len(reasons) == 1, f"{what}: cells {cells}, reasons {reasons}"


@pytest.mark.parametrize(("paper", "count"), HELD.items())
def test_figures_are_read_with_types(paper, count):
    figures = figures_of(paper)
    assert len(figures) == count
    assert figures.value.dtype == figures.eps_255.dtype == float
    assert figures.value.notna().all()
    assert set(figures.paper) == {paper}
    assert not figures.duplicated([c for c in COLUMNS if c not in ("value", "note")]).any()


def test_a_misprint_is_noted():
    """DIPDefend's average in DDIP's Table 1 is not the average of its entries."""
    figures = figures_of("ddip")
    rows = figures[
        (figures.table == "table1") & (figures.defense == "dipdefend") & (figures.victim == "resnet50")
    ]
    entries = rows[rows.attack != "average"]
    average = rows[rows.attack == "average"].iloc[0]
    assert len(entries) == 15
    assert average.value == 71.5
    assert entries.value.mean() == pytest.approx(72.45, abs=0.01)
    assert "72.45" in average.note
    garbled = figures_of("ncis")
    assert garbled[garbled.table == "supp-table3"].note.str.contains("garbled").all()


GOOD = "p,t,cifar10,random,v,none,clean,,,,accuracy,92.9,%,"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GOOD.replace("92.9", "a lot"), "p.csv:3: expected a number as value, got 'a lot'"),
        (GOOD.replace("92.9", "nan"), "p.csv:3: expected a finite number as value, got nan"),
        (GOOD.replace("92.9", "929"), "p.csv:3: expected an accuracy of 0 to 100 %, got 929.0"),
        (GOOD.replace("clean,,,", "clean,,x,"), "p.csv:3: expected a number as eps_255, got 'x'"),
        (GOOD + ",", "p.csv:3: expected 14 values, got 15"),
        (GOOD.replace("accuracy", "acuracy"), "p.csv:3: expected a metric of accuracy, ssim"),
        (GOOD.replace("p,t", "q,t"), "p.csv:3: expected paper p, got 'q'"),
    ],
)
def test_a_bad_row_is_told_by_file_and_line(row, said, tmp_path):
    (tmp_path / "p.csv").write_text("\n".join([",".join(COLUMNS), GOOD, row, ""]))
    with pytest.raises(InputError) as error:
        figures_of("p", tmp_path)
    assert said in str(error.value)
    (tmp_path / "p.csv").write_text("\n".join([",".join(COLUMNS), GOOD, ""]))
    assert math.isnan(figures_of("p", tmp_path).eps_255[0])


def test_other_columns_and_other_papers_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"p\.csv:1: expected the columns paper,table"):
        figures_of("p", tmp_path)
    with pytest.raises(InputError, match="do not exist; there are p"):
        figures_of("q", tmp_path)


TABLE = {
    "paper": "ddip",
    "printed": "table1",
    "panels": [
        {"dataset": "cifar10", "victim": "resnet50", "n": 1000},
        {"dataset": "imagenet", "victim": "imagenet/vgg19", "n": 2, "subset": "two-per-class"},
        {"dataset": "imagenet", "victim": "imagenet/resnet50", "n": 3, "stand_ins": ["imagenet/like"]},
    ],
}


@pytest.mark.parametrize(
    ("dataset", "victim", "n"),
    [
        ("cifar10", "resnet50", 1000),
        ("cifar10", "resnet56", 1000),
        ("imagenet", "imagenet/resnet50", 3),
        ("imagenet", "another", 2),
        ("imagenet", "imagenet/like", 3),
        ("cifar10", "imagenet/like", 1000),
        ("digits-photos", "digits-resnet8", 1000),
    ],
)
def test_the_nearest_of_the_papers_settings_is_taken(dataset, victim, n):
    assert panel_for(OmegaConf.create(TABLE), dataset, victim).n == n


@pytest.mark.parametrize("name", ["mobilenet_v2-int8", "mobilenet_v2-unfolded"])
def test_a_mobilenet_stands_beside_oags_mobilenet(name):
    """The figures are not those of the ResNet-18 of the table's first setting."""
    table = table_of("oag/table3")
    figures = printed(table, panel_for(table, "flower17", f"flower17/{name}"))
    under_igsm = figures[figures.attack == "igsm-targeted"].set_index("defense").value
    theirs = {"none": 5.59, "mean": 82.65, "jpeg": 58.53, "tvm": 88.53, "oag": 91.18}
    assert {defense: under_igsm[defense] for defense in theirs} == theirs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"panels": [{"dataset": "cifar10"}]}, "table.panels: expected dataset, victim, n"),
        ({"panels": [{"data": "x", "victim": "v", "n": 1}]}, "table.panels: expected dataset, victim, n"),
        ({"panels": []}, "expected paper, printed and panels, or none of them; got paper and printed only"),
        ({"paper": None, "printed": None}, "or none of them; got panels only"),
    ],
)
def test_a_paper_needs_its_figures_and_its_settings(changes, said):
    with pytest.raises(InputError) as error:
        panels_of(OmegaConf.create(TABLE | changes))
    assert said in str(error.value)


def test_a_table_that_no_paper_prints_has_no_settings_and_no_figures():
    table = OmegaConf.create({"rows": [], "columns": []})
    assert panels_of(table) == []
    assert panel_for(table, "cifar10", "resnet50") is None
    assert printed(table, None).empty
    assert tuple(printed(table, None).columns) == COLUMNS


def test_rows_are_added_by_the_names_of_purifiers():
    config = OmegaConf.create(
        ["jpeg", "jpeg quality=50", {"label": "J", "defense": "ddip", "cell": ["purifier=jpeg"]}]
    )
    assert [(row.label, list(row.cell), "defense" in row) for row in added(config)] == [
        ("jpeg (added)", ["purifier=jpeg"], False),
        ("jpeg quality=50 (added)", ["purifier=jpeg", "purifier.quality=50"], False),
        ("J (added)", ["purifier=jpeg"], False),
    ]


@pytest.mark.parametrize("entry", ["quality=50", "jpeg 50", "", {"label": "J"}], ids=str)
def test_rows_that_name_no_purifier_are_refused(entry):
    with pytest.raises(InputError, match="rows: expected rows="):
        added(OmegaConf.create([entry]))


def test_what_differs_on_a_data_set_or_victim_is_merged():
    entry = OmegaConf.create(
        {"label": "x", "eps": 6, "cell": ["a=1"],
         "for": {"d": {"cell": ["a=2"]}, "v": {"eps": 8}, "w": None, "u": {"also": ["b=3"]}}}
    )  # fmt: skip
    assert on([entry], "other", "other") == [{"label": "x", "eps": 6, "cell": ["a=1"]}]
    assert on([entry], "d", "other") == [{"label": "x", "eps": 6, "cell": ["a=2"]}]
    assert on([entry], "d", "v") == [{"label": "x", "eps": 8, "cell": ["a=2"]}]
    assert on([entry], "d", "w") == []
    assert on([entry], "d", "u") == [{"label": "x", "eps": 6, "cell": ["a=2", "b=3"]}]
    assert entry.cell == ["a=1"]


def test_rows_are_chosen_by_label_and_the_bare_victim_stays():
    rows = [OmegaConf.create({"label": x, "cell": [f"purifier={x}"]}) for x in ("jpeg", "ddip")]
    own_purifier = (
        "purifier._target_=purifiers.identity.Identity"  # as a config of the user's own would name it
    )
    rows.insert(
        0, OmegaConf.create({"label": "Bare", "cell": ["purifier=mean", own_purifier, "~purifier.kernel"]})
    )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("table", ["table=ddip/table1"], return_hydra_config=True)
        composer = Composer(config, config.hydra.runtime.choices, [])
        assert [row.label for row in chosen(rows, ["ddip"], composer)] == ["Bare", "ddip"]
        with pytest.raises(
            InputError, match=r"expected a list of labels of rows \(Bare, jpeg, ddip\), got ride"
        ):
            chosen(rows, ["ddip", "ride"], composer)


@pytest.fixture
def compositions(monkeypatch) -> list[list[str]]:
    """Return a list to which the words of each composition of a table are added."""
    calls = []
    monkeypatch.setattr(
        layout, "compose", lambda name, words, **more: calls.append(words) or compose(name, words, **more)
    )
    return calls


def test_a_table_takes_as_many_compositions_as_it_has_rows_or_columns(compositions):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("table", ["table=ddip/table1"], return_hydra_config=True)
        rows, columns = (on(e, *EMBEDDED) for e in (config.table.rows, config.table.columns))
        cells = Composer(config, config.hydra.runtime.choices, []).cells(config.table, rows, columns)
        assert len(compositions) == max(len(rows), len(columns))
        assert [(row.label, column.label) for row, column, _ in cells] == [
            (row.label, column.label) for row in rows for column in columns
        ]
        alone = Composer(config, config.hydra.runtime.choices, [])
        for row, column, cell in cells[:: len(columns) + 1]:
            assert cell == alone.cell([*row.cell, *column.cell])


def test_a_mistake_in_an_added_row_is_told_before_the_table_is_composed(compositions):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("table", ["table=ddip/table1"], return_hydra_config=True)
        rows, columns = (on(e, *EMBEDDED) for e in (config.table.rows, config.table.columns))
        composer = Composer(config, config.hydra.runtime.choices, [])
        with pytest.raises(InputError, match="table: purifier=jpg: no purifier is called 'jpg'"):
            composer.cells(config.table, [*rows, *added(["jpg"])], columns)
    assert len(compositions) <= 4, "all parts are composed at once, then each alone"


def test_the_papers_files_are_all_there():
    assert sorted(path.stem for path in Path(PAPERS).glob("*.csv")) == sorted(HELD)
    assert sum(HELD.values()) == 1065


def test_every_header_has_paper_command_cost_and_the_papers_figures():
    costs = scripts.tables.printed_costs()
    assert set(costs) == set(scripts.tables.names())
    for name, cost in costs.items():
        head = (CONFIGS / "table" / f"{name}.yaml").read_text().partition("\ntitle:")[0]
        assert "https://" in head, name
        assert f"make {scripts.tables.target(name)}" in head, name
        cost = {"<1": "under 1 core-hour", "1": "1 core-hour"}.get(str(cost), f"{cost} core-hours")
        assert f"# As printed: {cost} of purifying" in head, name
        assert "The paper" in head, name


def test_what_differs_on_a_data_set_holds_on_its_victims_too():
    entry = OmegaConf.create(
        {"label": "x", "cell": ["a=1"], "for": {"d": {"also": ["b=2"]}, "v": {"also": ["c=3"]}}}
    )
    assert on([entry], "d", "v")[0].cell == ["a=1", "b=2", "c=3"]


def test_words_that_change_a_part_are_found_however_they_are_written():
    words = [
        "victim.size=9",
        "++dataset.seed=1",
        "recipe@victim.weights=fast",
        "victim=v",
        "dataset=d",
        "n=1",
        "table.rows=[]",
    ]
    assert changes_of(words, "victim", "dataset") == words[:3]
    assert changes_of(words, "table") == words[-1:]
