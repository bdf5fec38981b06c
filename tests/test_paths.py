"""Accuracy at a number of queries is read off an attack's path, and only if there is one."""

import pandas as pd
import pytest
from omegaconf import OmegaConf
from test_grid import cell

from data.errors import InputError
from runners import table
from runners.evaluation.metrics import survived

PATHS = pd.Series([[(5, 0.2), (20, 0.01)], [(0, 0.0)], [(5, 0.2)]])


def test_an_image_stands_until_something_within_eps_was_found():
    assert survived(PATHS, eps=0.05, queries=10).tolist() == [True, False, True]
    assert survived(PATHS, eps=0.05, queries=20).tolist() == [False, False, True]


def test_a_missing_path_is_no_robustness():
    with pytest.raises(InputError, match="expected a path of the attack for each image, got none for 2 of 5"):
        survived(pd.Series([*PATHS, [], []]), eps=0.05, queries=10)


@pytest.mark.parametrize(
    ("column", "words", "message"),
    [
        (
            {"queries": 9, "eps": 8},
            ["attack=pgd"],
            "R / C has queries=9: expected an attack that records its path",
        ),
        ({"queries": 9, "eps": 8}, ["attack=clean"], "such as hopskipjump, got clean"),
        ({"queries": 9}, ["attack=hopskipjump"], "expected the eps at which the path is read"),
    ],
)
def test_a_table_that_cannot_be_read_off_is_refused_before_any_work(column, words, message):
    entries = OmegaConf.create({"label": "R"}), OmegaConf.create({"label": "C", **column})
    with pytest.raises(InputError, match=message):
        table.readable([(*entries, cell(*words))])


def test_a_column_of_an_attack_with_a_path_is_accepted():
    entries = OmegaConf.create({"label": "R"}), OmegaConf.create({"label": "C", "queries": 9, "eps": 8})
    hopskipjump = cell("attack=hopskipjump", "attack.norm=linf", "knowledge=decision")
    assert table.readable([(*entries, hopskipjump)]) is None
