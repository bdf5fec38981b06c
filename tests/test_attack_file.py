"""Adversarial examples from a file are scored like our own, and refused if they are not what they claim."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import config_of
from safetensors.torch import save_file

import purifybench
from data.images import shuffled
from runners import app, table
from runners.evaluation.component import build

N, EPS = 4, 8 / 255


@pytest.fixture(scope="module")
def chosen():
    """Return the images that n=4 takes."""
    dataset = build(config_of("dataset", "digits-photos"))
    index = dataset.index("evaluation")
    return index.take(shuffled(len(index.ids), 0)[:N])


@pytest.fixture
def crafted(chosen):
    """Return examples on the border of the ball, by id."""
    signs = torch.randn(chosen.images.shape, generator=torch.Generator().manual_seed(0)).sign()
    return dict(zip(chosen.ids, (chosen.images + EPS * signs).clamp(0, 1), strict=True))


def words(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ["attack=file", f"attack.path={path}", f"attack.sha256={digest}", "purifier=jpeg", f"n={N}"]


@pytest.fixture
def score(tmp_path):
    def call(path, *more):
        places = [f"store={tmp_path}/store"]
        overrides = [*words(path)[1:3], *places, *more]
        return purifybench.evaluate("jpeg", attack="file", n=N, overrides=overrides, quiet=True).records

    return call


def test_both_formats_are_scored_and_give_the_same(score, crafted, tmp_path):
    extra = {**crafted, "digits-photos/another": torch.zeros(3, 32, 32)}
    save_file(extra, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{name: item.numpy() for name, item in extra.items()})
    scores = [score(tmp_path / name) for name in ("a.safetensors", "a.npz")]
    assert scores[0].linf.max() == pytest.approx(EPS, abs=1e-6)
    assert (scores[0].linf > EPS / 2).all()
    assert scores[0].purified_label.tolist() == scores[1].purified_label.tolist()
    assert scores[0].knowledge.unique().tolist() == ["blind"]


def outside(examples):
    name = next(iter(examples))
    return examples | {name: (examples[name] + 0.01).clamp(0, 1)}


def smaller(examples):
    return {name: item[:, :16, :16].clone() for name, item in examples.items()}


def unfinite(examples):
    return {name: item * torch.nan for name, item in examples.items()}


def whole_numbers(examples):
    return {name: (item * 255).to(torch.uint8) for name, item in examples.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (outside, "expected an example within linf 0.0313725 of its image, got a distance of 0.041"),
        (
            smaller,
            "expected floating-point values of shape (3, 32, 32), got torch.float32 of shape (3, 16, 16)",
        ),
        (unfinite, "expected finite values, got NaN or infinity"),
        (whole_numbers, "expected floating-point values of shape (3, 32, 32), got torch.uint8"),
        (
            lambda made: {name: 255 * item for name, item in made.items()},
            "expected values in [0, 1], got [0, 2",
        ),
        (
            lambda made: dict(list(made.items())[:3]),
            "expected an example of each image, got none of 1 of 4, such",
        ),
        (
            lambda made: {f"x{name}": item for name, item in made.items()},
            "got none of 4 of 4, such as digits-",
        ),
    ],
    ids=["outside", "shape", "nan", "bytes", "range", "missing", "unknown ids"],
)
def test_examples_that_are_not_what_they_must_be_fail_the_cell(score, crafted, tmp_path, change, expected):
    save_file({k: v.contiguous() for k, v in change(crafted).items()}, tmp_path / "a.safetensors")
    with pytest.raises(app.FailedCellsError) as error:
        score(tmp_path / "a.safetensors")
    assert len(str(error.value).splitlines()) == 1
    assert expected in str(error.value)


def test_a_file_is_named_by_its_sha256(score, crafted, tmp_path, monkeypatch):
    """The file is checked before any trial for an estimate and before any attack."""
    monkeypatch.setattr("runners.evaluation.stages.Worker.do", lambda self, task: pytest.fail("a task ran"))
    path = tmp_path / "a.safetensors"
    save_file(crafted, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for changes, expected in (
        (["attack.sha256=12345678"], "attack.sha256: expected 8 to 64 hexadecimal digits as text"),
        (["attack.sha256=abcdef12"], "a.safetensors: expected sha256 abcdef12, got"),
        (["attack.sha256=null"], f"set attack.sha256={digest[:16]}"),
        ([f"attack.path={tmp_path}/b.safetensors"], "b.safetensors do not exist"),
        (["attack.path=examples.pt"], "attack.path: expected a file .safetensors or .npz, got 'examples.pt'"),
        (["attack.norm=l1"], "attack.norm: expected linf or l2, got 'l1'"),
        (["attack.eps=2"], "attack.eps: expected 0 < eps <= 1"),
    ):
        with pytest.raises(app.InputError) as error:
            score(path, *changes)
        assert expected in str(error.value), changes


def test_foreign_examples_join_the_worst_of_a_table(command, crafted, tmp_path):
    save_file(crafted, tmp_path / "a.safetensors")
    folder = tmp_path / "configs" / "table"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "title: Mine\n"
        "columns:\n"
        "  - {label: Clean, cell: [attack=clean]}\n"
        f"  - {{label: Theirs, cell: {words(tmp_path / 'a.safetensors')[:3]}}}\n"
        "rows:\n"
        "  - {label: No defense, cell: [purifier=none]}\n"
        "  - {label: JPEG, cell: [purifier=jpeg]}\n"
        "worst: {label: worst, attack: worst}\n"
    )
    places = [f"{name}={tmp_path}/{name}" for name in ("store", "records", "tables")]
    status, _, err = command(
        table.main, "table", f"--config-dir={tmp_path}/configs", "table=mine", f"n={N}", *places
    )
    assert status == 0, err
    records = pd.read_parquet(tmp_path / "tables" / "mine-records.parquet")
    figures = pd.read_csv(tmp_path / "tables" / "mine.csv").set_index(["row", "column"]).value
    for row, purifier in (("No defense", "none"), ("JPEG", "jpeg")):
        right = records[records.purifier == purifier].pivot(index="id", columns="attack", values="correct")
        assert figures[row, "worst"] == pytest.approx(100 * (right.clean & right.file).mean())
        assert figures[row, "Theirs"] == pytest.approx(100 * right.file.mean())
