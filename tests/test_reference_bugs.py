"""The bugs of the field's reference code, each made again here, and how the harness responds.

The first table holds purifiers that have a bug: their cells fail before they begin, and the message names
what is broken. The second holds bugs of an evaluation itself: each test shows what the bug would give, and
that our result, which is known from the images alone, is another.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load
from skimage.metrics import structural_similarity
from test_grid import cell, files, run, same
from torch import Tensor
from torch.utils.data import DataLoader

from data.digits_photos import DigitsPhotos
from data.images import Images, rounded
from runners import app
from runners.evaluation import workers as pool
from runners.evaluation.estimator import Estimator
from runners.evaluation.schema import rows_of
from runners.evaluation.scored import Scored
from runners.evaluation.stages import Worker
from runners.evaluator import CellResult
from runners.store.artifact import content_of, place
from runners.tables.frame import frame_of
from runners.tables.paper_results import panels_of
from tests import broken

N, CHUNK = 5, 2
PURIFIERS = [  # the bug, a purifier that has it, the check that fails
    ("the clean image reaches the defense", "Peeks", "clean image"),
    ("the label reaches the defense", "PeeksAtLabels", "clean image"),
    ("a purifier writes into its input", "WritesIntoInput", "input"),
    ("a purifier writes into its input, later", "WritesLater", "later writes"),
    ("state leaks to the next image by a module's global", "Remembers", "A, B, A"),
    ("state leaks to the next image by a counter", "Counts", "same seed"),
    ("state leaks to the next image within a batch", "Couples", "batch"),
    ("workers are never re-seeded: torch", "TorchGlobal", "random state"),
    ("workers are never re-seeded: NumPy", "NumPyGlobal", "random state"),
    ("workers are never re-seeded: Python", "PythonGlobal", "random state"),
    ("a resumed run draws something else", "OneStream", "same seed"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("bugs")


@pytest.fixture(scope="module")
def images() -> Images:
    """Return the images of every cell in this file."""
    return DigitsPhotos().load("evaluation").subset(N, seed=0)


def evaluated(store, *words: str, purifier: str | None = None, **changes) -> CellResult:
    return run(store, [cell(*words, purifier=purifier)], n=N, chunk=CHUNK, **changes)[0][0]


@pytest.mark.parametrize(("bug", "control", "check"), PURIFIERS, ids=[bug for bug, *_ in PURIFIERS])
def test_a_purifier_with_the_bug_has_no_figure(store, bug, control, check):
    broken.LAST.clear()
    result = evaluated(store, "attack=clean", purifier=control)
    assert result.records is None
    assert result.failed.startswith(f"traits: {check}: expected ")


@pytest.mark.parametrize("purifier", ["none", "jpeg", "gs", "randomization"])
def test_a_purifier_without_bugs_has_one(store, purifier):
    assert len(evaluated(store, "attack=clean", f"purifier={purifier}").records) == N


def clean_images_are_scored_as_defended_ones(store, images, monkeypatch):
    def ours() -> pd.DataFrame:
        return evaluated(store, "attack=clean", purifier="Blanks").records

    def with_bug(scored: Scored) -> pd.DataFrame:
        return rows_of(replace(scored, made=scored.made | {"images": scored.clean}))

    records = ours()
    monkeypatch.setattr("runners.evaluation.stages.rows_of", with_bug)
    for path in files(store, "records"):
        path.unlink()
    theirs = ours()
    for path in files(store, "records"):
        path.unlink()
    assert theirs.confidence.is_unique, "the bug scores images that differ"
    assert (theirs.ssim > 0.999).all()
    assert records.confidence.nunique() == 1, "our images are equally grey"
    assert (records.ssim < 0.6).all()


def clean_images_are_scored_as_attacked_ones(store, images, monkeypatch):
    sound = evaluated(store, "attack=fgsm", "purifier=none")
    assert {flag.name for flag in sound.flags}.isdisjoint({"noop_attack"})
    monkeypatch.setattr("attacks.from_torchattacks.FGSM.craft", lambda self, model, images, labels: images)
    unattacked = evaluated(store, "attack=fgsm", "purifier=none", seed=3)
    assert "noop_attack" in {flag.name for flag in unattacked.flags}


def ssim_has_the_constants_of_0_to_255(store, images, monkeypatch):
    ours = evaluated(store, "attack=clean", purifier="Blanks").records.ssim
    theirs = [
        structural_similarity(np.full_like(image, 0.5), image, data_range=255, channel_axis=0)
        for image in images.images.numpy()
    ]
    assert min(theirs) > 0.85, "no threshold would have an effect"
    assert (ours < 0.6).all()


def an_exception_is_counted_as_a_robust_image(store, images, monkeypatch):
    def raises(self, model, images, labels) -> Tensor:
        raise ArithmeticError("no step leads anywhere")

    purifiers = [evaluated(store, "attack=clean", purifier=name) for name in ("Raises", "NaNWhereBright")]
    monkeypatch.setattr("attacks.from_torchattacks.FGSM.craft", raises)
    monkeypatch.setattr(Estimator, "seconds", lambda self, task: 0.0)  # so the work is done in this process
    for result in (*purifiers, evaluated(store, "attack=fgsm", "purifier=none", seed=4)):
        assert result.records is None
        entry = entry_of(result)
        assert entry.status == "failed"
        assert entry[["value", "low", "high", "n"]].isna().all(), "the table shows a number"


def the_last_partial_batch_is_dropped(store, images, monkeypatch):
    result = evaluated(store, "attack=clean", "purifier=none")
    positions = [
        i for batch in DataLoader(range(N), batch_size=CHUNK, drop_last=True) for i in batch.tolist()
    ]
    assert len(positions) == N - 1, "the bug drops nothing here"
    assert result.records.id.tolist() == list(images.ids)
    assert entry_of(result).n == N


def eight_bits_are_cut_off_instead_of_rounded(store, images, monkeypatch):
    """Cutting off removes the half of an attack that brightens, and doubles the half that darkens."""
    records = evaluated(store, "attack=fgsm", "attack.eps=0.6/255", "purifier=none").records
    levels = torch.arange(256) / 255
    assert torch.equal(rounded(levels), levels), "8-bit images are their own rounding"
    for key in records.purified.unique():
        tensors = artefact(store, "purified", key)
        attacked, in_8_bits = 255 * tensors["images"], 255 * tensors["of_8_bit"]
        cut = (attacked + 1e-3).floor()
        assert (cut - attacked).abs().max() > 0.55, "the bug is not seen here"
        assert (in_8_bits - attacked).abs().max() < 0.5 + 1e-3
        assert (in_8_bits - in_8_bits.round()).abs().max() < 1e-3


def workers_are_never_seeded_again(store, images, monkeypatch):
    """Forked workers that share one state draw the same for different images; seeds of images do not.

    Real processes are tested in test_grid.py and test_attacked_cells.py.
    """

    def workers(queue, *, worker, **_) -> None:  # each task has its own worker, from one state
        while (task := queue.next()) is not None:
            torch.manual_seed(0)
            done.append(Worker(worker.store, worker.device, worker.precision).do(task))
            queue.finished(task, None)

    samples, done = [], []
    for part in images.chunks(CHUNK):
        torch.manual_seed(0)
        samples.append(broken.TorchGlobal().purify(0 * part.images[:1] + 0.5, [], None))
    assert torch.equal(samples[0], samples[1]), "the bug is not seen here"
    words = "attack=pgd", "attack.steps=1", "purifier=randomization"
    result = evaluated(store, *words)
    monkeypatch.setattr(pool, "run", workers)
    same([evaluated(store.parent / "workers", *words)], [result])
    assert len(done) == 6, "three chunks are crafted and purified"
    assert result.records.seed.is_unique


def a_resumed_run_differs_from_an_uninterrupted_one(store, images, monkeypatch):
    through, resumed = broken.OneStream(), broken.OneStream()
    first, second = list(images.chunks(CHUNK))[:2]
    through.purify(first.images, [1, 2], None)
    theirs = [instance.purify(second.images, [3, 4], None) for instance in (through, resumed)]
    assert not torch.equal(*theirs), "the bug is not seen here"
    words = "attack=pgd", "attack.steps=2", "purifier=randomization"
    whole, done, purify = evaluated(store, *words), [], Worker.purify

    def interrupted(self, task) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(purify(self, task))

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "purify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluated(store.parent / "resumed", *words)
    assert len(done) == 1
    same([evaluated(store.parent / "resumed", *words)], [whole])


EVALUATIONS = [
    clean_images_are_scored_as_defended_ones,
    clean_images_are_scored_as_attacked_ones,
    ssim_has_the_constants_of_0_to_255,
    an_exception_is_counted_as_a_robust_image,
    the_last_partial_batch_is_dropped,
    eight_bits_are_cut_off_instead_of_rounded,
    workers_are_never_seeded_again,
    a_resumed_run_differs_from_an_uninterrupted_one,
]


@pytest.mark.parametrize("bug", EVALUATIONS, ids=lambda bug: bug.__name__)
def test_an_evaluation_does_not_have_the_bug(store, images, monkeypatch, bug):
    bug(store, images, monkeypatch)


def artefact(store, stage: str, key: str) -> dict[str, Tensor]:
    """Return the tensors of the artefact whose key a record holds."""
    return load(content_of(place(store, stage, key)))


def entry_of(result: CellResult) -> pd.Series:
    """Return what a table says about the cell."""
    table = OmegaConf.load(app.CONFIGS / "table" / "ddip" / "table1.yaml")
    table.rows, table.columns, table.average, table.worst = table.rows[:1], table.columns[:1], None, None
    placed = [(table.rows[0], table.columns[0], result)]
    return frame_of(table, placed, panel=panels_of(table)[0], comparable=False).iloc[0]
