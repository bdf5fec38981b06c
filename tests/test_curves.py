"""The curves on which a table's figures lie, and plots whose files have equal bytes each time."""

import re

import pandas as pd
import pytest

from runners.report import curves, plots
from runners.tables.frame import COLUMNS

EVALUATE = "python -m runners.evaluate dataset=d victim=v"


def frame(*entries: dict) -> pd.DataFrame:
    rows = []
    for entry in entries:
        value = entry.get("value", 50.0)
        row = {
            "metric": "accuracy",
            "value": value,
            "low": None if value is None else value - 10,
            "high": None if value is None else value + 10,
            "n": 20,
            "status": "done",
        }
        row |= {"knowledge": "blind", "flags": "", "command": "", "note": "", "verdict": "", "record": ""}
        row |= entry
        rows.append({"knowledge_kind": row["knowledge"]} | row)
    return pd.DataFrame(rows).reindex(columns=[*COLUMNS])


def eps(row: str, at: float | None, value: float, **more) -> dict:
    attack = (
        {"attack": "clean", "column": "Clean"}
        if at is None
        else {"attack": "pgd", "column": "PGD", "eps_255": at}
    )
    command = f"{EVALUATE} purifier={row} attack=pgd attack.eps={at}/255 attack.steps=10 n=20"
    return {"row": row, "value": value, "command": command, **attack, **more}


def test_figures_at_several_eps_are_a_curve_that_begins_at_the_clean_one():
    table = frame(eps("jpeg", None, 90), eps("jpeg", 8, 20, paper=30), eps("jpeg", 2, 70), eps("ddip", 8, 60))
    (panel,) = curves.over_eps(table)
    jpeg, ddip = panel.series
    assert (jpeg.x, jpeg.y) == ([0, 2, 8], [90, 70, 20])
    assert (jpeg.low, jpeg.high) == ([80, 60, 10], [100, 80, 30])
    assert jpeg.paper == [(8, 30)]
    assert (ddip.x, ddip.y) == ([8], [60])


def test_attackers_of_different_knowledge_have_curves_of_their_own():
    table = frame(*(eps("jpeg", level, level, knowledge=k) for level in (2, 8) for k in ("blind", "bpda")))
    assert [panel.title for panel in curves.over_eps(table)] == ["PGD, blind", "PGD, bpda"]


def test_rows_whose_attackers_are_of_one_kind_share_a_curve():
    blurred = {"knowledge": "bpda-blur", "knowledge_kind": "bpda"}
    table = frame(
        *(eps("jpeg", level, level, knowledge="bpda") for level in (2, 8)),
        *(eps("tvm", level, level, **blurred) for level in (2, 8)),
    )
    (panel,) = curves.over_eps(table)
    assert panel.title == "PGD, bpda"
    assert [series.name for series in panel.series] == ["jpeg", "tvm"]


def test_one_eps_is_no_curve():
    assert curves.over_eps(frame(eps("jpeg", 8, 20), eps("ddip", 8, 20))) == []


def steps(row: str, count: int, value: float, alpha: str = "1/255") -> dict:
    command = (
        f"{EVALUATE} purifier={row} attack=pgd attack.eps=8/255 attack.alpha={alpha} attack.steps={count}"
    )
    return {"row": row, "column": f"PGD {count}", "attack": "bpda-pgd", "knowledge": "bpda", "eps_255": 8.0,
            "value": value, "command": command}  # fmt: skip


def test_iterations_are_a_curve_whatever_the_step_size():
    table = frame(
        steps("jpeg", 5, 60, "2/255"), steps("jpeg", 15, 40), steps("ddip", 5, 80), steps("ddip", 15, 70)
    )
    (panel,) = curves.over_parameters(table)
    assert panel.x_label == "steps of the attack"
    assert [(s.name, s.x, s.y) for s in panel.series] == [
        ("jpeg", [5, 15], [60, 40]),
        ("ddip", [5, 15], [80, 70]),
    ]


def test_a_purifiers_parameter_is_a_curve_a_column_averages_too():
    entries = []
    for word, value in (("similarity=0.5", 50), ("similarity=0.7", 60), ("push=0.5", 40), ("push=1.0", 30)):
        name, number = word.split("=")
        row = {"row": f"{name} = {number}", "value": float(value)}
        command = f"{EVALUATE} purifier=ddip purifier.{word} attack=pgd"
        entries.append(row | {"column": "PGD", "attack": "pgd", "command": command})
        entries.append(row | {"column": "Average", "attack": "average"})
    first, second = curves.over_parameters(frame(*entries))
    assert (first.title, first.x_label) == ("similarity", "purifier.similarity")
    assert [(s.name, s.x, s.y) for s in first.series] == [
        ("PGD", [0.5, 0.7], [50, 60]),
        ("Average", [0.5, 0.7], [50, 60]),
    ]
    assert second.title == "push"


def test_the_curve_over_queries_is_read_off_the_paths():
    command = f"{EVALUATE} purifier=jpeg attack=hopskipjump"
    same = {"row": "jpeg", "attack": "hopskipjump", "column": "HSJ", "eps_255": 8.0, "command": command}
    table = frame({**same, "queries": 100, "paper": 81.0}, {**same, "queries": 1000})
    paths = [[(50, 0.01)], [(500, 0.02)], [(500, 0.5)], [(2000, 0.9)]]
    records = pd.DataFrame({"command": command, "path": paths})
    (panel,) = curves.over_queries(table, records)
    (line,) = panel.series
    share = dict(zip(line.x, line.y, strict=True))
    assert share[10] == 100
    assert share[1000] == 50, "two of four are found within 8/255"
    assert line.paper == [(100, 81)]
    assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high, strict=True))


def test_cost_is_set_against_the_worst_figure():
    table = frame(*(
        entry for row, worst in (("jpeg", 10.0), ("ddip", 70.0))
        for entry in (eps(row, 8, 90), {"row": row, "column": "Worst", "attack": "worst", "value": worst})
    ))  # fmt: skip
    seconds = {"jpeg": 0.01, "ddip": 5.0}
    records = pd.DataFrame(
        [{"command": eps(r, 8, 0)["command"], "purify_seconds": s} for r, s in seconds.items()]
    )
    (panel,) = curves.cost(table, records)
    assert [(s.name, s.x, s.y) for s in panel.series] == [("jpeg", [0.01], [10]), ("ddip", [5], [70])]


def test_without_a_worst_figure_cost_is_set_against_the_lowest():
    """Attacks are not averaged, because they may know different things."""
    table = frame(*(eps(row, e, value) for row, values in (("jpeg", (70, 20)), ("ddip", (80, 60)))
                    for e, value in zip((2, 8), values, strict=True)))  # fmt: skip
    seconds = {"jpeg": 0.01, "ddip": 5.0}
    records = pd.DataFrame(
        [{"command": eps(r, 8, 0)["command"], "purify_seconds": s} for r, s in seconds.items()]
    )
    (panel,) = curves.cost(table, records)
    assert [(s.name, s.y) for s in panel.series] == [("jpeg", [20]), ("ddip", [60])]


def test_a_failed_cell_is_on_no_curve():
    failed = eps("jpeg", 4, 50) | {"value": None, "low": None, "high": None, "status": "failed"}
    (panel,) = curves.over_eps(frame(eps("jpeg", 2, 70), failed, eps("jpeg", 8, 20)))
    assert panel.series[0].x == [2, 8]


@pytest.fixture
def panels() -> list[curves.Panel]:
    return curves.over_eps(frame(eps("jpeg", None, 90), eps("jpeg", 2, 70, paper=60), eps("jpeg", 8, 20)))


def test_plots_are_png_and_pdf_of_the_same_bytes_each_time(panels, tmp_path):
    paths = plots.saved(plots.drawn(panels), tmp_path / "a")
    again = plots.saved(plots.drawn(panels), tmp_path / "b")
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"%PDF"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_the_pages_plot_takes_the_pages_colours_and_is_spoken(panels):
    image = plots.svg(plots.drawn(panels), "x", spoken="a <plot>")
    assert image.startswith('<svg role="img" aria-label="a &lt;plot&gt;"')
    assert "currentColor" in image
    assert plots.INK not in image
    assert ">eps in 1/255<" in image


@pytest.mark.parametrize("seconds", [(0.42, 0.98), (0.01, 5.0), (0.00002, 300.0)])
def test_a_logarithmic_axis_has_plain_numbers(seconds):
    line = curves.Series("jpeg", [*seconds], [50, 60], [40, 50], [60, 70])
    panel = curves.Panel("", "seconds", (line,), "accuracy in %", log_x=True, joined=False)
    image = plots.svg(plots.drawn([panel]), "x", spoken="cost")
    axis = image[: image.index(">seconds<")]
    labels = [float(text) for text in re.findall(r">([^<>]+)</text>", axis)]
    assert sum(seconds[0] <= label <= seconds[1] for label in labels) >= 2
    assert "mathdefault" not in image
