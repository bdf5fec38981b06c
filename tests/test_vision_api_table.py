"""Purifiers in front of vision APIs, end to end on embedded data: what is kept, counted and printed."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from runners import app
from runners.evaluation.component import to_plain_dict
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from runners.vision_api import __main__ as vision_api
from tests.vision_api import Tripled

QUICK = ["network._target_=tests.vision_api.Flat", "weights.epochs=1", "weights.dataset.copies=1"]
ROWS = (
    '[{label: No defense, defense: none, cell: ["purifier=none"]},'
    '{label: JPEG, defense: jpeg, cell: ["purifier=jpeg"]},'
    '{label: GS, defense: gs, cell: ["purifier=gs"], iterations: [1, 3]}]'
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return a store that holds a quickly trained victim."""
    folder = tmp_path_factory.mktemp("trained")
    load_or_train(_victim(), Store(folder))
    return folder


def _victim() -> dict:
    with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
        words = [f"victim.{word}" for word in QUICK]
        return to_plain_dict(compose("evaluate", ["victim=digits-resnet8", *words]).victim)


def named(word: str) -> str:
    """Return the name of what a word of the command line sets; for a group, its last part."""
    return word.split("=")[0].rpartition("/")[2]


@pytest.fixture
def table(command, tmp_path, trained, vision):
    """Return a function that runs the embedded benchmark against a service.

    The classifier behind the service is the attacked one itself.
    """
    store = Store(trained)
    vision.labeller.victim = Tripled(load_or_train(_victim(), store).load(store))
    vision.labeller.classes = [f"class {i}{part}" for i in range(10) for part in "abc"]

    def call(*words, store=tmp_path / "store", rows=ROWS) -> tuple[int, str, Path]:
        (store / "weights").parent.mkdir(parents=True, exist_ok=True)
        if not (store / "weights").exists():
            (store / "weights").symlink_to(trained / "weights")
        base = ["vision_api/table=embedded", f"service.url={vision.address}/labels", "service.per_second=1e6",
                "victim@knowledge.victims.first=digits-resnet8", "service.labels=3",
                "attack.targeted=false", "n=48", "chunk=16", "pairs=4", "validation=2",
                *(f"knowledge.victims.first.{word}" for word in QUICK)]  # fmt: skip
        names_set = {named(word) for word in words}
        base = [word for word in base if not {named(word), word.split(".")[0]} & names_set]
        if names_set & {"knowledge", "table"}:
            base = [word for word in base if "knowledge." not in word]
        places = [
            f"rows={rows}",
            f"store={store}",
            f"tables={tmp_path}/tables",
            f"records={tmp_path}/records",
        ]
        status, out, err = command(vision_api.main, "vision_api", *base, *words, *places)
        return status, out + err, tmp_path / "tables"

    return call


def test_the_table_has_every_purifier_and_a_second_run_costs_nothing(table, vision):
    status, output, folder = table()
    assert status == 0, output
    first = pd.read_csv(folder / "embedded-apis-http.csv")
    bare = first[first.row == "No defense"].set_index("images").value
    assert (bare["standard"] == 1).all()
    assert (bare["robust"] == 0).all()
    assert len(first) == 3 * 3 * 2
    assert first[["value", "low", "high"]].notna().all(axis=None)
    assert ((first.low <= first.value) & (first.value <= first.high) & (first.n == 4)).all()
    jpeg = first[(first.row == "JPEG") & (first.metric == "top5") & (first.images == "standard")]
    assert "at most" in output
    assert "calls=20000 is the cap" in output
    records = pd.read_parquet(folder / "embedded-apis-http-records.parquet")
    mine = records[(records.purifier == "jpeg") & (records.part == "test")]
    assert jpeg.value.item() == pytest.approx(mine.top5_clean.mean())
    assert (
        len(records) == 3 * 4 + 2 * 2
    )  # test pairs of each row, validation pairs of each number of iterations
    assert all(
        len(set(a) & set(b)) == 0 for a, b in zip(mine.clean_labels, mine.adversarial_labels, strict=True)
    )
    assert set(records[records.part == "test"].id) & set(records[records.part == "validation"].id) == set()
    asked = vision.counted("http")
    assert table()[0] == 0
    assert vision.counted("http") == asked
    assert pd.read_csv(folder / "embedded-apis-http.csv").equals(first)
    text = (folder / "embedded-apis-http.md").read_text()
    assert "3 labels (the paper: 5)" in text
    assert "no verdict: the services change" in text


@pytest.mark.slow
def test_runs_that_are_stopped_by_the_cap_end_where_a_whole_one_does(table, vision, tmp_path):
    assert table()[0] == 0
    whole, asked = pd.read_csv(tmp_path / "tables/embedded-apis-http.csv"), vision.counted("http")
    vision.labeller.calls.clear()
    other, statuses, counts = tmp_path / "other", [], []
    while not statuses or statuses[-1]:
        before = vision.counted("http")
        statuses.append(table("calls=17", store=other)[0])
        counts.append(vision.counted("http") - before)
        assert len(statuses) < 9
    assert len(statuses) > 2
    assert set(statuses[:-1]) == {1}
    assert max(counts) <= 17
    assert vision.counted("http") == asked
    assert pd.read_csv(tmp_path / "tables/embedded-apis-http.csv").equals(whole)


@pytest.mark.slow
def test_a_fault_fails_what_needed_the_answer_and_the_next_run_mends_it(table, vision, tmp_path):
    assert table()[0] == 0
    whole, other = pd.read_csv(tmp_path / "tables/embedded-apis-http.csv"), tmp_path / "other"
    assert table(store=other, rows='[{label: No defense, cell: ["purifier=none"]}]')[0] == 0
    vision.labeller.faults = ["broken"]  # the first new call is of JPEG
    status, output, folder = table("service.attempts=1", store=other)
    broken = pd.read_csv(folder / "embedded-apis-http.csv")
    assert status == 1
    assert "no answer in 1 attempts; the last: 500" in output
    assert broken[broken.row == "JPEG"].value.isna().all()
    assert (broken[broken.row == "JPEG"].status == "failed").all()
    assert broken[broken.row == "GS"].value.notna().all()
    assert table(store=other)[0] == 0
    assert pd.read_csv(folder / "embedded-apis-http.csv").equals(whole)


def test_a_service_with_fewer_labels_than_count_gives_no_pairs_and_it_is_said(table, vision):
    vision.labeller.fewer = 18  # of the twenty that it would name
    status, output, _ = table("n=16")
    assert status == 1
    assert "0 kept a label, 16 have fewer than 3 labels" in " ".join(output.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vision_api/service=asw"], "no vision_api is called 'service/asw' (did you mean 'service/aws'?)"),
        (["victim=digits-resnet8"], "no option is called 'victim'"),
        (["vision_api/service=clarifai"], "service clarifai: no credentials: set CLARIFAI_PAT"),
        (["vision_api/service=azure", "service.language=xx"], "service.language: azure has labels in en, ar"),
        (
            ["knowledge=blind"],
            "knowledge: a vision API lets nobody see its network: expected transfer or ensemble",
        ),
        (
            ["knowledge=ensemble"],
            "knows the labels of 'imagenet', but dataset digits-photos has those of 'digits'",
        ),
        (["attack=clean"], "attack: expected one that asks classifiers, got clean"),
        (["pairs=0"], "pairs: expected a whole number of at least 1, got 0"),
        (["validation=-1"], "validation: expected a whole number of at least 0, got -1"),
        (["validation=0"], "validation: expected pairs to choose iterations of GS on, got none"),
        (
            ["subset=two-correct-per-class"],
            "subset: a vision API has none of the data set's labels, got two-correct-per-class",
        ),
        (["calls=0"], "calls: expected a whole number of at least 1, got 0"),
        (["n=601"], "n: expected 1 to 600 images (the whole set), got 601"),
        (
            ["vision_api/service=http", "service.lables=3"],
            "no option is called 'service.lables' (did you mean",
        ),
        (
            ["vision_api/table=ncis", "service.labels=3"],
            "also name the service that it belongs to, with vision_api/service=...",
        ),
    ],
)
def test_bad_input_is_one_line(table, monkeypatch, words, expected):
    monkeypatch.delenv("CLARIFAI_PAT")
    status, output, _ = table(*words)
    assert status == 2
    assert expected in " ".join(output.split())


def test_a_purifier_that_asks_its_victim_is_skipped(table, tmp_path):
    status, output, folder = table(
        rows=ROWS.replace('"purifier=jpeg"', '"purifier=ddip"').replace("[1, 3]", "[1]")
    )
    made = pd.read_csv(folder / "embedded-apis-http.csv")
    assert status == 0
    assert "JPEG: skipped: it needs its victim's logits, and a vision API answers with labels" in " ".join(
        output.split()
    )
    assert set(made[made.row == "JPEG"].status) == {"skipped"}


def test_what_is_sent_has_8_bits_and_lies_in_the_ball(table, tmp_path, vision):
    sent = []
    real = vision.labeller.label
    vision.labeller.label = lambda asked: sent.append(asked.image) or real(asked)
    assert table("n=16", rows='[{label: No, cell: ["purifier=none"]}]')[0] in (0, 1)
    images = [np.asarray(Image.open(io.BytesIO(content))).astype(int) for content in sent]
    assert len(images) == 2 * 16
    for clean, adversarial in zip(images[::2], images[1::2], strict=True):
        assert 0 < abs(clean - adversarial).max() <= 16
