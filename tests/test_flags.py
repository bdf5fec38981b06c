"""Each flag is raised by its own cause, and by nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.adaptive import Adaptive
from attacks.attack import Clean
from attacks.from_foolbox import DDN
from attacks.from_torchattacks import PGD
from attacks.knowledge import BPDA, Blind, Decision, Full, Score, Transfer
from attacks.open_defense import Everything
from attacks.queries import HopSkipJump
from attacks.square import Square
from purifiers.gaussian_smoothing import GaussianSmoothing
from purifiers.identity import Identity
from purifiers.jpeg import JPEG
from runners.evaluation.cell import Cell
from runners.validity.evidence import Evidence
from runners.validity.flags import of_cell, of_row
from runners.validity.registry import CELL, MARKS, ROW

N = 600
VICTIM = {"network": {"classes": 10}}
ROBUST = VICTIM | {"robust": {"norm": "linf", "eps": 8 / 255}}


def evidence(
    *,
    n=N,
    right=0.3,
    bare=0.0,
    attack=None,
    knowledge=None,
    purifier=None,
    published=None,
    probes=None,
    failed_probes=None,
    victim=VICTIM,
    **columns,
) -> Evidence:
    """Return the evidence of a cell without any fault, apart from what is given."""
    attack, knowledge = attack or PGD(eps=8 / 255), knowledge or Blind()
    correct = np.arange(n) < right * n
    records = pd.DataFrame(
        {
            "id": [f"image {i}" for i in range(n)],
            "label": 1,
            "clean_label": 1,
            "adversarial_label": np.where(np.arange(n) < bare * n, 1, 0),
            "correct": correct,
            "correct_8bit": pd.array(correct, "boolean"),
            "linf": attack.eps or 0.1,
            "l2": 1.0,
            "moved": 0.01,
            "backward_passes": attack.backward,
            "forward_passes": 50,
            "zero_gradients": 0,
        }
    ).assign(**columns)
    names = {"attack": "my-attack", "knowledge": "my-attacker", "purifier": "my-purifier"}  # a user's own
    configs = {
        "attack": {"_target_": type(attack).__name__, "eps": attack.eps, "norm": attack.norm},
        "knowledge": {"_target_": type(knowledge).__name__},
        "victim": victim,
    }
    cell = Cell(names, configs, "")
    purifier = purifier or GaussianSmoothing()
    return Evidence(cell, records, attack, knowledge, purifier, published, probes or {}, failed_probes or {})


def seen(first: float, second: float, n: int = 64) -> torch.Tensor:
    """Return the result of a probe in which these shares of the two columns were misled."""
    shares = torch.arange(n) / n
    return torch.stack([shares < first, shares < second], 1)


ALONE = {
    "small_n": evidence(n=499),
    "attack_weak": evidence(bare=0.12),
    "zero_grad": evidence(zero_gradients=np.where(np.arange(N) < 10, 6, 0)),
    "quantisation_gap": evidence(correct_8bit=pd.array(np.arange(N) < 0.33 * N, "boolean")),
    "bpda_poor": evidence(knowledge=BPDA(), moved=0.1),
    "eps_violation": evidence(linf=8.1 / 255),
    "noop_attack": evidence(linf=np.where(np.arange(N) < 7, 0, 8 / 255)),
    "clean_acc_off": evidence(published=92.0),
    "probe_failed": evidence(failed_probes={"noise": "MemoryError: too large"}),
    "noise_wins": evidence(probes={"noise": seen(0.5, 0.4)}),
    "not_converged": evidence(probes={"twice": seen(0.9, 0.5)}),
    "unbounded_fails": evidence(probes={"unbounded": seen(0.6, 0.5)}),
    "eot_too_small": evidence(probes={"eot": torch.full((8,), 0.2)}),
}
SOUND = {
    "as it should be": evidence(),
    "clean": evidence(attack=Clean(), right=0.95, bare=1.0, linf=0.0, forward_passes=0),
    "a defense that keeps its victim": evidence(knowledge=BPDA(), bare=0.5),
    "a victim that was trained against the attack": evidence(bare=0.9, victim=ROBUST),
    "few zero gradients": evidence(zero_gradients=np.where(np.arange(N) < 6, 6, 0)),
    "no ball: zero where it succeeded": evidence(attack=DDN(), zero_gradients=9, backward_passes=10),
    "half of the gradients": evidence(zero_gradients=5),
    "8 bits: 20 of 1,000 images are not more than 2 points": evidence(
        n=1000, right=0.5, correct_8bit=pd.array(np.arange(1000) < 520, "boolean")
    ),
    "8 bits not scored": evidence(correct_8bit=pd.array([None] * N, "boolean")),
    "a substitute": evidence(knowledge=BPDA(substitute=torch.nn.Identity()), moved=0.1),
    "moved, blind": evidence(moved=0.1),
    "rounding of norms": evidence(linf=8 / 255 + 1e-6),
    "may return the image": evidence(
        attack=HopSkipJump(eps=0.1, norm="linf"), knowledge=Decision(), linf=0.0
    ),
    "let go after one answer, and wrong": evidence(
        attack=Square(), knowledge=Score(), right=0.0, linf=0.0, forward_passes=1
    ),
    "let go after its budget": evidence(attack=Square(), knowledge=Score(), right=1.0, linf=0.0),
    "published, by chance": evidence(n=501, published=99.5),
    "chosen since the victim has them right": evidence(
        published=70.0, subset="two-correct-per-class, seed 0"
    ),
    "the attack wins": evidence(
        probes={"noise": seen(0.4, 0.5), "twice": seen(0.52, 0.5), "eot": torch.ones(8)}
    ),
    "unbounded reaches chance": evidence(probes={"unbounded": seen(0.9, 0.5)}),
}


@pytest.mark.parametrize(
    ("knowledge", "columns"),
    [
        (Score(), {"right": 0.1}),
        (Score(eot=4), {"right": 0.1, "forward_passes": 4}),
        (Transfer(), {"bare": 0.1}),
    ],
    ids=["a random purifier's lucky draw", "of some", "the other classifier was wrong"],
)
def test_images_that_were_let_go_at_once_and_count_as_right_are_flagged(knowledge, columns):
    lax = evidence(attack=Square(), knowledge=knowledge, linf=0.0, **({"forward_passes": 1} | columns))
    assert "noop_attack" in {flag.name for flag in of_cell(lax)}


def test_a_config_of_another_name_is_the_kind_that_its_class_declares():
    ensemble = evidence(knowledge=Transfer(), purifier=JPEG())
    rows = of_row([ensemble, evidence(purifier=JPEG()), evidence(knowledge=BPDA(), purifier=JPEG())])
    assert [flag.seen for flag in rows[0] if flag.name == "incomplete"] == ["without a query attack"]


def test_an_adaptive_attack_of_the_standard_budget_completes_a_row():
    blind, standard = evidence(purifier=JPEG()), Adaptive()
    for attack, texts in (
        (standard, []),
        (Adaptive(budget=500), ["without transfer, bpda, a query attack"] * 2),
    ):
        rows = of_row([blind, evidence(attack=attack, knowledge=Everything(), purifier=JPEG())])
        assert [flag.seen for flags in rows for flag in flags if flag.name == "incomplete"] == texts


def test_the_bare_victim_must_fall_to_attacks_without_a_bound():
    assert "attack_weak" in {flag.name for flag in of_cell(evidence(attack=DDN(), bare=0.2))}


@pytest.mark.parametrize("attack", [PGD(eps=16 / 255), DDN()], ids=["a larger ball", "no bound"])
def test_a_victim_is_accused_beyond_what_it_was_trained_against(attack):
    assert [flag.name for flag in of_cell(evidence(attack=attack, bare=0.9, victim=ROBUST))] == [
        "attack_weak"
    ]


def test_every_flag_of_a_cell_has_a_case():
    assert set(ALONE) == set(CELL)


@pytest.mark.parametrize("name", ALONE)
def test_a_cell_raises_exactly_its_flag(name):
    flags = of_cell(ALONE[name])
    assert [flag.name for flag in flags] == [name]
    assert any(character.isdigit() for character in flags[0].seen), "the flag does not say what was seen"


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_cell_raises_none(name):
    assert of_cell(SOUND[name]) == []


def names_of_row(*row: Evidence, beside: str | None = None) -> list[list[str]]:
    """Return the names of the flags of each cell, except one that is `beside` the point."""
    return [[flag.name for flag in flags if flag.name != beside] for flags in of_row(row)]


def test_accuracy_that_rises_with_eps():
    low, high = evidence(attack=PGD(eps=4 / 255), right=0.3), evidence(attack=PGD(eps=8 / 255), right=0.4)
    assert names_of_row(low, high, beside="incomplete") == [[], ["non_monotone"]]
    assert names_of_row(low, evidence(attack=PGD(eps=8 / 255), right=0.33), beside="incomplete") == [
        [],
        [],
    ], "the difference is within 2 standard errors"
    assert names_of_row(
        low, evidence(attack=PGD(eps=8 / 255), knowledge=Full(), right=0.4), beside="incomplete"
    ) == [[], []]


def test_a_black_box_that_breaks_more_than_the_white_box():
    white = evidence(knowledge=Full(), right=0.4)
    query = evidence(attack=HopSkipJump(norm="linf", eps=8 / 255), knowledge=Decision(), right=0.3)
    assert names_of_row(white, query, beside="incomplete") == [["blackbox_wins"], []]
    weaker = evidence(attack=HopSkipJump(norm="linf", eps=8 / 255), knowledge=Decision(), right=0.5)
    assert names_of_row(white, weaker, beside="incomplete") == [[], []]
    other_ball = evidence(attack=PGD(eps=16 / 255), knowledge=Transfer(), right=0.1)
    assert names_of_row(white, other_ball, beside="incomplete") == [[], []]
    assert names_of_row(evidence(right=0.4), query, beside="incomplete") == [[], []], (
        "blind knows too little to be beaten"
    )
    assert names_of_row(white, evidence(right=0.3), beside="incomplete") == [["blackbox_wins"], []], (
        "an attacker who does not know the purifier breaks more than one who does"
    )
    bare = evidence(purifier=Identity(), right=0.4, bare=0.05)
    assert names_of_row(bare, evidence(purifier=Identity(), right=0.3), beside="incomplete") == [[], []], (
        "two blind attacks on the bare victim are both white-box attacks"
    )
    assert names_of_row(bare, query, beside="incomplete") == [["blackbox_wins"], []], (
        "for the bare victim a blind attack is the white-box attack"
    )


def test_what_is_missing_for_a_defense_without_a_gradient():
    blind, clean = evidence(purifier=JPEG()), evidence(attack=Clean(), purifier=JPEG())
    assert names_of_row(clean, blind) == [[], ["incomplete"]]
    assert of_row([clean, blind])[1][0].seen == "without transfer, bpda, a query attack"
    others = [evidence(purifier=JPEG(), knowledge=k) for k in (Transfer(), BPDA(), Decision())]
    assert names_of_row(clean, blind, *others) == [[]] * 5


def test_an_attack_through_an_exact_gradient_stands_for_bpda_and_for_nothing_else():
    """The gradient of anti-adversary is exact and leads nowhere, while its blind attack succeeds."""
    blind, full, transfer, query = evidence(), *(evidence(knowledge=k()) for k in (Full, Transfer, Decision))
    assert (
        of_row([blind, transfer, query])[0][0].seen == "without an attack through the exact gradient (full)"
    )
    assert of_row([full])[0][0].seen == "without blind, transfer, a query attack"
    assert names_of_row(blind, full, transfer, query) == [[]] * 4
    assert names_of_row(blind, evidence(knowledge=BPDA()), transfer, query) == [[]] * 4
    assert names_of_row(evidence(purifier=Identity())) == [[]], (
        "for the bare victim a blind attack is the white-box attack"
    )


def test_nothing_is_read_off_a_path_that_is_missing():
    white = evidence(knowledge=Full(), right=0.4)
    nearest = evidence(attack=HopSkipJump(norm="linf"), knowledge=Decision(), path=[[]] * N, queries=100)
    assert names_of_row(white, nearest, beside="incomplete")[0] == []


def test_every_flag_is_explained():
    from pathlib import Path

    text = (Path(__file__).parent.parent / "docs" / "flags.md").read_text()
    for check in (*CELL.values(), *ROW.values()):
        assert f"| `{check.__name__}` |" in text


def test_flags_stand_on_the_figures_with_a_legend():
    from test_render import HEADING, PANEL, placed

    from runners.tables import render
    from runners.tables.frame import frame_of
    from runners.validity.evidence import Flag

    table, cells = placed()
    cells[1][2].flags = [
        Flag("attack_weak", "the undefended victim keeps 12.0 %"),
        Flag("small_n", "20 images"),
    ]
    cells[3][2].flags = [Flag("incomplete", "without bpda")]
    text = render.markdown(frame_of(table, cells, panel=PANEL, comparable=False), HEADING)
    assert "| 0.0*w |" in text
    assert "75.0*† |" in text
    assert "- w attack_weak: The undefended victim keeps an accuracy of more than 10 %" in text
    assert text.count("small_n") == 0, "the flag depends on n alone, and is raised once"
    assert set(MARKS) == {*CELL, *ROW}
    assert [name for name, mark in MARKS.items() if not mark] == ["small_n"], "the flag depends on n alone"
    assert len(set(MARKS.values())) == len(MARKS)


def test_a_decision_attack_that_looks_for_the_nearest_is_read_off_its_path():
    white = evidence(knowledge=Full(), right=0.4)
    near, far = [[(0, 1.0), (50, 0.01)]] * N, [[(0, 1.0), (50, 0.2)]] * N
    for path, flags in ((near, ["blackbox_wins"]), (far, [])):
        nearest = evidence(
            attack=HopSkipJump(norm="linf"), knowledge=Decision(), right=0.5, path=path, queries=100
        )
        assert names_of_row(white, nearest, beside="incomplete")[0] == flags


def test_networks_that_do_not_say_how_many_classes_have_ten():
    mnist = evidence()
    mnist.cell.configs["victim"] = {"network": {"_target_": "victims.mnist.CNN2"}}
    assert mnist.classes == 10
