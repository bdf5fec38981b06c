"""Gradients through the steps of a fit, compared with central differences in float64, and refusals."""

import functools
import re
import types
from dataclasses import dataclass

import pytest
import torch
from conftest import RowByRow, crafted, inner_images, random_images
from torch import nn

from attacks.fit_knowledge import Unrolled
from attacks.from_torchattacks import PGD
from attacks.knowledge import UnsuitedError
from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.dip import DIP, DIPTrace
from purifiers.dipdefend import DIPDefend
from purifiers.dynamic import Dynamic
from purifiers.fitting import adjoint, engine
from purifiers.fitting import unrolled as module
from purifiers.fitting.engine import Adam, Fit, Networks
from purifiers.fitting.trace import FitTrace
from purifiers.fitting.unrolled import Unrolling, unrolled
from purifiers.jpeg import JPEG
from purifiers.networks.fcn import FCN
from purifiers.networks.skipnet import SkipNet
from purifiers.oag import OAG, Generator, OAGTrace
from purifiers.ride import RIDE, RIDETrace
from runners.evaluation.stages import Worker
from runners.store.store import Store

NETWORK = SkipNet(down=[8], up=[8], skip=[2], kernel_down=[3], kernel_up=[3])
SEEDS = [1, 2]
STEP = 1e-9  # for central differences; Adam's first steps are nearly signs, so they bend within a short way


class TwoClasses(nn.Module):
    """A classifier of two classes by one direction, along which reconstructions often change sides."""

    def forward(self, images):
        way = torch.randn(images[0].numel(), generator=torch.Generator().manual_seed(0)).to(images)
        score = (images.flatten(1) - 0.5) @ (way - way.mean())
        return torch.stack([-score, score], 1)


def gradient_of(purifier, images, weight, victim=None, seeds=SEEDS, **settings):
    """Return the gradient of weight . result, the diagnosis that was told, and the result."""
    inputs, diagnoses = images.clone().requires_grad_(), []
    unrolling = Unrolling(**{"steps": None} | settings)
    result = unrolled(
        purifier, inputs, seeds=seeds, victim=victim, unrolling=unrolling, tell=diagnoses.append
    )
    return torch.autograd.grad((result * weight).sum(), inputs)[0], diagnoses[0], result.detach()


def difference(purifier, images, weight, along, victim=None):
    """Return the derivative of weight . result along a direction, by central differences."""
    up, down = (
        (purifier.purify(images + step * along, SEEDS, victim) * weight).sum() for step in (STEP, -STEP)
    )
    return (up - down).item() / (2 * STEP)


def normal(like, seed):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("purifier", "uses_victim"),
    [
        (DIP(trace=DIPTrace(network=NETWORK), steps=2), False),
        (DIP(trace=DIPTrace(network=NETWORK), steps=7), False),
        (DIP(trace=DIPTrace(network=NETWORK, jitter=0.0, optimise_input=True), steps=5), False),
        (DIPDefend(trace=DIPTrace(network=NETWORK), steps=9, smoothing=0.5), False),
        (DDIP(trace=DIPTrace(network=NETWORK), steps=8, maps=8, warmup=0, similarity=-1, push=0.5), True),
        (
            DDIP(trace=DIPTrace(network=NETWORK), steps=8, maps=8, warmup=0, similarity=-1, crossings=None),
            True,
        ),
    ],
    ids=["dip 2", "dip 7", "learnt input", "dipdefend", "ddip", "ddip without a K"],
)
def test_the_gradient_through_all_steps_is_that_of_central_differences(purifier, uses_victim):
    images, victim = inner_images(2).double(), TwoClasses() if uses_victim else None
    weight = normal(images, 5)
    gradient, _, result = gradient_of(purifier, images, weight, victim)
    assert torch.equal(result, purifier.purify(images, SEEDS, victim)), (
        "the result is not the defense's own answer"
    )
    for seed in range(2):
        step_direction = normal(images, seed)
        expected = difference(purifier, images, weight, step_direction, victim)
        assert (gradient * step_direction).sum().item() == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 1e-3, "this test could not fail"


def test_ddips_gradient_is_that_of_images_on_a_boundary(monkeypatch):
    """The test above would say nothing about Eq. 4 to 6 if no decision changed along the trace."""
    crossings = []
    monkeypatch.setattr(
        "purifiers.ddip._Crossings._keep", lambda self, rows, *_: crossings.extend(rows.tolist())
    )
    purifier = DDIP(trace=DIPTrace(network=NETWORK), steps=8, maps=8, warmup=0, similarity=-1)
    purifier.purify(inner_images(2).double(), SEEDS, TwoClasses())
    assert len(crossings) > 2


@dataclass(frozen=True)
class Late(FitTrace):
    """A trace that fits the images only from one step on, and grey before it."""

    since: int

    def fit(self, images, seeds):
        networks, taken = Networks(NETWORK, images, seeds=seeds), []
        shape = (NETWORK.depth, *images.shape[2:])
        network_input = networks.drawn_once(lambda generator: torch.rand(shape, generator=generator))
        targets = networks.stack.beside(networks.images)

        def loss():
            taken.append(None)
            reference = targets if len(taken) > self.since else torch.full_like(targets, 0.5)
            output = networks(network_input)
            error = networks.stack.apart((output - reference).square())
            return networks.stack.apart(output)[:, 0], error.flatten(1).mean(1)

        return Fit(networks, loss, Adam(0.01))


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_last_steps_see_the_images_and_those_before_them_do_not(steps):
    """The central differences are of a fit that starts to look at the images with the last m updates."""
    images, total = inner_images(2).double(), 8
    weight, step_direction = normal(images, 5), normal(images, 6)
    late = DIP(trace=Late(since=total - 1 - steps), steps=total)
    # The forward pass runs `late` itself; the backward pass takes steps anew, all of which see the images.
    run = module._Run(late, SEEDS, None, Unrolling(steps=steps), lambda diagnosis: None)
    fits = [late.trace.fit, Late(since=-1).fit]
    run._fit = lambda given: fits.pop(0)(given, SEEDS)
    inputs = images.clone().requires_grad_()
    result = module._Through.apply(inputs, run)
    (gradient,) = torch.autograd.grad((result * weight).sum(), inputs)
    expected = difference(late, images, weight, step_direction)
    assert (gradient * step_direction).sum().item() == pytest.approx(expected, rel=1e-4)


def test_blocks_of_a_trace_that_is_read_in_many_places():
    """With blocks of m steps, a reconstruction that is read is differentiated through its own block alone."""
    images = inner_images(1).double()
    weight, trace = normal(images, 5), DIPTrace(network=NETWORK)
    mean = DDIP(trace=trace, steps=6, maps=6, warmup=99, crossings=6)  # no crossing counts: the mean of all
    gradient, *_ = gradient_of(mean, images, weight, TwoClasses(), seeds=[1], steps=2)
    parts = [
        gradient_of(DIP(trace=trace, steps=last + 1), images, weight, seeds=[1], steps=depth)[0]
        for last, depth in ((5, 2), (4, 1), (3, 2), (2, 1), (1, 1))  # blocks end at 5, 3 and 1
    ]
    torch.testing.assert_close(gradient, torch.stack(parts).sum(0) / 6)


def test_checkpoints_change_nothing(monkeypatch):
    images = inner_images(2).double()
    weight, purifier = normal(images, 5), DIP(trace=DIPTrace(network=NETWORK), steps=10)
    expected, diagnosis, _ = gradient_of(purifier, images, weight)
    for segment in (2, 4, 9):
        monkeypatch.setattr(module, "segment_of", lambda steps, segment=segment: segment)
        gradient, again, _ = gradient_of(purifier, images, weight)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(again.adjoint, diagnosis.adjoint, rtol=1e-6, atol=1e-9)


def test_an_image_has_the_same_gradient_alone_and_among_others():
    images, purifier = inner_images(3), DIP(trace=DIPTrace(network=NETWORK), steps=5)
    weight = normal(images, 5).float()
    together, diagnosis, _ = gradient_of(purifier, images, weight, seeds=[1, 2, 3])
    alone, _, _ = gradient_of(purifier, images[1:2], weight[1:2], seeds=[2])
    assert torch.equal(together[1:2], alone)
    assert diagnosis.adjoint.shape == diagnosis.cosine.shape == (3, 4)


@pytest.mark.parametrize("is_learnt", [False, True])
def test_a_single_grey_image_has_its_gradient_where_no_batch_is_padded(is_learnt, monkeypatch):
    """As on a GPU: the image's parameters of one channel have the length of a learnt input."""
    purifier = DIP(trace=DIPTrace(network=NETWORK, optimise_input=is_learnt), steps=4)
    image = inner_images(1)[:, :1].double()
    padded, *_ = gradient_of(purifier, image, torch.ones_like(image), seeds=[1])
    monkeypatch.setattr(engine, "FILL", 1)
    alone, *_ = gradient_of(purifier, image, torch.ones_like(image), seeds=[1])
    torch.testing.assert_close(alone, padded)


def test_a_detached_second_moment_gives_another_gradient():
    images, purifier = inner_images(2), DIP(trace=DIPTrace(network=NETWORK), steps=5)
    weight = normal(images, 5).float()
    attached, detached = (
        gradient_of(purifier, images, weight, second_moment=kind)[0] for kind in ("attached", "detached")
    )
    assert torch.isfinite(detached).all()
    assert not torch.allclose(attached, detached, rtol=0.1)


def test_memory_grows_with_the_square_root_of_the_steps(monkeypatch):
    kept_steps, graphs, images = [], [], inner_images(1)
    weight = normal(images, 5).float()
    keep, taken, back = module._Run._keep, adjoint.differentiable_step, adjoint.Sweep._back
    held = 0

    def step(*arguments, **settings):
        nonlocal held
        held += 1
        graphs[-1] = max(graphs[-1], held)
        return taken(*arguments, **settings)

    def gone_over(*arguments):
        nonlocal held
        held -= 1
        back(*arguments)

    monkeypatch.setattr(
        module._Run, "_keep", lambda run, fit, at: kept_steps[-1].append(at) or keep(run, fit, at)
    )
    monkeypatch.setattr(adjoint, "differentiable_step", step)
    monkeypatch.setattr(adjoint.Sweep, "_back", gone_over)
    for steps in (17, 65):
        kept_steps.append([])
        graphs.append(0)
        gradient_of(DIP(trace=DIPTrace(network=NETWORK), steps=steps), images, weight, seeds=[1])
    assert [len(of_run) for of_run in kept_steps] == [8, 16]
    assert graphs == [3, 5], "memory holds more than the steps of one segment and the last reconstruction"


SMALL = DIPTrace(network=NETWORK)
FITS = FCN(filters=[4])


@pytest.mark.parametrize(
    ("purifier", "settings", "said"),
    [
        (JPEG(), {}, "expected a purifier whose fit can be unrolled, JPEG declares 'bpda'"),
        (RIDE(trace=RIDETrace(network=FITS)), {}, "RIDE declares 'bpda'"),
        (OAG(trace=OAGTrace(network=Generator())), {}, "OAG declares 'bpda'"),
        (Dynamic(purifier=DIP(trace=SMALL, steps=9)), {}, "Dynamic declares 'bpda'"),
        (DIP(trace=SMALL, steps=9), {"steps": 9}, "at most the 8 updates .* DIP's 9 reconstructions, got 9"),
        (DIP(trace=SMALL, steps=9), {"steps": 8}, None),
        (DIP(trace=SMALL, steps=9), {"steps": None}, None),
    ],
)
def test_what_cannot_be_unrolled_is_refused(purifier, settings, said):
    knowledge = Unrolled(**settings)
    if said is None:
        knowledge.check(PGD(), purifier)
    else:
        with pytest.raises(UnsuitedError, match=said):
            knowledge.check(PGD(), purifier)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "knowledge.steps: expected null or at least 1, got 0"),
        ({"second_moment": "both"}, "expected attached or detached, got 'both'"),
        ({"memory": 0.0}, "knowledge.memory: expected null or GiB above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Unrolled(**settings)


def test_too_little_memory_says_what_is_needed_and_what_fits():
    purifier, images = DIP(trace=SMALL, steps=60), random_images(2)
    weight = torch.ones_like(images)
    message = r"59 steps of a batch of 2 images needs ([\d.]+) GiB.* not even one step fits"
    with pytest.raises(InputError, match=message) as error:
        gradient_of(purifier, images, weight, memory=1e-5)
    memory = 0.7 * float(re.search(message, str(error.value))[1])
    with pytest.raises(InputError, match=r"knowledge\.steps=\d+ fits") as error:
        gradient_of(purifier, images, weight, memory=memory)
    fits = int(str(error.value).split("knowledge.steps=")[1].split()[0])
    assert 1 < fits < 59
    gradient_of(purifier, images, weight, memory=memory, steps=fits)
    with pytest.raises(InputError, match="needs"):
        gradient_of(purifier, images, weight, memory=memory, steps=fits + 1)


def test_an_attack_starts_again_with_fewer_images_where_their_gradients_need_more_than_is_free(
    monkeypatch, tmp_path
):
    """A fit of nine images is padded to sixteen, one of four to eight."""
    purifier, victim, images = DIP(trace=SMALL, steps=5), RowByRow(), random_images(9)
    asked, task, seeds = [], types.SimpleNamespace(key="a" * 64), list(range(9))

    def target(task, stage, *, batch, recompute):
        asked.append(batch)
        return Unrolled(steps=None).target(
            victim, purifier, [], seeds=seeds, batch=batch, recompute=recompute
        )

    worker = types.SimpleNamespace(target=target, store=Store(tmp_path))
    run = functools.partial(Worker._crafted, worker, task, PGD(steps=1), images, torch.zeros(9).long())
    whole, _ = run(seeds)
    weight = torch.ones_like(images)
    with pytest.raises(InputError) as error:
        gradient_of(purifier, images, weight, seeds=seeds, memory=1e-9)
    needed = float(re.search(r"needs ([\d.e-]+) GiB", str(error.value))[1])
    monkeypatch.setattr(module, "free_memory", lambda device: int(0.8 * needed * module.GIB))
    again, _ = run(seeds)
    assert asked == [9, 9, 4]
    assert torch.equal(again.images, whole.images)


def test_the_knowledge_answers_as_the_defense_does_and_tells_of_its_gradients():
    purifier, victim, images = DIP(trace=SMALL, steps=5), RowByRow(), random_images(2)
    target = Unrolled(steps=3).target(victim, purifier, [], seeds=SEEDS)
    used_seeds = []
    view, target.view = target.view, lambda rows, seeds: used_seeds.extend(seeds) or view(rows, seeds)
    inputs = images.clone().requires_grad_()
    logits = target(inputs)
    assert torch.equal(logits, victim(purifier(images, seeds=used_seeds)))
    torch.autograd.grad(logits[:, 0].sum(), inputs)
    assert [len(diagnoses) for diagnoses in target.diagnoses] == [1, 1]
    adjoint, cosine = target.diagnoses[0][0]
    assert len(adjoint) == len(cosine) == 3


def test_a_librarys_attack_goes_through_the_fit():
    """Such an attack draws torch's random numbers per image, also while a gradient is taken."""
    purifier, victim, images = DIP(trace=SMALL, steps=4), RowByRow(), random_images(2)
    adversarial = crafted(PGD(steps=2), Unrolled(steps=2), victim, purifier, images, torch.tensor([0, 1]))
    assert not torch.equal(adversarial, images)
    alone = crafted(PGD(steps=2), Unrolled(steps=2), victim, purifier, images[:1], torch.tensor([0]))
    assert torch.equal(adversarial[:1], alone)
