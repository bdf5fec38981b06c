"""The W&B workspace of a table: its specification, built without a login."""

import json

import pytest
from conftest import table_of

from scripts.wandb_dashboard import built, spec_of, varying

pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces (pip install -e '.[dashboard]')")


@pytest.fixture(scope="module")
def spec() -> dict:
    return spec_of(built(table_of("ddip/table1"), "ddip/table1", entity="someone", project="purifybench"))


def test_it_has_the_reports_panels(spec):
    sections = {s["name"]: s["panels"] for s in spec["section"]["panelBankConfig"]["sections"]}
    names = ["Figures", "Curves", "Cost against robustness", "Images", "Table"]
    assert [name for name in sections if name in names] == names
    over_eps = sections["Curves"][0]["config"]
    assert "attack" in json.dumps(over_eps["xAxis"])
    assert "accuracy" in json.dumps(over_eps["yAxis"])
    assert "purify_seconds" in json.dumps(sections["Cost against robustness"][0])
    assert "pictures" in json.dumps(sections["Images"])


def test_it_shows_the_runs_of_this_table_only(spec):
    assert '"ddip/table1"' in json.dumps(spec["section"]["runSets"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "ddip/fig7",
            ["attack.steps", "purifier.crossings", "purifier.push", "purifier.similarity", "purifier.warmup"],
        ),
        ("oag/fig4", ["purifier.network_steps"]),
        ("ncis/fig6", ["attack.steps"]),
    ],
)
def test_a_panel_for_every_number_that_the_cells_differ_in(name, expected):
    assert set(expected) <= set(varying(table_of(name)))
    assert "attack.alpha" not in varying(table_of(name))
