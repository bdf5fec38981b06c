"""The images that a rule picks, and records, tables and replays that name the rule."""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from fake_data import picture
from test_grid import cell, files, run, same
from torch import Tensor

from data.errors import InputError
from data.images import Images
from data.listing import Listing
from runners import replay
from runners.evaluate import save_records
from runners.evaluation import subset
from runners.evaluation.records import from_parquet
from runners.validity.record_file import RecordFile

CLASSES = tuple("abcde")


@dataclass
class Labels:
    """An index without images."""

    labels: Tensor

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"t/{i}" for i in range(len(self.labels)))

    def take(self, indices) -> Images:
        raise AssertionError("a rule reads no image itself")


INDEX = Labels(torch.tensor([i % 5 for i in range(200)]))
WRONG = {i for i in range(200) if i % 3 == 0}


def right(positions):
    return [i not in WRONG for i in positions]


def chosen(rule: str, n: int, *, seed: int = 0, index=INDEX, answers=right) -> list[int]:
    return subset.sample_subset(rule, index, n, seed=seed, classes=CLASSES, right=answers)


def test_random_keeps_the_order_that_stored_results_have():
    assert chosen("random", 30, seed=3) == np.random.default_rng(3).permutation(200)[:30].tolist()
    everything = Images(INDEX.ids, torch.zeros(200, 1, 2, 2), INDEX.labels)
    assert everything.subset(30, seed=3).ids == tuple(INDEX.ids[i] for i in chosen("random", 30, seed=3))


@pytest.mark.parametrize("rule", subset.RULES)
def test_fewer_images_are_a_prefix_and_the_seed_draws_them(rule):
    assert chosen(rule, 10)[:4] == chosen(rule, 4)
    assert chosen(rule, 10) == chosen(rule, 10)
    assert chosen(rule, 10) != chosen(rule, 10, seed=1)
    assert len(set(chosen(rule, 10))) == 10


@pytest.mark.parametrize(("rule", "allowed"), [("two-per-class", set()), ("two-correct-per-class", WRONG)])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_class_has_its_first_two_in_the_order_of_the_seed(rule, allowed, seed):
    order = np.random.default_rng(seed).permutation(200).tolist()
    expected = [i for k in range(5) for i in [i for i in order if i % 5 == k and i not in allowed][:2]]
    assert sorted(chosen(rule, 10, seed=seed)) == sorted(expected)
    assert chosen(rule, 10, seed=seed) == sorted(expected, key=order.index)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_a_rule_does_not_depend_on_how_many_are_asked_at_once(batch, monkeypatch):
    expected = chosen("two-correct-per-class", 10)
    monkeypatch.setattr(subset, "BATCH", batch)
    assert chosen("two-correct-per-class", 10) == expected


def test_a_victim_is_asked_no_more_than_it_takes(monkeypatch):
    monkeypatch.setattr(subset, "BATCH", 4)
    positions: list[int] = []
    chosen("two-correct-per-class", 3, answers=lambda batch: [positions.append(i) or True for i in batch])
    assert len(positions) == 4
    positions.clear()
    chosen("two-correct-per-class", 10, answers=lambda batch: [positions.append(i) or True for i in batch])
    assert len(positions) == len(set(positions)) < 40, "no image is asked about whose class has its two"


FEW = Labels(torch.tensor([0, 0, 0, 1, 2, 2, 3]))


@pytest.mark.parametrize(
    ("rule", "n", "index", "answers", "message"),
    [
        ("random", 0, INDEX, [], r"n: expected 1 to 200 images \(the whole set\), got 0"),
        ("random", 201, INDEX, [], r"n: expected 1 to 200 images \(the whole set\), got 201"),
        ("two-per-class", 0, INDEX, [], "n: expected at least 1 image, got 0"),
        ("two-per-class", 11, INDEX, [], r"1 to 10, .* 200 images \(two of each of the 5 classes\), got 11"),
        ("two-per-class", 7, FEW, [], "1 to 6, .* .3 of 5 classes have fewer than two images: b, d, e"),
        ("two-correct-per-class", 9, FEW, [1, 1, 1, 0, 0, 0, 0], "1 to 2, .*4 of 5 .* correctly: b, c"),
        ("two-correct-per-class", 1, INDEX, [0] * 200, "correctly, got none of 200"),
        ("two-per-class", 1, Labels(torch.tensor([])), [], "expected images, got none of 0"),
    ],
)
def test_what_a_rule_cannot_give_is_said(rule, n, index, answers, message):
    with pytest.raises(InputError, match=message):
        chosen(rule, n, index=index, answers=lambda batch: [answers[i] for i in batch])


def test_classes_with_fewer_than_two_images_are_said_and_the_rule_goes_on(caplog):
    with caplog.at_level(logging.WARNING):
        assert len(chosen("two-per-class", 6, index=FEW)) == 6
    assert "subset two-per-class: 3 of 5 classes have fewer than two images here: b, d, e" in caplog.text
    caplog.clear()
    chosen("two-per-class", 6)
    assert not caplog.text


def test_a_listing_reads_only_what_a_rule_picks(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(200)]
    taken = chosen("two-per-class", 10)
    for i in taken:
        picture(paths[i], seed=i)
    listing = Listing(INDEX.ids, INDEX.labels, tuple(paths), size=8, resize=None)
    images = listing.take(chosen("two-per-class", 10, index=listing))
    assert Counter(images.labels.tolist()) == dict.fromkeys(range(5), 2)


# In a run

CELLS = [cell("attack=fgsm", "purifier=none"), cell("attack=fgsm", "purifier=jpeg")]
RULE = {"subset": "two-correct-per-class", "n": 7, "seed": 5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    results, _ = run(folder / "store", CELLS, **RULE)
    return folder, results, save_records(results[1], folder / "records")


def test_the_images_of_two_correct_per_class_are_correct_and_named(made):
    _, results, path = made
    records = results[0].records
    assert (records.clean_label == records.label).all()
    assert records.label.value_counts().max() <= 2
    assert set(records["subset"]) == {"two-correct-per-class, seed 5"}
    record = RecordFile.read(path)
    assert (record["settings"]["subset"], record["settings"]["seed"]) == ("two-correct-per-class", 5)
    assert set(records.image_ids_sha256) == {record["image_ids_sha256"]}


def test_the_choice_is_kept_and_does_not_depend_on_chunks_or_more_images(made, monkeypatch):
    folder, expected, _ = made
    assert len(files(folder / "store", "subset")) == 1, "two cells share one choice of images"
    with_more, _ = run(folder / "store", CELLS, **(RULE | {"n": 9, "chunk": 4}))
    assert len(with_more[0].records) == 9
    assert with_more[0].records.id.tolist()[:7] == expected[0].records.id.tolist()
    monkeypatch.setattr(subset, "sample_subset", None)  # a second run asks nothing
    results, output = run(folder / "store", CELLS, **RULE)
    assert "nothing to compute" in output
    same(results, expected)


def test_other_rules_pick_others(made):
    folder, expected, _ = made
    results = {}
    for rule in subset.RULES[:2]:
        ((result,), _) = run(folder / "store", CELLS[:1], **(RULE | {"subset": rule, "n": 16}))
        results[rule] = result.records
        assert set(result.records["subset"]) == {f"{rule}, seed 5"}
    assert results["random"].id.tolist() != results["two-per-class"].id.tolist()
    assert results["two-per-class"].label.value_counts().max() <= 2
    assert results["two-per-class"].id.tolist()[:7] != expected[0].records.id.tolist()


def test_the_same_images_under_two_rules_have_two_keys(made):
    results = [run(made[0] / "store", CELLS[:1], n=1, seed=5, subset=rule)[0][0] for rule in subset.RULES[:2]]
    first, second = (result.provenance for result in results)
    assert first["image_ids_sha256"] == second["image_ids_sha256"]
    assert first["key"] != second["key"]


@pytest.fixture
def again(made, command):
    """Return a function that replays a record file and returns the exit status and all messages."""

    def call(path: Path) -> tuple[int, str]:
        places = [f"store={made[0]}/store", f"records={made[0]}/records", "workers=1"]
        status, out, err = command(replay.main, "replay", *replay.words([str(path), *places]))
        return status, " ".join((out + err).split())

    return call


def test_a_replay_chooses_again_and_is_equal(made, again):
    status, output = again(made[2])
    assert status == 0, output
    assert "result │ equal" in output


def test_a_record_that_names_another_rule_cannot_be_replayed(made, again, tmp_path):
    path = made[2]
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"purifybench"])
    facts["settings"]["subset"] = "random"
    metadata = table.schema.metadata | {b"purifybench": json.dumps(facts).encode()}
    copy = tmp_path / "copy.parquet"
    pq.write_table(table.replace_schema_metadata(metadata), copy)
    assert isinstance(from_parquet(copy.read_bytes()), pd.DataFrame)
    status, output = again(copy)
    assert status == 2
    assert "expected image ids of sha256" in output
