"""Every config composes, and the cells of every table are those that its paper prints."""

import re

import pytest
from conftest import composed, config_of, table_of
from omegaconf import OmegaConf

from data.errors import MissingError
from runners.config_errors import names_of
from runners.evaluation.compatibility import victims_for
from runners.evaluation.component import build, to_plain_dict
from runners.evaluation.identity import identity
from runners.places import CONFIGS
from runners.tables.layout import on, part_of
from runners.tables.paper_results import panels_of

GROUPS = ("dataset", "victim", "attack", "knowledge", "purifier")


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g in GROUPS for n in names_of(g) if not n.startswith("own/")]
)
def test_leaf_composes_and_builds(group, name):
    config = config_of(group, name)
    assert re.fullmatch(r"\d+(\.\d+)*", identity(config)["version"]), "expected a declared version"
    for other in config.pop("victims", {}).values():  # victims of a transfer attack, which the runner loads
        build(other)
    if group == "victim" and "network" in config:  # tests/test_victims.py builds it without its megabytes
        return
    try:
        build(config)
    except MissingError as error:  # the user's own files are not here: the message must say which
        assert "do not exist" in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", names_of("network"))
def test_every_network_has_a_purifier_that_it_fits(name):
    kind = composed(f"+network@probe={name}").probe._target_.split(".")[-1]
    purifier = {"SkipNet": "ddip", "Generator": "oag"}.get(kind, "ride")
    built = build(config_of("purifier", purifier, f"network@purifier.trace.network={name}"))
    assert type(built.trace.network).__name__ == kind


def settings_of(table):
    """Return the embedded data and its victim, and the paper's own settings."""
    return [("digits-photos", "digits-resnet8"), *((p.dataset, p.victim) for p in panels_of(table))]


@pytest.mark.parametrize("name", names_of("table"))
def test_a_tables_entries_are_what_their_labels_say(name):
    table = table_of(name)
    for setting in settings_of(table):
        rows, columns = on(table.rows, *setting), on(table.columns, *setting)
        assert len({row.label for row in rows}) == len(rows)
        for column in columns:
            words = [*table.get("cell", []), *column.get("cell", [])]
            read_off = column.get("queries") is not None  # read off a path, at any eps
            assert column.get("eps") is None or read_off or f"attack.eps={column.eps:g}/255" in words


def test_oag_has_the_beta_of_the_images_size():
    """The beta for 32 pixels diverges at 224 pixels."""
    large = ("imagenet", "flower17")
    rows = [
        (dataset, row)
        for name in names_of("table") if name.startswith("oag/") and "tuning" not in name
        for table in [table_of(name)] for dataset, victim in settings_of(table)
        for row in on(table.rows, dataset, victim) if "purifier=oag" in row.cell
    ]  # fmt: skip
    assert len(rows) > 20
    for dataset, row in rows:
        assert ("trace@purifier.trace=oag-imagenet" in row.cell) == (dataset in large), (dataset, row.label)


@pytest.mark.parametrize("budget", ["700", "null"])
def test_the_adaptive_tables_budget_is_that_of_its_columns(budget):
    table = composed("table=adaptive", f"table.budget={budget}", config="table").table
    columns = on(table.columns, "digits-photos", "digits-resnet8")
    of_adaptive = [column for column in columns if "attack=adaptive" in column.cell]
    assert len(of_adaptive) > 3
    assert all(f"attack.budget={budget}" in column.cell for column in of_adaptive)
    attack = build(to_plain_dict(composed(*of_adaptive[0].cell).attack))
    assert str(attack.budget) == budget.replace("null", "None")


@pytest.mark.slow
def test_every_cell_of_every_table_composes_and_builds():
    """Each set of names and parameters is composed once, whatever the values, because composing is slow."""
    distinct = {}
    for table in (table_of(name) for name in names_of("table")):
        for dataset, victim in settings_of(table):
            rows, columns = on(table.rows, dataset, victim), on(table.columns, dataset, victim)
            for row, column in {(rows[0], column) for column in columns} | {
                (row, columns[0]) for row in rows
            }:
                words = [*table.get("cell", []), *row.get("cell", []), *column.get("cell", [])]
                alike = frozenset(word.split("=")[0] if "." in word.split("=")[0] else word for word in words)
                distinct.setdefault(alike, [f"dataset={dataset}", *words])
    of_parts = {}
    for words in distinct.values():  # a part composes in the same way whatever the others are
        for part in ("attack", "knowledge", "purifier"):
            own_words = [word for word in words[1:] if part_of(word) == part]
            alike = (
                part,
                frozenset(word.split("=")[0] if "." in word.split("=")[0] else word for word in own_words),
            )
            of_parts.setdefault(alike, [words[0], *own_words])
    assert len(of_parts) > 60
    for (part, _), words in of_parts.items():
        config = to_plain_dict(composed(*words)[part])
        config.pop("victims", None)  # victims of a transfer attack, which the runner loads
        try:
            build(config)
        except MissingError as error:
            assert "do not exist" in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", names_of("table"))
def test_a_tables_file_says_what_it_is(name):
    """The file gives its command, and all its keys are known."""
    text = (CONFIGS / "table" / f"{name}.yaml").read_text()
    assert "python -m runners.table" in text or "make " in text
    table = table_of(name)
    known = {"title", "paper", "printed", "panels", "metric", "split", "n", "cell", "average", "worst"}
    known |= {"draws", "budget"}
    assert set(table) - known == {"rows", "columns"}
    entries = {"label", "defense", "attack", "eps", "norm", "queries", "params", "metric", "cell", "for"}
    for entry in [*table.rows, *table.columns]:
        assert set(entry) <= entries
        for key, changes in entry.get("for", {}).items():
            assert key in names_of("dataset") or key in names_of("victim")
            assert changes is None or set(changes) <= entries - {"for"} | {"also"}


def test_fractions_are_numbers():
    config = OmegaConf.create({"eps": "8/255", "alpha": " 0.4/255", "name": "a/b", "list": ["1/30", 3]})
    assert to_plain_dict(config) == {"eps": 8 / 255, "alpha": 0.4 / 255, "name": "a/b", "list": [1 / 30, 3]}


def test_identity_knows_content_not_places():
    file = {"_target_": "data.weights.WeightFile", "path": "/here/w.pt", "sha256": "ab", "source": "x"}
    assert identity(file) == identity(file | {"path": "/there/w.pt"})
    assert identity(file) != identity(file | {"sha256": "cd"})


def test_victims_are_listed_by_what_they_know():
    victims = victims_for("cifar10")
    assert victims == sorted(victims)
    assert {"resnet20", "resnet50", "resnet56", "vit"} <= set(victims)
    assert "imagenet/resnet50" in victims_for("imagenet")
    assert victims_for("nothing") == []
