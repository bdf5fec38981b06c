"""Entries of the leaderboard are checked, replayed and ranked, and edited ones are refused."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from test_grid import cell, run
from test_replay import changed

from runners import app
from runners.evaluate import save_records
from runners.leaderboard import __main__ as leaderboard
from runners.leaderboard import board, pages
from runners.leaderboard.entry import Entry
from runners.leaderboard.memory import bytes_taken
from runners.validity.record_file import RecordFile

CARD = {"purifier": "JPEG", "paper": "Das et al. 2017", "link": "https://arxiv.org/abs/1705.02900",
        "weights_sha256": None, "run_by": "somebody"}  # fmt: skip
KINDS = {
    "jpeg": {
        "clean": cell("attack=clean", "purifier=jpeg"),
        "blind": cell("attack=fgsm", "purifier=jpeg"),
        "bpda": cell("attack=fgsm", "knowledge=bpda", "purifier=jpeg"),
    },
    "none": {"clean": cell("attack=clean", "purifier=none"), "blind": cell("attack=fgsm", "purifier=none")},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a folder with the record files of two entries."""
    folder = tmp_path_factory.mktemp("made")
    cells = [(name, kind, each_cell) for name, kinds in KINDS.items() for kind, each_cell in kinds.items()]
    results, _ = run(folder / "store", [each_cell for *_, each_cell in cells], n=4)
    paths = {
        (name, kind): save_records(r, folder / name)
        for (name, kind, _), r in zip(cells, results, strict=True)
    }
    return SimpleNamespace(
        where=folder, files={n: [p for (m, _), p in paths.items() if m == n] for n in KINDS}
    )


@pytest.fixture
def add(made, command, tmp_path):
    def call(files, card=CARD, **settings):
        (tmp_path / "card.yaml").write_text(card if isinstance(card, str) else yaml.safe_dump(card))
        arguments = {"name": "mine", "sample": 2, "workers": 1} | settings
        words = [f"{name}={value}" for name, value in arguments.items()]
        words += [f"card={tmp_path}/card.yaml", f"files=[{','.join(map(str, files))}]"]
        words += [f"store={made.where}/store", f"leaderboard={tmp_path}/board"]
        return command(leaderboard.main, "leaderboard", "action=add", *words)

    return call


def test_a_sound_entry_is_taken_and_shown(add, made, tmp_path):
    status, out, err = add(made.files["jpeg"])
    assert status == 0, err
    assert "added mine" in out
    folder = tmp_path / "board" / "entries" / "mine"
    assert folder.stat().st_mode == (tmp_path / "board").stat().st_mode, (
        "the entry has other permissions than the board"
    )
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    card = yaml.safe_load((folder / "card.yaml").read_text())
    assert len(card["records"]) == len(card["replayed"]) == 3
    assert card["bytes_an_image"] > 0
    page = (tmp_path / "board" / "index.html").read_text()
    assert "http://" not in page.replace("https://", "")
    for path in made.files["jpeg"]:
        assert f"entries/mine/{path.name}" in page
    table = pd.read_csv(tmp_path / "board" / "leaderboard.csv").set_index("column")
    assert set(table.index) == {"clean", "blind", "bpda", "worst", "worst of draws"}
    assert not table.complete.any(), "the entry has no query attack"
    right = [pd.read_parquet(path).set_index("id").correct for path in made.files["jpeg"]]
    assert table.value["worst"] == pytest.approx(100 * (right[0] & right[1] & right[2]).mean())
    assert (
        "| 1 | [JPEG](https://arxiv.org/abs/1705.02900) |"
        in (tmp_path / "board" / "leaderboard.md").read_text()
    )

    record = folder / next(iter(card["records"]))
    record.write_bytes(record.read_bytes() + b" ")
    with pytest.raises(leaderboard.InputError, match="it was edited after its replay"):
        Entry.read(folder)


def flipped(frame):
    """Forge records without a contradiction: the defense is right on every image."""
    frame = frame.copy()
    frame["purified_label"] = frame.label
    for name in ("correct", "correct_majority", "correct_any", "correct_all"):
        frame[name] = True
    frame["correct_mean"] = 1.0
    return frame


def one_flag(frame):
    return frame.assign(correct=~frame.correct)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (flipped, "but a replay gives"),
        (
            one_flag,
            "expected correct where purified_label is label, got other values; it may have been edited",
        ),
        (lambda frame: frame.assign(linf=0.5), "expected linf of at most the attack's eps"),
        (lambda frame: frame.drop(columns="moved"), "it lacks moved"),
        (lambda frame: frame.assign(purifier="ddip"), "expected the names of its provenance"),
        (lambda frame: frame.iloc[:3], "damaged: expected image ids of sha256"),
    ],
    ids=["decisions", "flag", "norm", "column", "name", "row"],
)
def test_records_edited_by_hand_are_refused(add, made, tmp_path, records, expected):
    clean, blind, _ = made.files["jpeg"]
    status, _, err = add([clean, changed(blind, tmp_path, records=records)], sample=4)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert expected in err
    assert not (tmp_path / "board" / "entries" / "mine").exists()


@pytest.mark.parametrize(
    ("files", "card", "settings", "expected"),
    [
        (lambda f: f["jpeg"][:1], CARD, {}, "it lacks attacks"),
        (lambda f: f["jpeg"][1:], CARD, {}, "it lacks clean images"),
        (lambda f: [f["jpeg"][0], f["none"][1]], CARD, {}, "expected the purifier of "),
        (lambda f: [], CARD, {}, "expected record files, got none"),
        (lambda f: f["jpeg"], CARD | {"weights_sha256": "0" * 64}, {}, "expected null, the weights of "),
        (lambda f: f["jpeg"], CARD | {"weights_sha256": "ab"}, {}, "expected 64 hexadecimal digits or null"),
        (lambda f: f["jpeg"], CARD | {"link": "javascript:alert(1)"}, {}, "link: expected https?://"),
        (lambda f: f["jpeg"], CARD | {"purifier": "${oc.env:HOME}"}, {}, "got an interpolation"),
        (lambda f: f["jpeg"], CARD | {"rank": 1}, {}, "got 'rank' too"),
        (lambda f: f["jpeg"], "!!python/object/apply:os.system [ls]", {}, "expected a card as YAML"),
        (lambda f: f["jpeg"], CARD, {"name": "'../x'"}, "name: expected small letters"),
        (lambda f: f["jpeg"], CARD, {"sample": 0}, "sample: expected 1 image or more, got 0"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:20],
)
def test_bad_entries_are_one_line(add, made, tmp_path, files, card, settings, expected):
    status, _, err = add(files(made.files), card, **settings)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert expected in err
    assert not list((tmp_path / "board").rglob("card.yaml"))


def test_complete_entries_rank_above_incomplete_ones(made):
    card = CARD | {"records": {}, "replayed": [], "bytes_an_image": None}
    entries = [Entry.of(name, card | {"purifier": f"<{name}>"}, files) for name, files in made.files.items()]
    ((setting, rows),) = board.boards(entries).items()
    assert setting == ("digits-photos", "digits-resnet8")
    assert [row.entry.name for row in rows] == ["none", "jpeg"]
    assert rows[0].worst <= rows[1].worst, "the bare victim is complete, however weak it is"
    assert [row.complete for row in rows] == [True, False]
    page = pages.html({setting: rows}, folder=made.where / "entries")
    assert page.count('<span class="warn">incomplete') == 1
    assert "&lt;none&gt;" in page
    assert "<none>" not in page
    assert json.dumps(rows[0].draws) == "1"


@pytest.mark.parametrize("honest", [True, False])
def test_an_image_that_differs_alone_is_run_again_with_its_chunk(made, monkeypatch, honest):
    """The victim of this test decides differently about an image that is alone."""
    file = RecordFile.read(made.files["jpeg"][0])
    chunk, asked = file["settings"]["chunk"], []

    def remade(file, config, *, only):
        asked.append(len(only))
        frame = pd.read_parquet(file.path)
        frame = frame[frame.id.isin(only)]
        if len(only) == 1 or not honest:
            frame = frame.assign(purified_label=(frame.purified_label + 1) % 10)
        return SimpleNamespace(records=frame), []

    monkeypatch.setattr(leaderboard.replay, "remade", remade)
    config = SimpleNamespace(sample=1)
    if honest:
        assert "1 of" in leaderboard.again(file, config)
    else:
        with pytest.raises(leaderboard.InputError, match=r"purified_label of .* but a replay gives"):
            leaderboard.again(file, config)
    assert asked == [1, min(chunk, len(pd.read_parquet(file.path)))]


@pytest.mark.parametrize(
    ("part", "name", "value", "expected"),
    [
        ("settings", "split", "tuning", "split"),
        ("settings", "seed", 7, "seed"),
        ("settings", "subset", "two-correct-per-class", "subset"),
        ("victim", "size", 16, "victim"),
        ("attack", "eps", 1 / 255, "norm and eps of the attacks"),
    ],
)
def test_entries_that_cannot_be_compared_are_not_ranked_together(made, tmp_path, part, name, value, expected):
    """An entry under a smaller eps, on other images or with another victim would take the first rank."""

    def tell(facts):
        if part == "settings":
            facts["settings"][name] = value
        elif part == "victim" or "eps" in facts["configs"]["attack"]:
            facts["configs"][part][name] = value

    files = []
    for i, path in enumerate(made.files["jpeg"]):
        (tmp_path / str(i)).mkdir()
        within = (lambda frame: frame.assign(linf=0.0)) if part == "attack" else None
        files.append(changed(path, tmp_path / str(i), records=within, told=tell))
    card = CARD | {"records": {}, "replayed": [], "bytes_an_image": None}
    entries = [Entry.of("none", card, made.files["none"]), Entry.of("jpeg", card, files)]
    with pytest.raises(leaderboard.InputError, match=f"jpeg: expected the {expected} of none, beside which"):
        board.boards(entries)


def test_equally_robust_entries_share_a_rank_and_are_ordered_by_clean_accuracy():
    def row(name: str, *, clean: float, worst: float, complete: bool = True) -> SimpleNamespace:
        figures = {board.CLEAN: SimpleNamespace(figure=SimpleNamespace(value=clean))}
        return SimpleNamespace(
            entry=SimpleNamespace(name=name), figures=figures, worst=worst, complete=complete
        )

    rows = [row("a", clean=80.0, worst=0.0), row("b", clean=90.0, worst=0.0), row("c", clean=50.0, worst=9.0)]
    rows = board.ranked([*rows, row("d", clean=99.0, worst=30.0, complete=False)])
    assert [row.entry.name for row in rows] == ["c", "b", "a", "d"]
    assert board.ranks(rows) == [1, 2, 2, 4]


def test_no_entries_is_said(command, tmp_path):
    status, _, err = command(leaderboard.main, "leaderboard", f"leaderboard={tmp_path}")
    assert status == 2
    assert "expected entries in" in err
    status, _, err = command(leaderboard.main, "leaderboard", "action=remove")
    assert "action: expected add or render, got 'remove'" in err


def test_memory_is_the_most_that_is_held_at_once():
    import torch

    def work():
        for _ in range(3):
            tensor = torch.zeros(1000, dtype=torch.float32)
            tensor = tensor + 1

    assert bytes_taken(work, torch.device("cpu")) == 8000


def test_the_pages_of_the_repository_are_those_of_its_entries():
    folder = app.CONFIGS.parent / "results" / "leaderboard"
    boards = board.boards(board.entries_in(folder / "entries"))
    assert (folder / "leaderboard.md").read_text(encoding="utf-8") == pages.markdown(boards)
    assert (folder / "leaderboard.csv").read_text(encoding="utf-8") == pages.csv(boards)
