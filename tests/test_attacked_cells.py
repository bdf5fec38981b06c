"""Cells whose attacker knows more: what is shared, what is recorded and what is refused."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from test_grid import DIP, cell, files, run, same

from data.errors import InputError
from runners.evaluation.settings import Settings
from runners.tables.members import told_by

run = partial(run, n=3)  # two chunks
PGD = ["attack=pgd", "attack.steps=2"]
CELLS = {
    "blind none": cell(*PGD, "purifier=none"),
    "blind jpeg": cell(*PGD, "purifier=jpeg"),
    "bpda none": cell(*PGD, "knowledge=bpda", "purifier=none"),
    "bpda jpeg": cell(*PGD, "knowledge=bpda", "purifier=jpeg"),
    "transfer jpeg": cell(*PGD, "knowledge=transfer", "purifier=jpeg"),
    "full gs": cell(*PGD, "knowledge=full", "purifier=gs"),
    "eot": cell(*PGD, "knowledge=full", "knowledge.eot=3", "purifier=randomization"),
    "known draw": cell(*PGD, "knowledge=full", "knowledge.known_draw=true", "purifier=randomization"),
    "square": cell("attack=square", "attack.queries=20", "knowledge=score", "purifier=jpeg"),
    "hopskipjump": cell("attack=hopskipjump", "attack.queries=150", "knowledge=decision", "purifier=jpeg"),
    "bpda dip": cell(*PGD, "knowledge=bpda", *DIP, "purifier.steps=4"),
    "unrolled dip": cell(*PGD, "knowledge=unrolled", "knowledge.steps=2", *DIP, "purifier.steps=4"),
    "adaptive dip": cell(
        "attack=adaptive", "attack.budget=110", "knowledge=everything", *DIP, "purifier.steps=4"
    ),
    "ddn": cell("attack=ddn", "attack.steps=5", "purifier=none"),
    "clean": cell("attack=clean", "purifier=jpeg"),
    "clean bpda": cell("attack=clean", "knowledge=bpda", "purifier=jpeg"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    store = tmp_path_factory.mktemp("attacked") / "store"
    results, _ = run(store, list(CELLS.values()), here=True)
    assert [r.failed or r.skipped for r in results] == [None] * len(CELLS)
    return store, dict(zip(CELLS, results, strict=True))


def records(done, name: str) -> pd.DataFrame:
    return done[1][name].records


def test_bpda_through_the_identity_is_blind(done):
    blind, bpda = records(done, "blind none"), records(done, "bpda none")
    assert blind.linf.tolist() == bpda.linf.tolist()
    assert blind.l2.tolist() == bpda.l2.tolist()


def test_who_shares_adversarial_examples(done):
    def made(name: str) -> list[str]:
        return records(done, name).adversarial.tolist()

    assert made("blind none") == made("blind jpeg"), "all purifiers share the examples of a blind attack"
    assert made("clean") == made("clean bpda"), "an attack that asks nothing is the same under all knowledge"
    apart = [made(name)[0] for name in CELLS if not name.startswith(("blind", "clean"))]
    assert len(set(apart)) == len(apart), "attacks that depend on the purifier share no examples"
    distinct = len(set(apart)) + 2  # plus blind and clean
    assert len(files(done[0], "adversarial")) == 2 * distinct


def test_passes_are_recorded(done):
    blind, eot = records(done, "blind none"), records(done, "eot")
    assert (blind[["queries", "forward_passes", "backward_passes"]] == [2, 2, 2]).all().all()
    assert (eot[["queries", "forward_passes", "backward_passes"]] == [2, 6, 6]).all().all()
    frame = records(done, "square")
    assert (frame.backward_passes == 0).all()
    assert frame.queries.between(1, 20).all()
    assert (records(done, "clean").queries == 0).all()


def test_a_decision_attacks_path_is_recorded_and_ends_at_its_example(done):
    rows = records(done, "hopskipjump")
    for row in rows.itertuples():
        queries, distances = np.array([list(point) for point in row.path]).T
        assert (np.diff(queries) > 0).all()
        assert (np.diff(distances) < 0).all()
        assert queries[-1] <= row.queries <= 150
        assert row.l2 == pytest.approx(distances[-1], abs=1e-5)
    assert not rows.correct.any(), "the nearest misclassified image is misclassified"


def test_draws_are_scored_and_a_known_draw_is_the_first_of_them(done):
    fresh, known = records(done, "eot"), records(done, "known draw")
    for rows in (fresh, known):
        assert (rows.draws == 3).all()
        assert (rows.correct_all <= rows.correct_majority).all()
        assert (rows.correct_majority <= rows.correct_any).all()
        assert ((rows.correct_mean > 0) == rows.correct_any).all()
        assert ((rows.correct_mean > 0.99) == rows.correct_all).all()
    assert (records(done, "bpda jpeg").draws == 1).all()
    configs = CELLS["known draw"]
    purifier = instantiate(configs.configs["purifier"])
    target = instantiate(configs.knowledge).target(torch.nn.Flatten(), purifier, [], seeds=[5, 6])
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target(images), target(images)), "a known draw is the same each time"
    assert torch.equal(target(images), purifier(images, seeds=[5, 6]).flatten(1)), (
        "a known draw is that of the seeds"
    )


def test_what_an_attack_tells_is_recorded(done):
    assert (records(done, "blind jpeg").notes == "").all()
    for text in records(done, "unrolled dip").notes:
        note = json.loads(text)
        assert len(note["growth"]) == len(note["cosine"]) == 2
    rows = records(done, "adaptive dip")
    for row in rows.itertuples():
        note, seconds = json.loads(row.notes), json.loads(row.member_seconds or "{}")
        judged = row.forward_passes - sum(member["forward"] for member in note["members"])
        assert judged == note["judged"] == 5
        assert row.forward_passes <= note["budget"][0] <= 110
        assert set(seconds) == {member["member"] for member in note["members"]}
        assert note["by"] in ("", "the image itself", *note["planned"])
    assert told_by(rows).startswith("the adaptive attack has a budget of 1")
    assert told_by(records(done, "unrolled dip")) == ""


def test_fits_that_are_attacked_are_scored_on_several_draws():
    settings = SimpleNamespace(draws="auto")
    fit, noise = (
        SimpleNamespace(stochastic=True, per_image_optimization=True),
        SimpleNamespace(stochastic=True, per_image_optimization=False),
    )
    still = SimpleNamespace(stochastic=False, per_image_optimization=False)
    of = partial(Settings.draws_of, settings)
    assert [of(purifier, attacked=True) for purifier in (fit, noise, still)] == [5, 10, 1]
    assert [of(purifier, attacked=False) for purifier in (fit, noise, still)] == [1, 10, 1]
    settings.draws = 3
    assert [of(purifier, attacked=False) for purifier in (fit, noise, still)] == [3, 3, 1]


def test_eight_bits_are_scored_where_it_costs_little(done):
    assert records(done, "bpda jpeg").correct_8bit.notna().all()
    assert records(done, "bpda dip").correct_8bit.isna().all()
    clean = records(done, "clean")
    assert (clean.correct_8bit == clean.correct).all(), "8-bit images are their own rounding"


def test_order_and_processes_do_not_matter(done, tmp_path):
    names = ["hopskipjump", "eot"]
    shutil.copytree(done[0] / "traits", tmp_path / "store" / "traits")  # these have passed their checks
    again, _ = run(tmp_path / "store", [CELLS[name] for name in names], workers=2)
    same(again, [done[1][name] for name in names])


@pytest.mark.slow  # eight seconds of trials
def test_trials_of_every_kind_of_cell_change_no_record(done, tmp_path):
    again, output = run(tmp_path / "store", list(CELLS.values()), here=True, estimated=True)
    assert "unknown" not in output
    same(again, list(done[1].values()))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["knowledge=full", "purifier=jpeg"], "declares 'bpda'"),
        (["knowledge=decision", "purifier=jpeg"], "gives a decision at most"),
        (["knowledge=bpda", "knowledge.eot=2", "purifier=jpeg"], "draws nothing"),
    ],
)
def test_what_cannot_be_attacked_so_is_skipped_and_the_others_go_on(done, words, reason):
    results, _ = run(done[0], [cell(*PGD, *words), CELLS["blind jpeg"]])
    assert reason in results[0].skipped
    assert results[1].records is not None


def test_a_run_above_the_budget_is_refused_and_says_what_fits(tmp_path):
    ddip = cell(*PGD, "knowledge=bpda", "purifier=ddip", DIP[1])
    with pytest.raises(InputError, match=r"above budget_hours=0.001; (n=\d+ would fit|not even n=1)"):
        run(tmp_path / "store", [ddip], estimated=True, budget_hours=0.001)


def test_a_substitute_that_is_the_victim_is_refused(tmp_path):
    same = cell(*PGD, "knowledge=transfer", "victim@knowledge.victims.first=digits-resnet8")
    with pytest.raises(
        InputError, match=r"knowledge\.victims: expected another .* got digits-resnet8 for both"
    ):
        run(tmp_path, [same])
