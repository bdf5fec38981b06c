"""Evaluations that are known to be wrong, and what the harness says of each."""

import pytest
from test_grid import cell, run

from runners.evaluation.estimator import Estimator
from runners.validity import audit
from victims.victim import Victim

BALL = "attack.eps=16/255"
ROW = {
    "clean": ["attack=clean"],
    "full": ["attack=pgd", BALL, "knowledge=full"],
    "bpda": ["attack=pgd", BALL, "knowledge=bpda"],
    "blind": ["attack=pgd", BALL],
    "transfer": ["attack=pgd", BALL, "knowledge=transfer"],
    "score": ["attack=square", BALL, "attack.queries=60", "knowledge=score"],
}


def flags(
    store, columns: list[str], *words: str, purifier: str | None = None, seed: int = 0
) -> dict[str, set[str]]:
    cells = [cell(*ROW[name], *words, purifier=purifier) for name in columns]
    results, _ = run(store, cells, n=24, chunk=8, seed=seed)
    assert [result.failed or result.skipped for result in results] == [None] * len(cells)
    return {
        name: {flag.name for flag in result.flags} - {"small_n"}
        for name, result in zip(columns, results, strict=True)
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("controls")


def steepen(store, monkeypatch) -> None:
    """Scale a trained victim's logits so that the loss of a right answer is 0, and its gradient too."""
    flags(store, ["clean"], "purifier=none")
    logits = Victim.forward
    monkeypatch.setattr(Victim, "forward", lambda self, images: 1000 * logits(self, images))


def test_a_gradient_killer_is_noticed_before_its_first_cell(store):
    results, _ = run(store, [cell(*ROW["full"], purifier="Flat")], n=24, chunk=8)
    assert results[0].failed.startswith("traits: gradient: expected the gradient of central differences")
    assert results[0].records is None


def test_a_victim_without_gradients_is_noticed_by_its_zeros_and_by_black_boxes(store, monkeypatch):
    steepen(store, monkeypatch)
    names = flags(store, ["clean", "blind", "score"], "purifier=none", seed=1)
    assert {"zero_grad", "blackbox_wins"} <= names["blind"] <= {"zero_grad", "blackbox_wins", "attack_weak"}
    assert names["clean"] == names["score"] == set()


@pytest.mark.parametrize(("split", "names"), [("evaluation", {"clean_acc_off"}), ("tuning", set())])
def test_a_published_accuracy_is_that_of_evaluation_images(store, split, names):
    bare = cell("attack=clean", "purifier=none", "+victim.published={digits-photos: 20.0}")
    (result,), _ = run(store, [bare], n=24, chunk=8, split=split)
    assert {flag.name for flag in result.flags} - {"small_n"} == names


def test_the_bare_victim_raises_none(store):
    assert flags(store, ["clean", "blind"], "purifier=none") == {"clean": set(), "blind": set()}


def test_an_attack_that_does_nothing_is_noticed(store, monkeypatch):
    steepen(store, monkeypatch)
    names = flags(store, ["blind"], "attack.random_start=false", "purifier=none", seed=1)
    assert {"noop_attack", "zero_grad"} <= names["blind"] <= {"noop_attack", "zero_grad", "attack_weak"}


def test_a_blind_evaluation_of_jpeg_is_incomplete_and_a_complete_one_is_not(store):
    assert flags(store, ["clean", "blind"], "purifier=jpeg") == {"clean": set(), "blind": {"incomplete"}}
    complete = flags(store, ["clean", "blind", "transfer", "score", "bpda"], "purifier=jpeg")
    assert not any("incomplete" in names for names in complete.values())


def test_a_sound_purifier_raises_none(store):
    """Its attacks are blind, from another classifier, by queries and through its exact gradient."""
    columns = ["clean", "blind", "transfer", "score", "full"]
    assert flags(store, columns, "purifier=gs") == {name: set() for name in columns}


def test_a_victim_that_answers_probabilities_fails_its_cells(store, monkeypatch):
    bare, logits = cell("attack=clean", "purifier=none"), Victim.forward
    run(store, [bare], seed=7)  # it passes its checks first
    monkeypatch.setattr(Victim, "forward", lambda self, images: logits(self, images).softmax(1))
    monkeypatch.setattr(Estimator, "seconds", lambda self, task: 0.0)  # so the work is done in this process
    results, _ = run(store, [bare], seed=8)
    assert "the victim answers with probabilities" in results[0].failed


def test_audit_off_raises_nothing(store):
    results, _ = run(store, [cell(*ROW["blind"], "purifier=jpeg")], n=24, chunk=8, audit="off")
    assert results[0].flags == []


def test_a_probe_that_fails_leaves_the_cell_and_is_said(store, monkeypatch, caplog):
    def broken(worker, task, attacked):
        raise MemoryError("too large")

    monkeypatch.setattr(audit, "noise", broken)
    results, _ = run(store, [cell(*ROW["blind"], "purifier=none")], n=24, chunk=8, seed=5)
    assert results[0].records is not None
    texts = {flag.name: flag.seen for flag in results[0].flags}
    assert texts["probe_failed"] == "1 of 1 probes failed (noise: MemoryError: too large)"
    assert results[0].provenance["flags"]["probe_failed"] == texts["probe_failed"]
    assert "the probe noise failed, so its flag is unknown: too large" in caplog.text


def test_a_full_audit_looks_harder(store, monkeypatch):
    words = ["attack=pgd", "attack.eps=16/255", "attack.alpha=1/255", "attack.steps=2"]
    short = cell(*words, "attack.random_start=false", "purifier=none")
    probed: list[str] = []
    original = audit._seen
    monkeypatch.setattr(
        audit, "_seen", lambda b, name, *rest: probed.append(name) or original(b, name, *rest)
    )
    results, _ = run(store, [short], n=24, chunk=8, seed=6, audit="full")
    assert probed == ["noise", "twice", "unbounded"]
    assert "unbounded_fails" not in {flag.name for flag in results[0].flags}
