"""Tables are pure functions of records: fixed records give exactly these characters."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import composed, config_of
from hydra.utils import get_class
from omegaconf import OmegaConf
from rich.console import Console

from data.errors import InputError
from runners.evaluation.cell import Cell
from runners.evaluation.component import to_plain_dict
from runners.evaluation.metrics import survived
from runners.evaluator import CellResult
from runners.table import comparability
from runners.tables import console, render, saved
from runners.tables.frame import frame_of
from runners.tables.layout import added
from runners.tables.paper_results import PaperSetting, departs, departures

NAMES = {
    "dataset": "cifar10",
    "victim": "resnet50",
    "attack": "pgd",
    "knowledge": "blind",
    "purifier": "x",
}
TABLE = OmegaConf.create(
    {
        "title": "A table",
        "paper": "ddip",
        "printed": "table1",
        "panels": [{"dataset": "cifar10", "victim": "resnet50", "n": 20}],
        "metric": "accuracy",
        "average": {"label": "Average", "attack": "average"},
        "rows": [
            {"label": "No defense", "defense": "none"},
            {"label": "DIPDefend", "defense": "dipdefend"},
            {"label": "SR", "defense": "sr"},
            {"label": "Ours_new"},
        ],
        "columns": [
            {"label": "Clean", "attack": "clean"},
            {"label": "PGD", "eps": 8, "attack": "pgd"},
        ],
    }
)
CRITERION = {"_target_": "purifiers.dipdefend.DIPDefend", "steps": 1000}
PANEL = PaperSetting("cifar10", "resnet50", 20)
HEADING = render.Heading(title="A table", note="a note", setting="dataset cifar10")


def configs_of(*, purifier: str = "x", knowledge: str = "Blind") -> dict[str, dict]:
    """Return the configs of a cell; the purifier "none" changes nothing."""
    target = "purifiers.identity.Identity" if purifier == "none" else "purifiers.jpeg.JPEG"
    knowledge_config = {"_target_": f"attacks.knowledge.{knowledge}"}
    return {"attack": {}, "knowledge": knowledge_config, "purifier": {"_target_": target}}


def result(right: int, n: int = 20, purifier: str = "x", **changes) -> CellResult:
    correct = np.arange(n) < right
    ids = [f"t/{i}" for i in range(n)]
    records = pd.DataFrame({"id": ids, "correct": correct, "ssim": np.linspace(0.8, 0.9, n)})
    cell = Cell(NAMES | {"purifier": purifier}, configs_of(purifier=purifier), "python -m runners.evaluate x")
    return CellResult(cell, **({"records": records} | changes))


def placed(metric: str = "accuracy"):
    table = OmegaConf.merge(TABLE, {"metric": metric})
    skipped = {"records": None, "skipped": "no weights"}
    cells = [result(19, purifier="none"), result(0, purifier="none"), result(17), result(15),
             result(0, **skipped), result(0, **skipped), result(18),
             result(0, records=None, failed="NaN")]  # fmt: skip
    pairs = [(row, column) for row in table.rows for column in table.columns]
    return table, [(row, column, cell) for (row, column), cell in zip(pairs, cells, strict=True)]


@pytest.fixture
def frame():
    return frame_of(*placed(), panel=PANEL, comparable=True)


GOLDEN = """\
# A table

**a note**

| Defense |  | Clean | PGD 8 | Average |
| --- | --- | --- | --- | --- |
| No defense | ours | 95.0* = | 0.0* = | 47.5* ≠ |
|  | 95 % | 76–99 | 0–16 | 39–57 |
|  | paper | 92.9 | 0.0 | 28.7 |
|  | Δ | +2.1 | +0.0 | +18.8 |
| DIPDefend | ours | 85.0~* = | 75.0* = | 80.0* = |
|  | 95 % | 64–95 | 53–89 | 59–92 |
|  | paper | 83.2 | 73.6 | 71.5 |
|  | Δ | +1.8 | +1.4 | +8.5 |
| SR | ours | – | – |  |
|  | paper | 45.2 | 30.3 | 38.8 |
| Ours_new | ours | 90.0~* | failed |  |
|  | 95 % | 70–97 |  |  |

- dataset cifar10.
- Attacker's knowledge: blind: knows the victim with its weights, but no purifier.
- The 95 % intervals are Wilson's, over the images; those of averages are Agresti and Coull's.
- * There are fewer than 500 images, so the interval is wide.
- ~ The purifier with the highest result, and those that McNemar's exact test does not distinguish from it \
(p is at least 1).
- = The paper's result lies inside our interval; ≠ it lies outside.
- DIPDefend: the paper: printed average differs from the mean of the row's 15 entries (72.453).
- SR: skipped: no weights.
- Ours_new: failed: NaN.
"""


def test_markdown(frame):
    assert render.markdown(frame, HEADING) == GOLDEN


def test_csv_has_a_row_an_entry(frame, tmp_path):
    saved.write(frame, HEADING, tmp_path / "t")
    back = pd.read_csv(tmp_path / "t.csv")
    assert len(back) == 4 * 3
    assert back.value.notna().sum() == 7
    assert back.status.tolist().count("failed") == 1
    assert back[back.row == "No defense"].verdict.tolist() == ["matches", "matches", "differs"]


def test_latex_escapes(frame):
    tex = render.latex(frame, HEADING)
    assert r"Ours\_new & ours & 90.0$\sim$* & failed" in tex
    assert tex.count(r"\\") == 12 + 1
    assert r"95 \%" in tex
    assert "–" not in tex


def printed(frame, **options) -> str:
    """Return what the console shows in lines of 100 characters."""
    output = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    output.print(console.for_console(frame, HEADING, **options))
    return output.export_text()


def test_the_console_prints_defenses_below_one_another_with_interval_and_the_papers_result(frame):
    text = printed(frame)
    assert [line.split() for line in text.splitlines()[2:8] if line.strip()] == [
        ["Defense", "Clean", "PGD", "8", "Average"],
        [text.splitlines()[3].strip()],
        ["No", "defense", "95.0*", "=", "0.0*", "=", "47.5*", "≠"],
        ["76–99", "0–16", "39–57"],
        ["92.9", "0.0", "28.7"],
    ]
    assert "failed" in text
    assert "…" not in text
    assert "Not shown" not in text


def test_the_compact_form_keeps_the_largest_eps_of_each_attack_and_names_the_others(frame):
    weaker = frame[frame.column == "PGD"].assign(eps_255=2.0)
    both = pd.concat([frame, weaker], ignore_index=True)
    compact, full = printed(both), printed(both, show="full")
    head, full_head = (text.splitlines()[2].split() for text in (compact, full))
    assert (head, full_head) == (
        ["Defense", "Clean", "PGD", "8", "Average"],
        ["Defense", "Clean", "PGD", "8", "Average", "PGD", "2"],
    )
    assert "Not shown: PGD 2. Set show=full to print all columns." in compact
    assert "Not shown" not in full


def test_an_eps_of_a_row_is_compared_within_the_row_only(frame):
    of_rows = frame.assign(eps_255=frame.row.map({"No defense": 2.0, "DIPDefend": 8.0}))
    assert len(console.largest_eps(of_rows)) == len(frame)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_columns_that_do_not_fit_are_printed_in_a_block_below(frame, width):
    wide = pd.concat([frame.assign(column=frame.column + f" {i}") for i in range(4)])
    tables = console.blocks(wide, width)
    assert sum(len(table.columns) - 1 for table in tables) == 4 * 3
    assert {table.row_count for table in tables} == {4}
    output = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    output.print(*tables)
    assert "…" not in output.export_text()


def test_another_form_than_compact_and_full_is_refused():
    with pytest.raises(InputError, match="show: expected compact or full, got 'all'"):
        console.check_show("all")


def test_the_kind_of_knowledge_stands_on_every_column_that_is_not_blind(frame):
    aware = frame.assign(knowledge=["blind", "bpda-blur", ""] * 4, knowledge_kind=["blind", "bpda", ""] * 4)
    text = render.markdown(aware, HEADING)
    assert "| Clean | PGD 8 bpda | Average |" in text
    assert (
        "knowledge: blind: knows the victim with its weights, but no purifier; bpda: knows the whole "
        "defense, with" in text
    )


def test_an_average_over_different_knowledge_says_so():
    table, cells = placed()
    aware = Cell({**NAMES, "knowledge": "bpda-blur"}, configs_of(knowledge="BPDA"), "")
    mixed = [
        (row, column, CellResult(aware, x.records, x.skipped, x.failed) if column.label == "PGD" else x)
        for row, column, x in cells
    ]
    notes = frame_of(table, mixed, panel=PANEL, comparable=True)
    average = notes[notes.column == "Average"]
    assert average.note.str.contains("mixes attackers of different knowledge: blind, bpda").all()


def test_decision_attacks_are_read_off_their_paths():
    paths = pd.Series([[[1, 0.0]], [[40, 9 / 255], [250, 3 / 255]], [[300, 20 / 255]], [[60, 90 / 255]]])
    for eps, queries, expected in [
        (8, 200, [False, True, True, True]),
        (8, 300, [False, False, True, True]),
        (25, 300, [False, False, False, True]),
    ]:
        assert survived(paths, eps=eps / 255, queries=queries).tolist() == expected
    table, cells = placed()
    column = OmegaConf.create({"label": "HSJ", "eps": 8, "queries": 200, "attack": "hopskipjump"})
    records = pd.DataFrame({"id": list("abcd"), "path": paths, "correct": [False] * 4})
    table.columns, table.rows, table.average = [column], table.rows[:1], None
    entry = table.rows[0], table.columns[0], CellResult(cells[0][2].cell, records)
    frame = frame_of(table, [entry], panel=PANEL, comparable=False)
    assert frame.value.tolist() == [75.0]


def test_ssim_from_the_same_records():
    frame = frame_of(*placed("ssim"), panel=PANEL, comparable=False)
    assert frame.value.iloc[0] == pytest.approx(0.85)
    assert not frame.verdict.any()
    assert "| 0.850* |" in render.markdown(frame, HEADING)


@pytest.mark.parametrize(
    ("choices", "n", "subset", "note"),
    [
        ({"dataset": "cifar10", "victim": "resnet50"}, 20, "random", ""),
        (
            {"dataset": "cifar10", "victim": "resnet50"},
            20,
            "two-per-class",
            "subset two-per-class (the paper: random)",
        ),
        (
            {"dataset": "cifar10", "victim": "resnet50"},
            19,
            "random",
            "n=19 images (the paper: 20); no verdict",
        ),
        ({"dataset": "cifar10", "victim": "resnet56"}, 20, "random", "victim resnet56 (the paper: resnet50)"),
        (
            {"dataset": "digits-photos", "victim": "v"},
            20,
            "random",
            "embedded data: compare the shape, not the values",
        ),
    ],
)
def test_a_verdict_needs_the_papers_own_setting(choices, n, subset, note):
    config = OmegaConf.create({"n": n, "subset": subset, "split": "evaluation"})
    reason = comparability(PANEL, choices, config)
    assert note in reason
    assert bool(reason) == bool(note)


@pytest.mark.parametrize(
    ("typed", "note"),
    [
        (["dataset.root=/data", "n=20", "attack.x=1"], ""),
        (["victim.weights.epochs=4"], "victim resnet50 victim.weights.epochs=4 (the paper: resnet50)"),
        (["table.rows=[]"], "entries set on the command line"),
    ],
)
def test_words_that_change_the_victim_or_the_table_forbid_verdicts(typed, note):
    config = OmegaConf.create({"n": 20, "subset": "random", "split": "evaluation"})
    reason = comparability(PANEL, {"dataset": "cifar10", "victim": "resnet50"}, config, typed)
    assert reason == (f"differs from the paper: {note}; no verdict" if note else "")


def test_a_number_of_images_that_no_paper_prints_is_not_said_to_be_its():
    config = OmegaConf.create({"n": 16, "subset": "random", "split": "evaluation"})
    panel = replace(PANEL, n=1000, n_unsaid=True)
    reason = comparability(panel, {"dataset": "cifar10", "victim": "resnet50"}, config)
    assert "n=16 images (the paper: unsaid, 1,000 taken)" in reason


def test_images_of_another_split_get_no_verdict():
    config = OmegaConf.create({"n": 20, "subset": "random", "split": "tuning"})
    reason = comparability(PANEL, {"dataset": "cifar10", "victim": "resnet50"}, config)
    assert reason == "differs from the paper: split tuning (the paper: evaluation); no verdict"


def test_a_purifier_that_is_not_the_papers_gets_no_verdict_and_it_is_said():
    table, cells = placed()
    cells = [
        (row, column, replace(x, cell=replace(x.cell, configs=x.cell.configs | {"purifier": CRITERION})))
        if row.label == "DIPDefend" else (row, column, x)
        for row, column, x in cells
    ]  # fmt: skip
    frame = frame_of(table, cells, panel=PANEL, comparable=True)
    rows, bare = frame[frame.row == "DIPDefend"], frame[frame.row == "No defense"]
    assert rows.paper.notna().all()
    assert not rows.verdict.any()
    assert rows.note.str.startswith("ours: its criterion read off another optimisation").all()
    assert bare.verdict.all()
    assert "DIPDefend: ours: its criterion" in render.markdown(frame, HEADING)


def purifier_of(*words: str) -> dict:
    return to_plain_dict(composed(*words).purifier)


def test_departures_are_of_components_that_there_are():
    by_component = departures()
    assert by_component
    for rule in by_component:
        assert get_class(rule.component)


DDIP_INSIDE = ["purifier=surrogate-victim", "victim@purifier.victim=digits-resnet14"]


@pytest.mark.parametrize(
    ("paper", "words", "same"),
    [
        ("ddip", ["purifier=ddip-printed"], True),
        ("ddip", ["purifier=ddip"], False),
        ("ddip", ["purifier=ddip-printed", "trace@purifier.trace=imagenet-printed"], True),
        ("ddip", ["purifier=ddip-printed", "purifier.trace.jitter=1/30"], False),
        (
            "ddip",
            ["purifier=ddip", "trace@purifier.trace=ddip-printed", "purifier.warmup_unit=iterations"],
            True,
        ),
        ("ddip", [*DDIP_INSIDE, "purifier@purifier.purifier=ddip"], False),
        ("ddip", [*DDIP_INSIDE, "purifier@purifier.purifier=ddip-printed"], True),
        ("ddip", ["purifier=dipdefend-released"], True),
        ("ddip", ["purifier=dipdefend"], False),
        ("ddip", ["purifier=comdefend"], False),
        ("ddip", ["purifier=comdefend-released"], True),
        ("ddip", ["purifier=sr-edsr"], False),
        (
            "ddip",
            ["purifier=sr-edsr", "purifier.sigma=0.01", "purifier.quality=95", "purifier.shrink=false"],
            True,
        ),
        ("ncis", ["purifier=dynamic"], True),
        ("ncis", ["purifier=dynamic", "purifier@purifier.purifier=ncis"], False),
        ("ncis", ["purifier=gs"], True),
        ("ncis", ["purifier=sr"], False),
        ("dip-vit", ["purifier=ddip-singh"], False),
        ("oag", ["purifier=pixel-deflection"], False),
        ("oag", ["purifier=randomization"], False),
        ("oag", ["purifier=oag-autoencoder"], False),
        ("oag", ["purifier=oag"], True),
        ("ride", ["purifier=ride"], False),
        ("ride", ["purifier=ride-imagenet"], True),
        ("ride", ["purifier=ride-mnist"], False),
        ("ride", ["purifier=ride-demo"], False),
    ],
    ids=str,
)
def test_departures_are_judged_by_what_was_composed(paper, words, same):
    assert (departs(purifier_of(*words), paper, departures()) == "") == same


@pytest.mark.parametrize(
    ("words", "verdicts"), [(["purifier=jpeg"], 1), (["purifier=ddip-printed"], 0)], ids=str
)
def test_a_lucky_draw_on_a_path_earns_no_verdict(words, verdicts):
    table = OmegaConf.merge(TABLE, {"average": None, "rows": [{"label": "DDIP", "defense": "ddip"}]})
    table.printed = "fig5"
    table.columns = [{"label": "HSJ", "eps": 8, "queries": 200, "attack": "hopskipjump"}]
    cell = result(15).cell
    cell = replace(cell, configs=cell.configs | {"purifier": purifier_of(*words)})
    cell_result = result(15)
    records = cell_result.records.assign(path=[[(200, 0.05)]] * 20)
    cells = [(table.rows[0], table.columns[0], replace(cell_result, cell=cell, records=records))]
    frame = frame_of(table, cells, panel=PANEL, comparable=True)
    assert frame.paper.notna().all()
    assert (frame.verdict != "").sum() == verdicts


def test_few_images_that_all_fare_alike_still_have_an_average_with_an_interval():
    table, _ = placed()
    table.rows = table.rows[:1]
    same = [result(4, n=4), result(0, n=4)]
    cells = [(table.rows[0], column, cell) for column, cell in zip(table.columns, same, strict=True)]
    average = frame_of(table, cells, panel=PANEL, comparable=True).set_index("column").loc["Average"]
    assert average.value == 50
    assert (average.low, average.high) == pytest.approx((25.5, 74.5), abs=0.1)
    assert average.verdict == "matches", "the paper prints 28.7"


def test_an_added_row_is_marked_and_has_no_verdict():
    table, cells = placed()
    table.rows = [*table.rows, *added(["dipdefend"])]
    cells += [(table.rows[-1], column, result(17)) for column in table.columns]
    frame = frame_of(table, cells, panel=PANEL, comparable=True)
    mine, theirs = frame[frame.row == "dipdefend (added)"], frame[frame.row == "DIPDefend"]
    assert mine.value.tolist() == [85, 85, 85]
    assert mine.paper.isna().all()
    assert not mine.verdict.any()
    assert theirs.verdict.all()
    assert "- dipdefend (added): this row was added to the table." in render.markdown(frame, HEADING)


def test_a_column_of_another_metric_has_its_own_decimals_and_interval():
    table = OmegaConf.merge(TABLE, {"average": None})
    table.columns[1] = {"label": "s/image", "attack": "", "metric": "seconds/image"}
    _, cells = placed()
    timed = [x if x.records is None else CellResult(x.cell, x.records.assign(purify_seconds=0.0123))
             for *_, x in cells]  # fmt: skip
    pairs = [(row, column) for row in table.rows for column in table.columns]
    results = [(row, column, x) for (row, column), x in zip(pairs, timed, strict=True)]
    text = render.markdown(frame_of(table, results, panel=PANEL, comparable=False), HEADING)
    assert "| Defense |  | Clean | s/image |" in text
    assert "| DIPDefend | ours | 85.0~* | 0.0123* |" in text
    assert "|  | 95 % | 64–95 |  |" in text
    assert "The 95 % intervals are Wilson's or Student's, over the images." in text


@pytest.mark.parametrize(
    ("name", "millions"), [("ncis", 0.41), ("nrp-released", 16.55), ("nrp-resg-released", 1.70), ("gs", None)]
)
def test_a_column_of_parameters_is_told_by_what_was_composed(name, millions):
    """Table 2 of the supplement of NCIS prints 0.40, 16.6 and 1.70 M."""
    cell_result = result(17, purifier=name)
    cell_result.cell.configs["purifier"] = config_of("purifier", name)
    table = OmegaConf.create(
        {"paper": "ncis", "printed": "supp-table2", "metric": "accuracy", "rows": [{"label": name}],
         "columns": [{"label": "Parameters (M)", "metric": "parameters"}]}
    )  # fmt: skip
    panel = PaperSetting("imagenet", "imagenet/resnet152", 20)
    entry = frame_of(
        table, [(table.rows[0], table.columns[0], cell_result)], panel=panel, comparable=True
    ).iloc[0]
    if millions is None:
        assert entry.status == "absent"
        assert pd.isna(entry.value)
    else:
        assert entry.status == "done"
        assert entry.value == pytest.approx(millions, abs=0.005)
