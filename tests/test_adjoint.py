"""What is told of the gradients through a fit, step by step, and where they are cut off."""

import torch
from conftest import RowByRow, inner_images
from test_unrolled import NETWORK, TwoClasses, gradient_of, normal

from attacks.fit_knowledge import Unrolled
from attacks.from_torchattacks import PGD
from purifiers.ddip import DDIP
from purifiers.dip import DIP, DIPTrace
from purifiers.fitting import adjoint


def test_what_is_told_of_a_gradient():
    images, purifier = inner_images(2).double(), DIP(trace=DIPTrace(network=NETWORK), steps=6)
    weight = normal(images, 5)
    for steps in (1, 3, 5):
        gradient, diagnosis, _ = gradient_of(purifier, images, weight, steps=steps)
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(1), weight.flatten(1))
        assert diagnosis.adjoint.shape == (2, steps)
        assert (diagnosis.adjoint > 0).all()
        torch.testing.assert_close(diagnosis.cosine[:, -1], cosine)


def test_an_adjoint_that_grows_without_bound_is_cut_off_for_its_image_alone(monkeypatch):
    images, purifier = inner_images(2).double(), DIP(trace=DIPTrace(network=NETWORK), steps=6)
    weight = normal(images, 5)
    whole, diagnosis, _ = gradient_of(purifier, images, weight)
    short, *_ = gradient_of(purifier, images, weight, steps=1)
    most, less = diagnosis.adjoint[0, 0].item(), diagnosis.adjoint[1].max().item()
    assert less < most, "no bound could tell the images apart"
    monkeypatch.setattr(adjoint, "LARGEST", (less + most) / 2)
    gradient, cut, _ = gradient_of(purifier, images, weight)
    assert torch.equal(gradient[1], whole[1])
    torch.testing.assert_close(gradient[0], torch.zeros_like(gradient[0]))
    assert (cut.adjoint[1] > 0).all()
    assert (cut.adjoint[0] == 0).all()
    assert short[0].any()


def test_the_size_of_a_loss_changes_neither_what_is_cut_off_nor_what_is_told(monkeypatch):
    images, purifier = inner_images(2), DIP(trace=DIPTrace(network=NETWORK), steps=6)
    weight = normal(images, 5).float()
    _, diagnosis, _ = gradient_of(purifier, images, weight)
    monkeypatch.setattr(adjoint, "LARGEST", diagnosis.adjoint.median().item())
    gradient, told, _ = gradient_of(purifier, images, weight)
    smaller, told_of_it, _ = gradient_of(purifier, images, 2.0**-40 * weight)
    assert gradient.any()
    assert torch.equal(2.0**40 * smaller, gradient)
    assert torch.equal(told_of_it.adjoint, told.adjoint)


def test_what_is_told_of_an_image_does_not_depend_on_the_images_beside_it():
    """The library's loss is the mean over the batch."""
    images, seeds = inner_images(3), [1, 2, 3]
    purifier = DIP(trace=DIPTrace(network=NETWORK), steps=5)

    def notes(rows):
        target = Unrolled(steps=3).target(RowByRow(), purifier, [], seeds=seeds[rows])
        return PGD(steps=1)(target, images[rows], torch.tensor([0, 1, 2])[rows], seeds=seeds[rows]).notes

    together, (alone,) = notes(slice(0, 3)), notes(slice(1, 2))
    assert together[1] == alone
    assert all(alone["growth"])


def test_steps_after_the_last_reconstruction_that_counts_have_a_place_among_those_that_are_told():
    """Without a K, DDIP's result does not depend on the reconstructions after the last crossing."""
    purifier = DDIP(
        trace=DIPTrace(network=NETWORK), steps=10, maps=10, warmup=0, similarity=-1, crossings=None
    )
    images, weight = inner_images(8), normal(inner_images(1), 5).float()
    told = [
        gradient_of(purifier, images[i : i + 1], weight, TwoClasses(), seeds=[i])[1].adjoint[0]
        for i in range(4)
    ]
    assert all(len(norms) == 9 for norms in told)
    first = [int((norms > 0).nonzero()[0]) for norms in told]
    assert min(first) == 0 < max(first)
    assert all((norms[:at] == 0).all() for norms, at in zip(told, first, strict=True))
