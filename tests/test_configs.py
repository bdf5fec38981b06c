"""Every config composes, and every table's cells are what its paper prints."""

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from data.errors import MissingError
from runners.app import CONFIGS, names_of
from runners.components import build, identity, plain, victims_for
from runners.table import published_figures, words

GROUPS = ("dataset", "victim", "attack", "knowledge", "purifier")


@pytest.fixture(autouse=True)
def hydra_here():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in GROUPS for n in names_of(g)])
def test_leaf_composes_and_builds(group, name):
    config = plain(compose("evaluate", [f"{group}={name}"])[group])
    assert identity(config)["version"] >= 1
    for other in config.pop("victims", {}).values():  # of a transfer attack; whoever runs it loads them
        build(other)
    try:
        build(config)
    except MissingError as error:  # the user's own files are not here: the message must say which
        assert "do not exist" in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", names_of("network"))
def test_every_network_has_a_purifier_that_it_fits(name):
    kind = compose("evaluate", [f"+network@probe={name}"]).probe._target_.split(".")[-1]
    purifier = {"SkipNet": "ddip", "Generator": "oag"}.get(kind, "ride")
    words = [f"purifier={purifier}", f"network@purifier.trace.network={name}"]
    assert type(build(plain(compose("evaluate", words).purifier)).trace.network).__name__ == kind


@pytest.mark.parametrize("name", names_of("table"))
def test_table_composes_and_its_cells_too(name):
    table = compose("table", [f"table={name}"]).table
    assert len({row.label for row in table.rows}) == len(table.rows)
    for column in table.columns:
        compose("evaluate", list(column.cell))
        read_off = column.get("queries") is not None  # off a path, at any eps
        assert column.get("eps") is None or read_off or f"attack.eps={column.eps}/255" in column.cell
    for row in table.rows:
        compose("evaluate", list(row.cell))


@pytest.mark.parametrize(("name", "cells"), [("ddip/table1", 15), ("ddip/table2", 15)])
def test_published_figures_belong_to_exactly_one_cell(name, cells):
    table = compose("table", [f"table={name}"]).table
    paper = published_figures(table)
    assert len(table.columns) == cells
    for row in table.rows:
        if row.get("defense") is None:
            continue
        mine = paper[paper.defense == row.defense]
        keys = [(c.attack, float(c.get("eps", float("nan")))) for c in [*table.columns, table.average]]
        found = [(a, e) for a, e in zip(mine.attack, mine.eps_255, strict=True)]
        assert pd.Series(keys).astype(str).sort_values().tolist() in (
            pd.Series(found).astype(str).sort_values().tolist(),
            ["dropped"] if len(found) else pd.Series(keys).astype(str).sort_values().tolist(),
        )


def test_fractions_are_numbers():
    config = OmegaConf.create({"eps": "8/255", "alpha": " 0.4/255", "name": "a/b", "list": ["1/30", 3]})
    assert plain(config) == {"eps": 8 / 255, "alpha": 0.4 / 255, "name": "a/b", "list": [1 / 30, 3]}


def test_identity_knows_content_not_places():
    file = {"_target_": "data.weights.WeightFile", "path": "/here/w.pt", "sha256": "ab", "source": "x"}
    assert identity(file) == identity(file | {"path": "/there/w.pt"})
    assert identity(file) != identity(file | {"sha256": "cd"})


def test_victims_are_listed_by_what_they_know():
    assert victims_for("cifar10") == ["resnet20", "resnet56"]
    assert victims_for("nothing") == []


@pytest.mark.parametrize("name", names_of("table"))
def test_what_a_data_set_has_of_its_own_composes_too(name):
    table = compose("table", [f"table={name}"]).table
    known = {"label", "defense", "eps", "queries", "attack", "cell", "for"}
    for entry in [*table.rows, *table.columns]:
        assert set(entry) <= known
        for dataset in entry.get("for", {}):
            assert dataset in names_of("dataset")
            assert words(entry, dataset) != words(entry, "digits-photos") == list(entry.cell)
            compose("evaluate", [f"dataset={dataset}", *words(entry, dataset)])
