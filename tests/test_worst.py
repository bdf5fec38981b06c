"""The worst column of a row and the best purifier of a column, from hand-made records of several cells."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from conftest import table_of
from omegaconf import OmegaConf
from rich.console import Console

from runners.config_errors import names_of
from runners.evaluation.cell import Cell
from runners.evaluation.metrics import wilson
from runners.evaluator import CellResult
from runners.tables import console, figures, render, saved
from runners.tables.frame import COLUMNS, frame_of
from runners.tables.paper_results import PaperSetting
from runners.tables.significance import best_of

HEADING = render.Heading(title="A table", note="", setting="dataset cifar10")
KNOWN = ("blind", "blind", "bpda")
Answers = Sequence[Sequence[int] | str]  # by column; a string is the reason why there are none


def table_with(rows: Sequence[str]):
    return OmegaConf.create(
        {
            "paper": "ddip",
            "printed": "fig4",
            "panels": [{"dataset": "cifar10", "victim": "resnet50", "n": 1000}],
            "metric": "accuracy",
            "worst": {"label": "Worst", "attack": "worst"},
            "rows": [{"label": label} for label in rows],
            "columns": [
                {"label": "Clean", "attack": "clean"},
                {"label": "PGD", "eps": 8, "attack": "pgd"},
                {"label": "PGD", "eps": 8, "attack": "bpda-pgd"},
            ],
        }
    )


def cell_of(answers: Sequence[int] | str, *, purifier: str, knowledge: str, ids=None) -> CellResult:
    names = {"dataset": "cifar10", "victim": "v", "attack": "a", "knowledge": knowledge, "purifier": purifier}
    of_kind = {"bpda": "attacks.knowledge.BPDA", "everything": "attacks.open_defense.Everything"}
    targets = {
        "knowledge": of_kind.get(knowledge, f"attacks.knowledge.{knowledge.title()}"),
        "purifier": "purifiers.identity.Identity" if purifier == "none" else "purifiers.jpeg.JPEG",
    }
    attack = {"_target_": "attacks.adaptive.Adaptive"} if knowledge == "everything" else {}
    configs = {"attack": attack, **{part: {"_target_": target} for part, target in targets.items()}}
    cell = Cell(names, configs, "python -m runners.evaluate x")
    if isinstance(answers, str):
        return CellResult(cell, **{answers.split()[0]: answers.split()[1]})
    ids = ids or [f"t/{i}" for i in range(len(answers))]
    return CellResult(cell, pd.DataFrame({"id": ids, "correct": np.array(answers, bool)}))


def frame_from(rows: Mapping[str, Answers], table=None) -> pd.DataFrame:
    """Return the frame of these rows; a row "none" is the bare victim."""
    table = table or table_with(list(rows))
    placed = [
        (row, column, cell_of(answers, purifier=row.label, knowledge=knowledge))
        for row in table.rows
        for column, knowledge, answers in zip(table.columns, KNOWN, rows[row.label], strict=True)
    ]
    return frame_from_cells(table, placed)


def frame_from_cells(table, placed) -> pd.DataFrame:
    return frame_of(table, placed, panel=PaperSetting("cifar10", "resnet50", 1000), comparable=False)


def right(count: int, n: int = 40) -> list[int]:
    """Return the answers on n images, of which the first `count` are right."""
    return [1] * count + [0] * (n - count)


def worst(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.attack == "worst"].set_index("row")


def said(frame: pd.DataFrame, tmp_path) -> dict[str, str]:
    """Return what each output says."""
    output = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    output.print(console.for_console(frame, HEADING))
    files = saved.write(frame, HEADING, tmp_path / "t")
    return {path.suffix: path.read_text() for path in files} | {"console": output.export_text()}


def test_worst_is_the_and_of_all_columns_clean_too():
    frame = frame_from({"x": [[0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]]})
    entry = worst(frame).loc["x"]
    assert (entry.value, entry.n, entry.status) == (40.0, 5, "done")
    assert (entry.low, entry.high) == pytest.approx([100 * end for end in wilson(2, 5)])
    assert entry.value < frame.value[:3].min() == 80.0, "the worst figure is not the lowest column"


def test_images_are_matched_by_id():
    table = table_with(["x"])
    cells = [
        cell_of([1, 0, 0], purifier="x", knowledge="blind", ids=list("abc")),
        cell_of([0, 0, 1], purifier="x", knowledge="blind", ids=list("cba")),
        cell_of([0, 1, 0], purifier="x", knowledge="bpda", ids=list("bac")),
    ]
    placed = list(zip([table.rows[0]] * 3, table.columns, cells, strict=True))
    assert worst(frame_from_cells(table, placed)).value.tolist() == [pytest.approx(100 / 3)]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "b", "d"], "2 of them in one only"),
        (["a", "b"], "got 3 and 2 ids"),
        (["a", "b", "c", "c"], "each once"),
    ],
)
def test_figures_over_different_images_are_refused(ids, said):
    first = pd.Series([True] * 3, index=list("abc"))
    other = pd.Series([True] * len(ids), index=ids)
    with pytest.raises(ValueError, match=said):
        figures.under_all([first, other])
    with pytest.raises(ValueError, match=said):
        best_of({0: first, 1: other})


@pytest.mark.parametrize("value", [0.5, float("nan"), None])
def test_what_is_neither_right_nor_wrong_is_refused(value):
    with pytest.raises(ValueError, match="expected right or wrong"):
        figures.under_all([pd.Series([True, value])])


@pytest.mark.parametrize(
    ("of_x", "note"),
    [
        (
            [right(9), right(8), "failed NaN"],
            "x: there is no worst result without PGD 8 bpda.",
        ),
        (
            [right(9), "failed NaN", "skipped file"],
            "x: there is no worst result without PGD 8, PGD 8 bpda.",
        ),
        (["skipped file"] * 3, "x: there is no worst result without all columns."),
    ],
)
def test_a_row_that_lacks_an_attack_has_no_worst_figure(of_x, note, tmp_path):
    frame = frame_from({"none": [right(9), right(0), right(0)], "x": of_x})
    assert worst(frame).status.to_dict() == {"none": "done", "x": "absent"}
    assert worst(frame)[["value", "low", "high", "n"]].notna().sum(axis=1).to_dict() == {"none": 4, "x": 0}
    texts = said(frame, tmp_path)
    assert note in texts[".md"]
    assert note[3:-1] in texts[".csv"]
    assert note in " ".join(texts["console"].split())


def test_the_legend_names_the_attacks_and_what_they_know(tmp_path):
    texts = said(frame_from({"x": [right(9), right(8), right(7)]}), tmp_path)
    sentence = "Worst: the share of images that are right in every column (blind: Clean, PGD 8; bpda: PGD 8)."
    for output in (".md", ".tex", "console"):
        assert sentence in " ".join(texts[output].split())
    assert "| Clean | PGD 8 | PGD 8 bpda | Worst |" in texts[".md"]


def test_a_table_may_have_no_worst_column():
    table = table_with(["x"])
    table.worst = None
    frame = frame_from({"x": [right(9), right(8), right(7)]}, table)
    assert frame.column.tolist() == ["Clean", "PGD", "PGD"]
    assert "every column" not in render.markdown(frame, HEADING)


CLEAR = {
    "none": [right(39), right(0), right(0)],
    "x": [right(36)] * 3,
    "y": [right(30)] * 3,
    "z": [right(8)] * 3,
}
CLOSE = CLEAR | {"y": [right(31)] * 3}


def test_the_best_purifier_stands_alone_where_mcnemar_says_so(tmp_path):
    frame = frame_from(CLEAR)
    p = 2 / 2**6  # 36 and 30 images of the same 40
    for column in range(4):
        entries = frame.iloc[column::4].set_index("row")
        assert entries.best.to_dict() == {"none": False, "x": True, "y": False, "z": False}
        assert entries.p_best.tolist() == pytest.approx([float("nan"), p, p, 2 / 2**28], nan_ok=True)
    texts = said(frame, tmp_path)
    assert "| x | ours | 90.0▲* | 90.0▲* | 90.0▲* | 90.0▲* |" in texts[".md"]
    assert "| y | ours | 75.0* |" in texts[".md"]
    assert r"x & ours & 90.0$\triangle$* &" in texts[".tex"]
    assert "90.0▲*" in texts["console"]
    for output in (".md", "console"):
        assert (
            "▲ The best purifier: McNemar's exact test on the same images finds it better than every other "
            in (" ".join(texts[output].split()))
        )
        assert "(p < 0.05; here p is at most 0.031)" in " ".join(texts[output].split())
    assert r"$\triangle$ The best purifier" in texts[".tex"]
    assert "(p $<$ 0.05; here p is at most 0.031)" in texts[".tex"]
    assert "~" not in "".join(texts.values())
    back = pd.read_csv(tmp_path / "t.csv")
    assert tuple(back.columns) == COLUMNS
    assert back.best.dtype == bool
    assert back[back.best].p_best.tolist() == pytest.approx([p] * 4)


def test_purifiers_that_may_be_equal_share_a_mark(tmp_path):
    frame = frame_from(CLOSE)
    clean = frame[frame.column == "Clean"].set_index("row")
    assert clean.best.to_dict() == {"none": False, "x": True, "y": True, "z": False}
    assert clean.p_best[["x", "y"]].tolist() == pytest.approx([2 / 2**5] * 2)
    texts = said(frame, tmp_path)
    assert "| x | ours | 90.0~* |" in texts[".md"]
    assert "| y | ours | 77.5~* |" in texts[".md"]
    assert "| z | ours | 20.0* |" in texts[".md"]
    assert r"90.0$\sim$*" in texts[".tex"]
    assert "~" not in texts[".tex"], "in LaTeX ~ is a space"
    assert "90.0~*" in texts["console"]
    for output, mark in ((".md", "~"), (".tex", r"$\sim$"), ("console", "~")):
        assert (
            f"{mark} The purifier with the highest result, and those that McNemar's exact test does not "
            in (" ".join(texts[output].split()))
        )
        assert "▲" not in texts[output]


@pytest.mark.parametrize("lost", [["low"], ["high"], ["n"], ["low", "high", "n"]], ids=str)
def test_a_figure_without_its_interval_is_not_rendered(lost, tmp_path):
    frame = frame_from(CLEAR)
    frame.loc[5, lost] = float("nan")
    for output in (render.markdown, render.latex, console.for_console):
        with pytest.raises(
            ValueError, match="expected an interval and n with every result, got none: x, PGD"
        ):
            output(frame, HEADING)
    with pytest.raises(ValueError, match="expected an interval"):
        saved.write(frame, HEADING, tmp_path / "t")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="missing 3 required"):
        figures.Figure(90.0)


SEEN_FIRST = ("adaptive", "ddip/table1", "oag/table1")  # the widest and the longest; the others take a while


@pytest.mark.parametrize(
    "name",
    [
        name if name in SEEN_FIRST else pytest.param(name, marks=pytest.mark.slow)
        for name in names_of("table")
    ],
)
def test_every_table_with_its_marks_fits_100_columns(name):
    table = table_of(name)
    assert not table.get("worst") or (table.metric, table.worst.attack) == ("accuracy", "worst")
    draws, placed = np.random.default_rng(0), []
    for row in table.rows:
        for column in table.columns:
            words = [*table.get("cell", []), *column.get("cell", [])]
            knowledge = next((w.split("=")[1] for w in words if w.startswith("knowledge=")), "blind")
            cell = cell_of(draws.random(20) < 0.9, purifier=row.cell[0].split("=")[1], knowledge=knowledge)
            records = cell.records.assign(
                ssim=0.9, purify_seconds=0.5, path=[[(1, 0.0)]] * 20, notes="", draws=5, correct_mean=0.4,
                correct_majority=cell.records.correct, correct_all=cell.records.correct, craft_seconds=1234.5,
                forward_passes=20000,
            )  # fmt: skip
            placed.append((row, column, CellResult(cell.cell, records)))
    frame = frame_from_cells(table, placed)
    output = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    output.print(console.for_console(frame, HEADING, show="full"))
    text = output.export_text()
    assert "…" not in text
    for _, entry in frame.iterrows():
        assert render.value_text(entry) in text
        assert render.interval_text(entry) in text


def test_only_purifiers_that_faced_the_same_attack_are_compared(tmp_path):
    """A row with an attacker of its own has its own columns, and those of the other rows are empty there."""
    table = table_with(["none", "blind", "blind2", "aware"])
    table.columns, table.worst = table.columns[1:2], None
    known = {"aware": "bpda"}
    placed = [
        (
            row,
            table.columns[0],
            cell_of(right(n), purifier=row.label, knowledge=known.get(row.label, "blind")),
        )
        for row, n in zip(table.rows, (0, 30, 10, 2), strict=True)
    ]
    frame = frame_from_cells(table, placed)
    assert frame.set_index("row").best.to_dict() == {
        "none": False,
        "blind": True,
        "blind2": False,
        "aware": False,
    }
    assert "PGD 8 bpda" in "".join(said(frame, tmp_path).values())


def test_a_smaller_budget_of_the_adaptive_attack_is_named_and_its_members_are_told():
    """Two of three images fall, one of them to the image itself; the protocol asks for a larger budget."""
    common = {"judged": 5, "budget": [544, 227], "planned": ["bpda eot", "square"], "members": []}
    outcomes = [("bpda eot", 1.0), ("the image itself", 1.0), ("", 0.2)]
    notes = [json.dumps({"by": by, "misled": misled, **common}) for by, misled in outcomes]
    table = OmegaConf.create(
        {
            "title": "A table",
            "metric": "accuracy",
            "columns": [
                {"label": "Adaptive", "eps": 8},
                {"label": "Worst of 5", "eps": 8, "metric": "worst of draws"},
            ],
            "rows": [{"label": "DIP"}],
        }
    )  # fmt: skip
    cell = cell_of([0, 0, 1], purifier="DIP", knowledge="everything")
    cell.cell.configs["attack"]["budget"] = 600
    cell.cell.configs["purifier"] = {"_target_": "conftest.Noise"}
    cell.records = cell.records.assign(
        notes=notes, correct_all=False, draws=5, forward_passes=100, backward_passes=50
    )
    frame = frame_from_cells(table, [(table.rows[0], column, cell) for column in table.columns])
    assert frame.column.tolist() == ["Adaptive (budget 600)", "Worst of 5 (budget 600)"]
    assert frame.value.tolist() == pytest.approx([100 / 3, 0])
    for text in (
        "a budget of 544 forward and 227 backward passes per image, and used 100 and 50 of them on average",
        "2 of 3 images misled all 5 judging draws; number of examples by member: the image itself 1, "
        "bpda eot 1",
        "a complete evaluation also needs: 500 images, a blind attack, a transfer attack, a query "
        "attack, other seeds",
    ):  # fmt: skip
        assert text in frame.note[0]
