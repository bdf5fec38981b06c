"""APGD, targeted FAB, Square and AutoAttack, our own loops: known answers, counts, and the library beside them."""

import pytest
import torch
from conftest import RowByRow, random_images
from scipy.optimize import minimize
from torch import nn

from attacks import apgd, fab, square
from attacks.apgd import APGD
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


def rows_of(victim, count: int) -> Rows:
    target = Target(lambda images, seeds: victim(images), seeds=range(count))
    return Rows.of(target, range(count), torch.device("cpu"))


def inner(count: int, size: int = 16):
    """Images away from the border of [0, 1]."""
    return 0.3 + 0.4 * random_images(count, size)


def standing_under(victim, images, labels, eps: float, norm: str):
    """Which images of a linear victim stand: each class's plane is as far as its margin over the dual norm."""
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
    found = targeted_difference_of_logits_ratio(LOGITS, LABELS, targets)
    expected = torch.tensor([(1.0 - 4) / (4 - (1 - 1) / 2), (2 - 2.5) / (5 - (2 + 0) / 2)])
    torch.testing.assert_close(found, expected)
    again = targeted_difference_of_logits_ratio(100 * LOGITS + 7, LABELS, targets)
    torch.testing.assert_close(again, expected)


def test_two_classes_are_too_few_for_the_ratio(linear):
    victim, data = linear
    with pytest.raises(InputError, match="expected 3 classes and more for dlr, got 2; take ce"):
        run(APGD(eps=0.1, steps=2, loss="dlr"), victim, data.images[:2], data.labels[:2])
    with pytest.raises(InputError, match="expected more than 3 classes, got 2"):
        run(AutoAttack(eps=0.1), victim, data.images[:2], data.labels[:2])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.99])
def test_the_nearest_point_of_a_plane_is_that_of_a_solver(norm, share):
    """`share` of what [0, 1] allows along the slope; one coordinate has no slope, one is at the border."""
    draws = torch.Generator().manual_seed(5)
    point = torch.rand(1, 1, 1, 6, generator=draws)
    point[..., 1] = 1.0
    slope = torch.randn(1, 1, 1, 6, generator=draws)
    slope[..., 0] = 0.0
    for way in (1, -1):
        room = torch.where(way * slope > 0, 1 - point, point)
        offset = ((slope * point).sum() + way * share * (slope.abs() * room).sum()).view(1)
        change = fab.nearest_on_plane(point, slope, offset, norm=norm)
        torch.testing.assert_close((slope * (point + change)).sum().view(1), offset, atol=1e-5, rtol=0)
        assert (point + change).min() >= -1e-6
        assert (point + change).max() <= 1 + 1e-6
        size = change.abs().max() if norm == "linf" else change.norm()
        assert size.item() == pytest.approx(solved(point, slope, offset, norm), abs=2e-4)


def solved(point, slope, offset, norm: str) -> float:
    """The size of the smallest change, by SciPy: s bounds every coordinate, or the sum of squares is made small."""
    p, w, b = (value.double().flatten().numpy() for value in (point, slope, offset))
    on_plane = {"type": "eq", "fun": lambda z: w @ (p + z[:6]) - b[0]}
    bounds = [(-x, 1 - x) for x in p]
    if norm == "l2":
        found = minimize(lambda z: z @ z, 0 * p, bounds=bounds, constraints=[on_plane], tol=1e-10)
        return found.fun**0.5
    within = {"type": "ineq", "fun": lambda z: [*(z[6] - z[:6]), *(z[6] + z[:6])]}
    start = [*(0 * p), 1.0]
    bounds.append((0, 1))
    return minimize(lambda z: z[6], start, bounds=bounds, constraints=[on_plane, within], tol=1e-10).fun


def test_a_plane_out_of_reach_is_approached_as_far_as_the_border():
    point, slope = torch.full((1, 1, 1, 3), 0.25), torch.tensor([1.0, -2.0, 0.0]).view(1, 1, 1, 3)
    for norm in ("linf", "l2"):
        change = fab.nearest_on_plane(point, slope, torch.tensor([99.0]), norm=norm)
        assert (point + change).flatten().tolist() == [1.0, 0.0, 0.25]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.004), ("l2", 0.08)])
def test_fab_finds_a_linear_boundary_within_one_percent(linear, norm, eps):
    victim, data = linear
    way = victim.margin(data.images).abs() / (
        victim.weight.abs().sum() if norm == "linf" else victim.weight.norm()
    )
    rows, settings = rows_of(victim, len(data)), {"norm": norm, "steps": 6}
    found = fab.approach(rows, data.images, data.labels, 1 - data.labels, eps=eps, **settings)
    assert 8 < found.fell.sum() < 56, "a test that could not fail"
    assert found.fell[way < 0.99 * eps].all()
    assert not found.fell[way > eps].any()
    assert (victim(found.images).argmax(1) != data.labels).equal(found.fell)
    order = 2 if norm == "l2" else torch.inf
    assert ((found.images - data.images).flatten(1).norm(order, dim=1) <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.0025), ("l2", 0.06)])
@pytest.mark.parametrize("attack", [AutoAttack, APGD])
def test_robust_accuracy_of_a_linear_victim_of_five_classes_is_exact(attack, norm, eps):
    victim, images = RowByRow(), inner(32)
    labels = victim(images).argmax(1)
    settings = {"queries_of_square": 10} if attack is AutoAttack else {"loss": "cw", "restarts": 2}
    made, _ = run(attack(eps=eps, norm=norm, steps=15, **settings), victim, images, labels)
    expected = standing_under(victim, images, labels, eps, norm)
    assert 6 < expected.sum() < 26, "a test that could not fail"
    assert torch.equal(victim(made).argmax(1) == labels, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_parts_alone_are_exact_too(norm, monkeypatch):
    """APGD-CE is made to find nothing: what it leaves falls to one of the others all the same."""
    victim, images = RowByRow(), inner(16)
    labels, eps = victim(images).argmax(1), {"linf": 0.0025, "l2": 0.06}[norm]
    attack = AutoAttack(eps=eps, norm=norm, steps=15, queries_of_square=5)

    def nothing(rows, images, labels, places):
        return apgd.Found(torch.zeros_like(labels, dtype=torch.bool), images)

    monkeypatch.setattr(attack, "_climb_cross_entropy", nothing)
    expected = standing_under(victim, images, labels, eps, norm)
    for missing in ("_approach", "_climb_towards"):
        with monkeypatch.context() as patch:
            patch.setattr(attack, missing, lambda classes: nothing)
            made, _ = run(attack, victim, images, labels)
        assert torch.equal(victim(made).argmax(1) == labels, expected), missing
    assert 2 < expected.sum() < 14, "a test that could not fail"


def test_images_that_have_fallen_are_not_asked_about_again():
    """One is misclassified, one falls to APGD-CE, one stands to the end."""
    victim, images, steps = RowByRow(), inner(3), 4
    logits = victim(images)
    labels = logits.argmax(1)
    scale = torch.tensor([1.0, 1.0, 0.0])  # the last image becomes the middle, pushed far from any boundary
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
    """A defense that errs once, in the third answer, about an image that nothing fools."""
    images, answers = inner(1), []

    def view(rows, seeds):
        answers.extend([0] * len(rows))
        wrong = (
            torch.tensor([[0.0, 9.0, 1, 2, 3]]) if len(answers) == 3 else torch.tensor([[9.0, 0, 1, 2, 3]])
        )
        return wrong + 0 * rows.sum()

    target = Target(view, seeds=[1])
    attack = AutoAttack(eps=0.1, steps=3, queries_of_square=5)
    made = attack(target, images, torch.tensor([0]), seeds=[1]).images
    assert torch.equal(made, images)
    assert target.counts[0].forward == 1 + 5 * 4 + 1 + 4 * 2 * 3 + 5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_hands_out_the_largest_loss_and_the_last_misclassified_iterate(norm):
    victim, images, asked = RowByRow(), inner(6), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: asked.append(x.detach().clone()) or victim(x), 6)
    made = apgd.ascend(
        rows,
        images,
        labels,
        loss=lambda logits: LOSSES["cw"](logits, labels),
        eps=0.004 if norm == "linf" else 0.1,
        norm=norm,
        steps=9,
    )
    assert len(asked) == 10
    losses = torch.stack([LOSSES["cw"](victim(x), labels) for x in asked])
    wrong = torch.stack([victim(x).argmax(1) != labels for x in asked])
    assert torch.equal(made.loss, losses.amax(0))
    assert torch.equal(made.found.fell, wrong.any(0))
    assert made.found.fell.any()
    for i in range(6):
        assert torch.equal(made.best[i], asked[losses[:, i].argmax()][i])
        if wrong[:, i].any():
            assert torch.equal(made.found.images[i], asked[wrong[:, i].nonzero().max()][i])


def test_apgds_step_halves_where_nothing_improves():
    """Losses that only fall, and a gradient that always points upwards: after each check from the start again."""
    images, asked = torch.full((1, 1, 4, 4), 0.5), []

    def view(rows, seeds):
        asked.append(rows.detach().clone())
        falling = rows.sum() - rows.sum().detach() - len(asked)
        return torch.stack([0 * falling + 9, falling, 0 * falling, 0 * falling]).view(1, 4)

    rows = Rows.of(Target(view, seeds=[1]), [1], torch.device("cpu"))
    made = apgd.ascend(
        rows,
        images,
        torch.tensor([0]),
        loss=lambda logits: logits[:, 1],
        eps=0.1,
        norm="linf",
        steps=10,
    )
    start, end = asked[0], torch.full_like(images, 0.6)
    assert torch.equal(made.best, start)
    assert not made.found.fell
    assert len(asked) == 11
    half, quarter = ((start + size).clamp_max(0.6) - start for size in (0.1, 0.05))
    pushed = (start + 0.75 * half + 0.25 * (start - end)).clamp(
        0.4, 0.6
    )  # the momentum is of the step before
    for number, expected in enumerate([start, end, end, pushed, start + 0.75 * quarter]):
        torch.testing.assert_close(asked[number], expected, msg=f"iterate {number}")


def test_a_linf_proposal_paints_one_square_of_the_scheduled_size():
    images, victim, asked = inner(3, 20), RowByRow(20), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: asked.append(x.clone()) or victim(x), 3)
    square.random_search(rows, images, labels, eps=1e-4, norm="linf", queries=60, p_init=0.1)
    steps = torch.stack([(x - images) / 1e-4 for x in asked])
    torch.testing.assert_close(steps.abs(), torch.ones_like(steps), atol=2e-3, rtol=0)
    stripes = steps[0].sign()
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    best, lowest = asked[0].clone(), [float("inf")] * 3
    corners = set()
    for number, x in enumerate(asked):
        side = {True: 6, False: 4}[number - 1 <= 10]  # round(sqrt(0.1 * 400)), then half the area
        for i in range(3):
            changed = (x[i] != best[i]).any(0)
            if number:
                down, along = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
                if len(down):
                    assert down[-1] - down[0] < side
                    assert along[-1] - along[0] < side
                    corners.add((number, int(down[0]), int(along[0])))
            logits = victim(x[i : i + 1])
            margin = -LOSSES["cw"](logits, labels[i : i + 1]).item()
            if margin < lowest[i]:
                best[i], lowest[i] = x[i], margin
    assert len({corner[1:] for corner in corners}) > 60, "windows do not differ by image and proposal"


def test_an_l2_proposal_has_the_radius_as_its_length():
    images, victim, asked = inner(3, 20), RowByRow(20), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: asked.append(x.clone()) or victim(x), 3)
    found = square.random_search(rows, images, labels, eps=0.05, norm="l2", queries=40, p_init=0.1)
    assert found.found.fell.sum() < 3
    for x in asked:
        owners = [min(range(3), key=lambda i, row=row: (row - images[i]).norm()) for row in x]
        lengths = (x - images[owners]).flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full((len(x),), 0.05), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_small_images_have_room_for_every_window(size):
    victim, images = RowByRow(size), inner(2, size)
    labels = victim(images).argmax(1)
    for norm in ("linf", "l2"):
        made, _ = run(Square(eps=0.01, norm=norm, queries=80, p_init=1.0), victim, images, labels)
        assert not torch.equal(made, images)


@pytest.mark.parametrize(
    ("attack", "differ"),
    [
        (APGD(eps=1.2 / 255, steps=15), 1),
        (APGD(eps=1.2 / 255, steps=15, loss="dlr"), 1),
        (APGD(eps=0.12, steps=15, norm="l2"), 1),
        (Square(eps=6 / 255, queries=60), 6),
        (Square(eps=0.4, queries=60, norm="l2"), 6),
        (AutoAttack(eps=1.2 / 255, steps=10, queries_of_square=20), 1),
        (AutoAttack(eps=0.12, norm="l2", steps=10, queries_of_square=20), 1),
    ],
    ids=str,
)
def test_the_library_leaves_the_same_images_standing(network, attack, differ):
    """But for `differ` of 32 at most, where the random starts or the proposals decide."""
    images = random_images(32, seed=5)
    data = Images(tuple(str(i) for i in range(32)), images, network(images).argmax(1))
    made, _ = run(attack, network, images, data.labels)
    with torch.random.fork_rng():
        other = theirs(attack, network, data)
    ours, library = ((network(x).argmax(1) == data.labels) for x in (made, other))
    assert 4 < ours.sum() < 28, f"a test that could not fail: {ours.sum()}"
    assert (ours != library).sum() <= differ, f"{ours.sum()} and {library.sum()}"


class Sure(nn.Module):
    """A classifier whose softmax is 1 to the last bit but for 1e-17."""

    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, images):
        return 1e-17 * (self.victim(images) - 50)


def test_tiny_gradients_are_no_robustness_in_l2():
    """Squares of a gradient of 1e-20 are zero in float32."""
    victim, images = Sure(RowByRow()), inner(6)
    labels = victim(images).argmax(1)
    made, _ = run(APGD(eps=0.3, norm="l2", steps=10, loss="cw"), victim, images, labels)
    assert (victim(made).argmax(1) != labels).all()
    found = fab.approach(
        rows_of(victim, 6),
        images,
        labels,
        victim(images).topk(2, 1).indices[:, 1],
        eps=0.3,
        norm="l2",
        steps=6,
    )
    assert found.fell.all()
