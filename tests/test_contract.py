"""What a purifier declares is tested before its first cell, and each false declaration is named."""

import pytest
import torch
from conftest import linear_victim
from test_grid import cell, files, run

from data.digits_photos import DigitsPhotos
from purifiers.contract import checks
from purifiers.contract.checks import check
from purifiers.contract.trial import TraitError
from purifiers.dynamic import Dynamic
from purifiers.gaussian_smoothing import GaussianSmoothing
from purifiers.jpeg import JPEG
from purifiers.median import Median
from tests import broken


class ExactJPEG(JPEG):
    gradient = "exact"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return DigitsPhotos().load("tuning").images[:8]


@pytest.fixture(autouse=True)
def _forgotten():
    broken.LAST.clear()


LIARS = [
    (broken.Halves(), "shape", "(8, 3, 16, 16)"),
    (broken.NaNWhereBright(), "finite", "NaN or infinity in"),
    (broken.Sharpens(), "range", "values in [0, 1]"),
    (broken.TorchGlobal(), "random state", "torch's global generator"),
    (broken.NumPyGlobal(), "random state", "NumPy's"),
    (broken.PythonGlobal(), "random state", "Python's"),
    (broken.SetsTheDtype(), "settings", "torch's default dtype"),
    (broken.WritesIntoInput(), "input", "a write into them"),
    (broken.Trains(), "victim", "mode of it"),
    (broken.Turns(), "victim", "weight"),
    (broken.Counts(), "same seed", "another"),
    (broken.Remembers(), "A, B, A", "another"),
    (broken.WritesLater(), "later writes", "changed by a later call"),
    (broken.Couples(), "batch", "whatever else is in its batch"),
    (broken.CountsTheBatch(), "batch", "alone as in a batch"),
    (broken.SaysItDraws(), "stochastic", "got the same result"),
    (broken.DrawsInSilence(), "stochastic", "got another result"),
    (broken.Peeks(), "clean image", "another"),
    (broken.PeeksAtLabels(), "clean image", "another"),
    (broken.StraightThrough(), "gradient", "a relative error of 1"),
    (broken.Flat(), "gradient", "0 everywhere"),
    (broken.HalfDetached(), "gradient", "a relative error of 0.0"),
    (broken.LearnsAlone(), "gradient", "cut off"),
    (ExactJPEG(), "gradient", "cut off"),
    (Dynamic(purifier=ExactJPEG()), "gradient", "cut off"),
]


@pytest.mark.parametrize(("liar", "name", "came"), LIARS, ids=[type(liar).__name__ for liar, *_ in LIARS])
def test_each_lie_is_caught_by_its_name(images, liar, name, came):
    with pytest.raises(TraitError) as error:
        check(liar, images, linear_victim().eval())
    assert error.value.check == name, str(error.value)
    assert str(error.value).startswith(f"{name}: expected ")
    assert came in str(error.value)
    assert "\n" not in str(error.value)


def test_a_second_trial_sees_global_seeds_too(images):
    """The first trial leaves the global generators in the same state as the second."""
    for _ in range(2):
        with pytest.raises(TraitError, match="random state"):
            check(broken.PythonGlobal(), images, linear_victim().eval())


def test_every_check_has_its_liar():
    caught_names = {name for _, name, _ in LIARS}
    assert len(checks.CHECKS) == len(caught_names - {"shape", "finite", "range"}) + 1


@pytest.mark.parametrize(
    "sound",
    [broken.SaysItCouples(), broken.OneBuffer(), Dynamic(purifier=GaussianSmoothing())],
    ids=lambda p: type(p).__name__,
)
def test_what_is_declared_is_allowed(images, sound):
    check(sound, images, linear_victim())


@pytest.mark.parametrize("kernel", [3, 11])
def test_a_median_of_many_close_values_has_the_gradient_that_it_declares(kernel):
    """In a smooth region, each step passes kinks of some windows."""
    check(Median(kernel=kernel), torch.full((4, 3, 32, 32), 0.5), linear_victim(32))


def test_the_victim_given_is_a_copy(images):
    victim = linear_victim().eval()
    before = victim.weight.clone()
    for purifier in (broken.Trains(), broken.Turns()):
        with pytest.raises(TraitError):
            check(purifier, images, victim)
    assert torch.equal(victim.weight, before)
    assert not victim.training


def test_a_lying_purifiers_cell_fails_by_the_checks_name_and_what_passed_is_not_tried_again(
    tmp_path, monkeypatch
):
    tried = []
    monkeypatch.setattr(
        checks, "check", lambda purifier, *rest: tried.append(purifier) or check(purifier, *rest)
    )
    cells = [cell("attack=clean", purifier="Peeks"), cell("attack=clean", "purifier=jpeg")]
    (peeks, sound), _ = run(tmp_path, cells, n=3)
    assert peeks.records is None
    assert peeks.failed.startswith("traits: clean image: expected the same result where a caller holds")
    assert len(sound.records) == 3
    assert [type(p).__name__ for p in tried] == ["Peeks", "JPEG"]
    assert len(files(tmp_path, "traits")) == 2, "only the passed checks of the victim and of JPEG are kept"
    assert not any(b"Peeks" in path.read_bytes() for path in files(tmp_path, "purified"))
    tried.clear()
    again, _ = run(tmp_path, [*cells, cell("attack=gaussian", "purifier=jpeg")], n=3)
    assert [type(p).__name__ for p in tried] == ["Peeks"], "only what had failed is tried again"
    assert [result.failed is None for result in again] == [False, True, True]


def test_fits_that_differ_in_how_many_steps_they_take_are_tried_once(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(checks, "check", lambda purifier, *rest: tried.append(purifier))
    words = ["purifier.network_steps=1", "purifier.network_steps=2", "purifier.trace.noise=0.1"]
    small = ["purifier.trace.network.filters=4", "purifier.trace.image_steps=1"]
    cells = [cell("attack=clean", "purifier=oag", *small, word) for word in words]
    monkeypatch.setattr(checks, "STEPS", 1)
    run(tmp_path, cells, n=2)
    assert len(tried) == 2
    assert len(files(tmp_path, "traits")) == 4, "each purifier has passed, and the victim too"


def test_finished_cells_are_not_tried(tmp_path, monkeypatch):
    run(tmp_path, [cell("attack=clean", "purifier=jpeg")], n=3)
    for path in files(tmp_path, "traits"):
        path.unlink()
    monkeypatch.setattr(checks, "check", lambda *rest: pytest.fail("nothing is left to try for"))
    assert len(run(tmp_path, [cell("attack=clean", "purifier=jpeg")], n=3)[0][0].records) == 3


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 224, 224)], ids=str)
def test_images_have_the_cells_shape(shape):
    from runners.evaluation.contract import ContractChecks

    images = ContractChecks(worker=None, console=None).images(shape)
    assert tuple(images.shape[1:]) == shape
    assert len(images) == (8 if shape[1] < 64 else 4)
    assert len({image.numpy().tobytes() for image in images}) == len(images), "two of the fits are alike"
