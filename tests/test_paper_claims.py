"""The papers' claims: each names only what exists, and made-up records give the known answer."""

import subprocess
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hydra import initialize_config_dir
from made_tables import made, right

from data.errors import InputError
from runners import app
from runners.claims import shown
from runners.claims.shape import check, config_of, panels_for, shape_of
from runners.claims.statement import Claim, claims_of
from runners.claims.verdicts import holm, verdicts_of
from runners.report.claims import claims_page
from runners.tables import paired
from runners.tables.layout import on
from runners.tables.paired import p_above
from runners.tables.paper_results import figure_of, panels_of, printed

ROOT = app.CONFIGS.parent
ORDER = Claim("ddip", "a", "Table 1", "DDIP is above DIPDefend.", "ddip/table1", {"dataset": "cifar10"},
              columns=["PGD 8"], more=["ddip"], than=["dipdefend"])  # fmt: skip
LEVEL = replace(ORDER, columns=["PGD 8"], rows=["none"], more=[], than=[], at_most=5.0)
ALIKE = replace(ORDER, more=[], alike=["ddip"], within=5.0)
ROWS = {"ddip": "DDIP as printed", "dipdefend": "DIPDefend", "none": "No defense", "nrp": "NRP"}


@pytest.fixture(autouse=True)
def _configs():
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        yield


def cells(**values: np.ndarray) -> dict:
    """Return cells of the column PGD 8, by the paper's word for the defense."""
    return {(ROWS[name], "PGD", 8.0): answers for name, answers in values.items()}


def test_there_are_claims_of_every_paper():
    """`make claims` checks that each claim names only what exists (tests/test_claims_command.py)."""
    claims = claims_of()
    assert {claim.paper for claim in claims} == {"ddip", "dip-vit", "ncis", "oag", "ride"}
    assert len(claims) > 150


@cache
def printed_cells(name: str, panel: int) -> dict[tuple[str, str], float]:
    """Return what the paper prints for a table in one of its settings, by the row and the column."""
    table = config_of(name)
    setting = panels_of(table)[panel]
    place = setting.dataset, setting.victim
    figures, cells = printed(table, setting), {}
    if figures.empty:
        return cells
    shape = shape_of(name, *place)
    columns = [*on(table.columns, *place), *(table[end] for end in ("average", "worst") if table.get(end))]
    for row in on(table.rows, *place):
        for column, about in zip(columns, shape.columns, strict=True):
            if len(found := figure_of(figures, row, column, table.get("metric", "accuracy"))):
                cells[row.label, about.name] = float(found.value.iloc[0])
    return cells


def printed_differences(claim: Claim) -> list[float]:
    """Return how far apart the paper prints the two sides of each comparison of a claim.

    The unit is points, or hundredths of SSIM; for a level, the list has the accuracies. Comparisons of which
    the paper prints a side in a curve only are left out.
    """
    table, differences = config_of(claim.table), []
    scale = 100 if table.get("metric") == "ssim" else 1
    for panel in panels_for(claim):
        shape = shape_of(claim.table, panel.dataset, panel.victim)
        cells = printed_cells(claim.table, panels_of(table).index(panel))
        for pair in claim.pairs():
            sides = [
                [(shape.row(row), shape.column(name).name) for row, name in side] for side in pair if side
            ]
            if all(place in cells for side in sides for place in side):
                first, *second = (np.mean([cells[place] for place in side]) for side in sides)
                differences.append(scale * (first - sum(second)))
    return differences


def test_the_papers_own_figures_are_as_claimed():
    """What a paper prints agrees with each of its claims, so that none is stated the wrong way round.

    A claim with which printed figures disagree says so where it says how it is read.
    """
    checked = 0
    for claim in [claim for claim in claims_of() if not claim.not_tested]:
        if not (differences := printed_differences(claim)):
            continue
        checked += 1
        if claim.level is not None:
            low, high = (claim.level, 100) if claim.at_least is not None else (0, claim.level)
            agrees = all(low <= value <= high for value in differences)
        elif claim.within is not None:
            agrees = max(map(abs, differences)) <= claim.within
        else:
            agrees = min(differences) > claim.by - 0.01
        assert agrees or "by the printed figures" in claim.reading, claim.id
        if claim.prints is not None and not claim.by:
            assert min(differences) == pytest.approx(claim.prints, abs=0.1), claim.id
    assert checked > 90


@pytest.mark.parametrize(
    ("claim", "values", "verdict"),
    [
        (ORDER, {"ddip": right(40, 60), "dipdefend": right(20, 60)}, "holds"),  # 20 discordant of 20
        (ORDER, {"ddip": right(20, 60), "dipdefend": right(40, 60)}, "contradicted"),
        (ORDER, {"ddip": right(35, 60), "dipdefend": right(30, 60)}, "undetermined"),  # 5 of 5: p = 0.06
        (ORDER, {"ddip": right(36, 60), "dipdefend": right(30, 60)}, "holds"),  # 6 of 6: p = 0.03
        (ORDER, {"ddip": right(30, 60), "dipdefend": right(30, 60)}, "undetermined"),
        (replace(ORDER, by=10.0), {"ddip": right(300, 400), "dipdefend": right(200, 400)}, "holds"),
        (replace(ORDER, by=24.0), {"ddip": right(300, 400), "dipdefend": right(200, 400)}, "undetermined"),
        (replace(ORDER, by=40.0), {"ddip": right(300, 400), "dipdefend": right(200, 400)}, "contradicted"),
        (ALIKE, {"ddip": right(300, 400), "dipdefend": right(300, 400)}, "holds"),
        (ALIKE, {"ddip": right(4, 8), "dipdefend": right(4, 8)}, "undetermined"),  # 8 images that all agree
        (ALIKE, {"ddip": right(300, 400), "dipdefend": right(200, 400)}, "contradicted"),
        (LEVEL, {"none": right(0, 100)}, "holds"),
        (LEVEL, {"none": right(0, 10)}, "undetermined"),
        (LEVEL, {"none": right(30, 100)}, "contradicted"),
        (replace(LEVEL, at_most=None, at_least=71.0), {"none": right(90, 100)}, "holds"),
    ],
)  # fmt: skip
def test_known_answers(tmp_path, claim, values, verdict):
    made(tmp_path, cells(**values))
    (outcome,) = verdicts_of([claim], tmp_path)
    assert outcome.verdict == verdict
    assert (outcome.evidence.dataset, outcome.evidence.victim) == ("cifar10", "resnet50")
    assert outcome.n == len(next(iter(values.values())))


def test_the_p_of_one_claim_is_mcnemars(tmp_path):
    made(tmp_path, cells(ddip=right(40, 60), dipdefend=right(20, 60)))
    (outcome,) = verdicts_of([ORDER], tmp_path)
    assert outcome.p == pytest.approx(2 * 0.5**20)
    assert outcome.observed == "under PGD 8: ddip 66.7, dipdefend 33.3 (+33.3)"


def test_all_comparisons_must_be_shown_and_one_contradicts(tmp_path):
    claim = replace(ORDER, than=["dipdefend", "nrp"])
    made(tmp_path, cells(ddip=right(40, 60), dipdefend=right(20, 60), nrp=right(38, 60)))
    assert verdicts_of([claim], tmp_path)[0].verdict == "undetermined"
    made(tmp_path, cells(ddip=right(40, 60), dipdefend=right(20, 60), nrp=right(60, 60)))
    (outcome,) = verdicts_of([claim], tmp_path)
    assert (outcome.verdict, outcome.observed) == (
        "contradicted",
        "under PGD 8: ddip 66.7, nrp 100.0 (-33.3)",
    )


def test_a_claim_of_which_a_part_is_missing_does_not_hold(tmp_path):
    made(tmp_path, cells(ddip=right(40, 60), dipdefend=right(20, 60)))
    (outcome,) = verdicts_of([replace(ORDER, than=["dipdefend", "nrp"])], tmp_path)
    assert (outcome.verdict, outcome.reason) == ("undetermined", "no records of NRP, PGD 8")


def test_several_claims_of_a_paper_are_corrected(tmp_path):
    """A claim with p = 0.03 holds alone, but not among four; a claim of another paper does not count."""
    made(tmp_path, cells(ddip=right(36, 60), dipdefend=right(30, 60)))
    assert verdicts_of([ORDER], tmp_path)[0].verdict == "holds"
    several = verdicts_of([replace(ORDER, id=str(i)) for i in range(4)], tmp_path)
    assert [outcome.verdict for outcome in several] == ["undetermined"] * 4
    assert several[0].p == pytest.approx(4 * 2 * 0.5**6)
    papers = verdicts_of([ORDER, replace(ORDER, paper="oag")], tmp_path)
    assert [outcome.verdict for outcome in papers] == ["holds"] * 2


def test_holm_by_hand():
    corrected = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, 0.06, 0.06, 0.02])


def test_the_number_of_images_decides_when_it_is_there(tmp_path):
    """So many images, drawn from the observed shares, decide about 80 % of cases; a quarter decides few."""
    ours, theirs = right(33, 60), right(27, 60, start=20)
    made(tmp_path, cells(ddip=ours, dipdefend=theirs))
    (outcome,) = verdicts_of([ORDER], tmp_path)
    assert (outcome.verdict, outcome.needs) == ("undetermined", 450)
    draws, decided = np.random.default_rng(0), {}
    for n in (450, 110):
        samples = [draws.integers(60, size=n) for _ in range(200)]
        decided[n] = np.mean(
            [2 * p_above(ours[sample], theirs[sample], shares=True) <= 0.05 for sample in samples]
        )
    assert 0.7 < decided[450] < 0.9
    assert decided[110] < 0.35


def test_averages_and_means_over_columns(tmp_path):
    table = {
        (ROWS[name], "FGSM", eps): right(count, 80, start=int(eps))
        for name, count in (("ddip", 60), ("dipdefend", 30))
        for eps in (2.0, 4.0)
    }
    made(tmp_path, table, average=True)
    average = replace(ORDER, columns=["Average"])
    mean = replace(ORDER, id="b", columns=["FGSM 2", "FGSM 4"], over="mean")
    first, second = verdicts_of([average, mean], tmp_path)
    assert first.verdict == second.verdict == "holds"
    assert first.p == second.p, "the average is over these two columns"
    assert first.observed == "under Average: ddip 75.0, dipdefend 37.5 (+37.5)"


def test_ssim_is_compared_by_a_paired_bootstrap(tmp_path):
    draws = np.random.default_rng(0)
    base = draws.uniform(0.7, 0.9, 60)
    claim = replace(ORDER, table="ddip/table2")
    for shift, verdict in ((0.02, "holds"), (-0.02, "contradicted"), (0.0, "undetermined")):
        ours = base + shift + draws.normal(0, 0.02, 60)
        table = cells(ddip=ours, dipdefend=base)
        made(tmp_path, table, stem="ddip-table2-cifar10-resnet50", metric="ssim")
        assert verdicts_of([claim], tmp_path)[0].verdict == verdict


def test_a_claim_that_no_table_tells_is_not_run(tmp_path):
    made(tmp_path, cells(none=right(3, 10)))
    untested = Claim("ddip", "c", "Table 1", "A claim.", not_tested="nobody can tell")
    outcomes = verdicts_of([ORDER, untested, replace(ORDER, table="ddip/fig4")], tmp_path)
    assert [outcome.verdict for outcome in outcomes] == ["not run"] * 3
    assert [outcome.reason for outcome in outcomes] == [
        "ddip/table1 on cifar10, resnet50 has no records of DDIP as printed, PGD 8; DIPDefend, PGD 8",
        "nobody can tell",
        "no such table is finished",
    ]


def test_what_departs_from_the_paper_stands_beside_the_verdict(tmp_path):
    notes = {"note": "ours: trained here; the paper: a misprint", "flags": "small_n attack_weak"}
    made(tmp_path, cells(ddip=right(40, 60), dipdefend=right(20, 60)), entry=notes)
    (outcome,) = verdicts_of([ORDER], tmp_path)
    assert outcome.departs == (
        "DDIP as printed: trained here",
        "DDIP as printed, PGD 8: the attack is weaker than the paper's (attack_weak)",
        "DIPDefend: trained here",
        "DIPDefend, PGD 8: the attack is weaker than the paper's (attack_weak)",
    )
    text = shown.markdown([outcome])
    assert "| cifar10, resnet50, n = 60 | a, b, c, d |" in text
    assert "* a: DDIP as printed: trained here" in text
    assert "DDIP as printed: trained here; " in claims_page([outcome])


def test_the_setting_nearest_to_the_papers_is_taken(tmp_path):
    """The claim holds for another victim, but the paper's own victim contradicts it."""
    yes, no = right(40, 60), right(20, 60)
    made(tmp_path, cells(ddip=no, dipdefend=yes))
    made(tmp_path, cells(ddip=yes, dipdefend=no), stem="ddip-table1-cifar10-resnet56",
         setting="dataset=cifar10 victim=resnet56")  # fmt: skip
    assert verdicts_of([ORDER], tmp_path)[0].verdict == "contradicted"
    for path in tmp_path.glob("*resnet50*"):
        path.unlink()
    assert verdicts_of([ORDER], tmp_path)[0].evidence.victim == "resnet56"


def test_of_equally_near_tables_one_with_all_rows_is_taken(tmp_path):
    """The table with more images is not taken, because it lacks a row of the claim."""
    both = replace(ORDER, than=["dipdefend", "nrp"])
    no, yes = right(20, 60), right(40, 60)
    made(tmp_path, cells(ddip=yes, dipdefend=no, nrp=no))
    made(
        tmp_path,
        cells(ddip=right(40, 80), dipdefend=right(20, 80)),
        stem="ddip-table1-cifar10-resnet50-only-2",
    )
    (outcome,) = verdicts_of([both], tmp_path)
    assert (outcome.n, outcome.reason) == (60, "")
    assert verdicts_of([ORDER], tmp_path)[0].n == 80


@pytest.mark.parametrize("kind", ["decisions", "shares", "ssim"])
def test_no_claim_is_decided_by_chance_more_often_than_allowed(kind, monkeypatch):
    """Of families of six claims without any difference, at most about one in twenty has a decided claim."""
    monkeypatch.setattr(paired, "RESAMPLES", 999)
    draws, decided = np.random.default_rng(1), 0
    for _ in range(60):
        p = []
        for _ in range(6):
            first, second = draws.random((2, 30)) if kind != "decisions" else draws.random((2, 30)) < 0.5
            sides = [p_above(a, b, shares=kind != "ssim") for a, b in ((first, second), (second, first))]
            p.append(min(1.0, 2 * min(sides)))
        decided += holm(np.array(p)).min() <= 0.05
    assert decided <= 7


CLEAN = "\n    columns: Clean\n    more: ddip\n    than: nrp"
STATED = """
ddip:
  - id: a
    where: Table 1
    says: A claim.
    {0}
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"table: ddip/table9{CLEAN}", "expected a table of "),
        ("table: ddip/table1\n    columns: Clean\n    more: dddip\n    than: nrp",
         "ddip/table1 on cifar10, resnet50 has no row 'dddip'; there are none, JPEG 75, comdefend, sr, nrp"),
        ("table: ddip/table1\n    columns: PGD 16\n    more: ddip\n    than: nrp",
         "has no column 'PGD 16'; there are Clean, FGSM 2, FGSM 4, FGSM 8, PGD 2,"),
        ("table: ddip/table1\n    columns: PGD\n    more: ddip\n    than: nrp", "has several columns 'PGD'"),
        ("table: ddip/table1\n    setting: {dataset: mnist}" + CLEAN,
         "(cifar10, resnet50; neurips2017, imagenet/resnet101), got {'dataset': 'mnist'}"),
        ("table: oag/table1" + CLEAN, "expected a setting of the paper's oag/table1"),
        ("table: ddip/table1\n    columns: Clean\n    more: ddip", "either more or alike, and than"),
        ("table: ddip/table1\n    columns: Clean\n    alike: ddip\n    than: nrp",
         "expected within where there is alike"),
        ("table: ddip/table1\n    colums: Clean", "expected id, where and says, and of table, setting,"),
        ("not_tested: why\n    table: ddip/table1", "nothing to compare beside not_tested, got table"),
        ("table: ddip/table1\n    rows: none\n    columns: Average\n    at_most: 5",
         "right and wrong answers for a level"),
        ("by: 3", "expected a table, or not_tested with the reason"),
    ],
)  # fmt: skip
def test_a_claim_that_names_what_there_is_not_is_refused(tmp_path, line, told):
    path = tmp_path / "claims.yaml"
    path.write_text(STATED.format(line))
    with pytest.raises(InputError) as error:
        [check(claim) for claim in claims_of(path)]
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_the_generated_part_of_the_findings_is_that_of_the_committed_tables(tmp_path):
    document = ROOT / "docs" / "findings.md"
    archive = subprocess.run(["git", "archive", "HEAD", "results/tables"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip("no clone of the repository")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    part = shown.markdown(verdicts_of(claims_of(), tmp_path / "results" / "tables"))
    assert shown.written(document, part) == document.read_text(), "make claims writes it again"
