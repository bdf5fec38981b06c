"""The cells that the leaderboard's script evaluates, and the cards that it writes."""

import pytest
from hydra import compose, initialize_config_dir

from data.errors import InputError
from runners.evaluation.component import to_plain_dict
from runners.places import CONFIGS
from scripts import entries

BASIC = ["clean none", "apgd none", "apgd transfer"]
QUICK = ["apgd bpda", "square score"]


def config_of(name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return to_plain_dict(compose("evaluate", [f"purifier={name}"]).purifier)


@pytest.mark.parametrize(
    ("name", "expected", "paper"),
    [
        ("jpeg", [*BASIC, *QUICK], "Guo et al. 2017"),
        ("mean", [*BASIC, *QUICK, "apgd full"], "Li and Li 2016"),
        ("dip", BASIC, "Ulyanov et al. 2017"),
        ("randomization", [*BASIC, *QUICK, "apgd full"], "Xie et al. 2017"),  # "and others" in BibTeX
    ],
)
def test_a_purifier_is_attacked_as_its_traits_allow_and_named_by_its_paper(
    name, expected, paper, monkeypatch
):
    config = config_of(name)
    of_transfer = {"victim@knowledge.victims.first": "resnet20"}
    words = ["n=64", *(f"{key}={value}" for key, value in of_transfer.items())]
    settings = [dict(word.split("=") for word in sweep) for sweep in entries.sweeps(name, config, words)]
    assert {sweep["n"] for sweep in settings} == {"64"}
    assert [of_transfer.items() <= sweep.items() for sweep in settings] == [
        sweep.get("knowledge") == "transfer" for sweep in settings
    ], "only a transfer attack gets the settings of its classifiers"
    assert {sweep["purifier"] for sweep in settings} == {name}
    assert [f"{sweep['attack']} {sweep.get('knowledge', 'none')}" for sweep in settings] == expected
    monkeypatch.setattr(
        entries.RecordFile, "read", lambda path: {"weights": {"purifier": {"sha256": "a" * 64}}}
    )
    card = entries.card_of(name, config, ["a.parquet"])
    assert (card["purifier"], card["paper"], card["weights_sha256"]) == (name, paper, "a" * 64)


def test_a_purifier_without_a_paper_needs_a_card_of_ones_own():
    with pytest.raises(InputError, match="none: expected a purifier that links to a paper"):
        entries.card_of("none", config_of("none"), [])


@pytest.mark.parametrize(("words", "said"), [([], "got none"), (["jpgg", "n=4"], "got jpgg")])
def test_it_needs_names_of_purifiers(words, said):
    with pytest.raises(InputError, match=said):
        entries.main(words)


def test_a_failure_does_not_stop_the_others_and_what_is_there_is_left_out(tmp_path, monkeypatch):
    tried = []

    def add(name, config, words, board):
        tried.append((name, words))
        if name == "jpeg":
            raise entries.subprocess.CalledProcessError(1, "evaluate")

    monkeypatch.setattr(entries, "add", add)
    (tmp_path / "entries" / "median").mkdir(parents=True)
    of_transfer = "victim@knowledge.victims.first=resnet20"
    assert entries.main(["jpeg", "median", "mean", of_transfer, f"leaderboard={tmp_path}"]) == 1
    assert tried == [("jpeg", ["n=64", of_transfer]), ("mean", ["n=64", of_transfer])]
