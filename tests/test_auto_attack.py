"""APGD and AutoAttack as our own loops: known answers, counts, and a comparison with the library."""

import pytest
import torch
from conftest import RowByRow, inner_images, random_images, rows_of
from torch import nn

from attacks import apgd, fab
from attacks.apgd import APGD
from attacks.attack import Attack
from attacks.auto_attack import AutoAttack
from attacks.knowledge import Blind
from attacks.losses import LOSSES, targeted_difference_of_logits_ratio
from attacks.rows import Rows
from attacks.square import Square
from attacks.target import Target
from data.errors import InputError
from data.images import Images
from scripts.bench_autoattack import theirs

LOGITS = torch.tensor([[4.0, 1.0, 3.0, -1.0], [0.0, 2.0, 2.5, 5.0]])
LABELS = torch.tensor([0, 2])


def run(attack, victim, images, labels, seeds=None):
    seeds = list(range(len(images))) if seeds is None else seeds
    target = Blind().target(victim, None, [], seeds=seeds)
    return attack(target, images, labels, seeds=seeds).images, target


def standing_under(victim, images, labels, eps: float, norm: str):
    """Return which images of a linear victim stand.

    The distance to the plane of a class is its margin over the dual norm.
    """
    order = 1 if norm == "linf" else 2
    logits, stands = victim(images), []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        slopes = (victim.weight[label] - victim.weight).norm(order, dim=1)
        ways = (row[label] - row) / slopes
        stands.append(bool(ways[torch.arange(len(row)) != label].min() > eps))
    return torch.tensor(stands)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("ce", [0.3537, 2.6298]), ("cw", [-1.0, 2.5]), ("dlr", [-1.0 / 3, 2.5 / 3])],
)
def test_losses_are_as_defined(loss, expected):
    torch.testing.assert_close(LOSSES[loss](LOGITS, LABELS), torch.tensor(expected), atol=1e-3, rtol=0)


def test_the_targeted_ratio_is_as_defined_and_knows_no_scale_or_shift():
    targets = torch.tensor([1, 1])
    ratio = targeted_difference_of_logits_ratio(LOGITS, LABELS, targets)
    expected = torch.tensor([(1.0 - 4) / (4 - (1 - 1) / 2), (2 - 2.5) / (5 - (2 + 0) / 2)])
    torch.testing.assert_close(ratio, expected)
    again = targeted_difference_of_logits_ratio(100 * LOGITS + 7, LABELS, targets)
    torch.testing.assert_close(again, expected)


def test_two_classes_are_too_few_for_the_ratio(linear):
    victim, data = linear
    with pytest.raises(InputError, match="expected 3 classes and more for dlr, got 2; take ce"):
        run(APGD(eps=0.1, steps=2, loss="dlr"), victim, data.images[:2], data.labels[:2])
    with pytest.raises(InputError, match="expected more than 3 classes, got 2"):
        run(AutoAttack(eps=0.1), victim, data.images[:2], data.labels[:2])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.0025), ("l2", 0.06)])
@pytest.mark.parametrize("attack", [AutoAttack, APGD])
def test_robust_accuracy_of_a_linear_victim_of_five_classes_is_exact(attack, norm, eps):
    victim, images = RowByRow(), inner_images(32)
    labels = victim(images).argmax(1)
    settings = {"queries_of_square": 10} if attack is AutoAttack else {"loss": "cw", "restarts": 2}
    adversarial, _ = run(attack(eps=eps, norm=norm, steps=15, **settings), victim, images, labels)
    expected = standing_under(victim, images, labels, eps, norm)
    assert 6 < expected.sum() < 26, "this test could not fail"
    assert torch.equal(victim(adversarial).argmax(1) == labels, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_parts_alone_are_exact_too(norm, monkeypatch):
    """APGD-CE is made to find nothing, and the images that it leaves still fall to one of the other parts."""
    victim, images = RowByRow(), inner_images(16)
    labels, eps = victim(images).argmax(1), {"linf": 0.0025, "l2": 0.06}[norm]
    attack = AutoAttack(eps=eps, norm=norm, steps=15, queries_of_square=5)

    def nothing(rows, images, labels, places):
        return apgd.Found(torch.zeros_like(labels, dtype=torch.bool), images)

    monkeypatch.setattr(attack, "_climb_cross_entropy", nothing)
    expected = standing_under(victim, images, labels, eps, norm)
    for missing in ("_approach", "_climb_towards"):
        with monkeypatch.context() as patch:
            patch.setattr(attack, missing, lambda classes: nothing)
            adversarial, _ = run(attack, victim, images, labels)
        assert torch.equal(victim(adversarial).argmax(1) == labels, expected), missing
    assert 2 < expected.sum() < 14, "this test could not fail"


def test_images_that_have_fallen_are_not_asked_about_again():
    """The first image is misclassified, the second falls to APGD-CE, and the third stands to the end."""
    victim, images, steps = RowByRow(), inner_images(3), 4
    logits = victim(images)
    labels = logits.argmax(1)
    scale = torch.tensor([1.0, 1.0, 0.0])  # the last image becomes grey, then moves far from any boundary
    images = images * scale.view(-1, 1, 1, 1) + 0.5 * (1 - scale).view(-1, 1, 1, 1)
    images[2] += 0.3 * victim.weight[1].sign().view_as(images[2])
    labels[0], labels[2] = logits[0].argmin(), 1
    _, target = run(
        AutoAttack(eps=0.01, steps=steps, queries_of_square=7), victim, images, labels, seeds=[5, 6, 7]
    )
    assert [(count.forward, count.backward) for count in target.counts] == [
        (1, 0),
        (1 + (steps + 1) + 1, steps + 1),
        (1 + 5 * (steps + 1) + 4 * 2 * steps + 7, 5 * (steps + 1) + 4 * steps),
    ]


def test_an_example_that_a_second_answer_does_not_confirm_is_none():
    """The defense errs once, in its third answer, about an image that nothing fools."""
    images, answers = inner_images(1), []

    def view(rows, seeds):
        answers.extend([0] * len(rows))
        logits = (
            torch.tensor([[0.0, 9.0, 1, 2, 3]]) if len(answers) == 3 else torch.tensor([[9.0, 0, 1, 2, 3]])
        )
        return logits + 0 * rows.sum()

    target = Target(view, seeds=[1])
    attack = AutoAttack(eps=0.1, steps=3, queries_of_square=5)
    adversarial = attack(target, images, torch.tensor([0]), seeds=[1]).images
    assert torch.equal(adversarial, images)
    assert target.counts[0].forward == 1 + 5 * 4 + 1 + 4 * 2 * 3 + 5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_hands_out_the_largest_loss_and_the_last_misclassified_iterate(norm):
    victim, images, iterates = RowByRow(), inner_images(6), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: iterates.append(x.detach().clone()) or victim(x), 6)
    result = apgd.ascend(
        rows,
        images,
        labels,
        loss=lambda logits: LOSSES["cw"](logits, labels),
        eps=0.004 if norm == "linf" else 0.1,
        norm=norm,
        steps=9,
    )
    assert len(iterates) == 10
    losses = torch.stack([LOSSES["cw"](victim(x), labels) for x in iterates])
    wrong = torch.stack([victim(x).argmax(1) != labels for x in iterates])
    assert torch.equal(result.loss, losses.amax(0))
    assert torch.equal(result.found.fell, wrong.any(0))
    assert result.found.fell.any()
    for i in range(6):
        assert torch.equal(result.best[i], iterates[losses[:, i].argmax()][i])
        if wrong[:, i].any():
            assert torch.equal(result.found.images[i], iterates[wrong[:, i].nonzero().max()][i])


def test_apgds_step_halves_where_nothing_improves():
    """If losses only fall and gradients always point upwards, each check goes back to the start."""
    images, iterates = torch.full((1, 1, 4, 4), 0.5), []

    def view(rows, seeds):
        iterates.append(rows.detach().clone())
        falling = rows.sum() - rows.sum().detach() - len(iterates)
        return torch.stack([0 * falling + 9, falling, 0 * falling, 0 * falling]).view(1, 4)

    rows = Rows.of(Target(view, seeds=[1]), [1], torch.device("cpu"))
    result = apgd.ascend(
        rows,
        images,
        torch.tensor([0]),
        loss=lambda logits: logits[:, 1],
        eps=0.1,
        norm="linf",
        steps=10,
    )
    start, end = iterates[0], torch.full_like(images, 0.6)
    assert torch.equal(result.best, start)
    assert not result.found.fell
    assert len(iterates) == 11
    half, quarter = ((start + size).clamp_max(0.6) - start for size in (0.1, 0.05))
    pushed = (start + 0.75 * half + 0.25 * (start - end)).clamp(0.4, 0.6)  # the last term is the momentum
    for number, expected in enumerate([start, end, end, pushed, start + 0.75 * quarter]):
        torch.testing.assert_close(iterates[number], expected, msg=f"iterate {number}")


@pytest.mark.parametrize(
    ("attack", "differ"),
    [
        (APGD(eps=1.2 / 255, steps=15), 1),
        (APGD(eps=1.2 / 255, steps=15, loss="dlr"), 1),
        (APGD(eps=0.12, steps=15, norm="l2"), 1),
        (Square(eps=6 / 255, queries=60), 6),
        (Square(eps=0.4, queries=60, norm="l2"), 6),
        (AutoAttack(eps=1.2 / 255, steps=5, queries_of_square=10), 1),
        (AutoAttack(eps=0.12, norm="l2", steps=5, queries_of_square=10), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Attack) else str(value),
)
def test_the_library_leaves_the_same_images_standing(network, attack, differ):
    """At most `differ` of 32 images differ, where the random starts or the proposals decide."""
    images = random_images(32, seed=5)
    data = Images(tuple(str(i) for i in range(len(images))), images, network(images).argmax(1))
    adversarial, _ = run(attack, network, images, data.labels)
    with torch.random.fork_rng():
        other = theirs(attack, network, data)
    ours, library = ((network(x).argmax(1) == data.labels) for x in (adversarial, other))
    assert 4 < ours.sum() < 28, f"this test could not fail: {ours.sum()}"
    assert (ours != library).sum() <= differ, f"{ours.sum()} and {library.sum()}"


class Sure(nn.Module):
    """A classifier whose logits are scaled by 1e-17, so that its gradients are tiny."""

    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, images):
        return 1e-17 * (self.victim(images) - 50)


def test_tiny_gradients_are_no_robustness_in_l2():
    """Both attacks succeed even if gradients are as small as 1e-17."""
    victim, images = Sure(RowByRow()), inner_images(6)
    labels = victim(images).argmax(1)
    adversarial, _ = run(APGD(eps=0.3, norm="l2", steps=10, loss="cw"), victim, images, labels)
    assert (victim(adversarial).argmax(1) != labels).all()
    result = fab.approach(
        rows_of(victim, 6),
        images,
        labels,
        victim(images).topk(2, 1).indices[:, 1],
        eps=0.3,
        norm="l2",
        steps=6,
    )
    assert result.fell.all()
