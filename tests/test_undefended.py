"""A table on the paper's own data and victim compares its bare victim with the paper's."""

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_grid import cell

from runners import table
from runners.evaluation.queue import Launch
from runners.evaluator import CellResult, Evaluator
from runners.places import CONFIGS
from runners.tables.paper_results import PaperSetting, printed
from runners.tables.undefended import above, flag_weak
from runners.validity.evidence import Flag

TABLE = OmegaConf.create(
    {
        "paper": "ddip",
        "printed": "table1",
        "panels": [{"dataset": "cifar10", "victim": "resnet50", "n": 1000}],
        "metric": "accuracy",
    }
)
PAPER = printed(
    TABLE, PaperSetting("cifar10", "resnet50", 1000)
)  # without a defense: FGSM 44.4, PGD 0.0, C&W 0.9


def records(kept: int, n: int) -> pd.DataFrame:
    """Return records of a defense that keeps all images, and of a bare victim that keeps some."""
    kept = np.where(np.arange(n) < kept, 1, 0)
    return pd.DataFrame({"label": 1, "adversarial_label": kept, "correct": True, "id": range(n)})


def entry(column: dict, *words: str, kept: int = 100, n: int = 100, flags=(), **row) -> list[Flag]:
    """Return the flags of one entry, compared with the paper."""
    result = CellResult(cell(*words), records(kept, n), flags=list(flags), provenance={"flags": {}})
    row = OmegaConf.create({"label": "DDIP", "defense": "ddip", **row})
    flag_weak([(row, OmegaConf.create({"label": "x", **column}), result)], PAPER)
    assert set(result.provenance["flags"]) == {flag.name for flag in result.flags} or not result.flags
    return result.flags


FGSM, PGD = {"attack": "fgsm", "eps": 8}, {"attack": "pgd", "eps": 8}
CASES = [  # column, words, how many of how many the undefended victim keeps, whether the attack is weak
    (FGSM, ["attack=fgsm"], 60, 100, True),
    (FGSM, ["attack=fgsm"], 53, 100, False),  # [43.3, 62.5]
    (FGSM, ["attack=fgsm"], 530, 1000, True),
    (FGSM, ["attack=fgsm"], 0, 1000, False),
    (PGD, ["attack=pgd"], 0, 1000, False),
    (PGD, ["attack=pgd"], 1, 1000, True),
    ({"attack": "cw"}, ["attack=cw"], 4, 16, True),
    ({"attack": "clean"}, ["attack=clean"], 1000, 1000, False),
    (FGSM, ["attack=fgsm", "knowledge=bpda"], 90, 100, False),
    ({"attack": "nowhere printed"}, ["attack=fgsm"], 100, 100, False),
]


@pytest.mark.parametrize(("column", "words", "kept", "n", "weak"), CASES)
def test_an_attack_is_weak_where_the_bare_victim_keeps_more_than_the_papers(column, words, kept, n, weak):
    flags = entry(column, *words, kept=kept, n=n)
    assert [flag.name for flag in flags] == ["attack_weak"] * weak


def test_it_says_both_figures_and_stands_once():
    others = [Flag("attack_weak", "the undefended victim keeps 60.0 %"), Flag("incomplete", "without bpda")]
    flags = entry(FGSM, "attack=fgsm", kept=60, flags=others)
    assert flags == [
        others[1],
        Flag("attack_weak", "the undefended victim keeps 60.0 % [50.2, 69.1], the paper's keeps 44.4 %"),
    ]


def test_an_interval_that_ends_at_the_printed_figure_is_no_reason():
    assert above(records(0, 10), 0.0) is None


@pytest.mark.parametrize(
    ("words", "flagged"),
    [
        ([], True),
        (["n=20"], True),
        (["audit=off"], False),
        (["victim=resnet20"], False),
        (["dataset=digits-photos", "victim=digits-resnet8"], False),
    ],
    ids=str,
)
def test_only_the_papers_own_setting_is_held_against_it(monkeypatch, tmp_path, words, flagged):
    """The number of images does not matter, because the interval takes it into account."""
    panel = "table.panels=[{dataset:cifar10,victim:resnet56,n:50}]"
    words = ["table=ddip/table1", "dataset=cifar10", "victim=resnet56", "n=50", panel, *words]
    words += ["table.rows=[{label:Bare,defense:none,cell:['purifier=none']}]"]
    words += ["table.columns=[{label:FGSM,attack:fgsm,eps:8,cell:['attack=fgsm']}]"]
    words += [f"tables={tmp_path}", f"records={tmp_path}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("table", words, return_hydra_config=True)
        comparisons = []
        monkeypatch.setattr(table, "printed", lambda *_: PAPER)
        monkeypatch.setattr(
            Evaluator, "evaluate", lambda self, cells, request: [CellResult(c, failed="x") for c in cells]
        )
        monkeypatch.setattr(table, "flag_weak", lambda *given: comparisons.append(given))
        with pytest.raises(table.app.FailedCellsError):
            table.make(config, config.hydra.runtime.choices, [], Launch())
    assert bool(comparisons) == flagged
