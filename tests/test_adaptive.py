"""The adaptive attack: its members, its budget, what it skips and reports, and defenses that must break."""

import pytest
import torch
from conftest import Noise, RowByRow, inner_images

from attacks.adaptive import ITSELF, Adaptive
from attacks.auto_attack import AutoAttack
from attacks.knowledge import BPDA, Blind, Full, Score, UnsuitedError
from attacks.members import DRAWS, DRAWS_OF_A_FIT, cost, judging_draws
from attacks.open_defense import Everything
from attacks.target import Target
from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.dip import DIP, DIPTrace
from purifiers.identity import Identity
from purifiers.jpeg import JPEG
from purifiers.median import Median
from purifiers.networks.fcn import FCN
from purifiers.networks.skipnet import SkipNet
from purifiers.purifier import Purifier
from purifiers.randomization import Randomization
from purifiers.ride import RIDE, RIDETrace

SMALL = DIPTrace(network=SkipNet(down=[8], up=[8], skip=[2], kernel_down=[3], kernel_up=[3]))
AUTO = ["APGD-CE", "APGD-T", "FAB-T", "Square"]
FITTED = ["bpda fixed draw", "bpda fresh draws", "bpda eot"]
UNROLLED = ["unrolled 1", "unrolled 5", "unrolled 20", "unrolled all"]
END = ["blind ce", "square"]


def names(purifier, classes=10):
    logits, labels = torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64)
    return [member.name for member in Adaptive().plan(purifier, logits, labels)]


@pytest.mark.parametrize(
    ("purifier", "expected"),
    [
        (Identity(), AUTO),
        (Median(), [AUTO[0], "bpda ce", "blind ce", *AUTO[1:]]),
        (JPEG(), ["bpda ce", "bpda cw", "bpda dlr", *END]),
        (
            Randomization(),
            [f"full {name}" for name in ("fixed draw", "fresh draws", "eot ce", "eot cw", "eot dlr")]
            + ["blind ce", "square eot"],
        ),
        (DIP(trace=SMALL, steps=40), [*FITTED, "bpda iterates", *UNROLLED, "surrogate 10 steps", *END]),
        (
            DIP(trace=SMALL, steps=4),
            [*FITTED, "bpda iterates", "unrolled 1", "unrolled all", "surrogate 1 steps", *END],
        ),
        (
            DDIP(trace=SMALL, steps=40),
            [*FITTED, "bpda iterates", "bpda crossings", *UNROLLED, "surrogate 10 steps", *END],
        ),
        (
            RIDE(trace=RIDETrace(network=FCN(filters=[4]), iterations=3), checkpoints=1),
            [*FITTED, "bpda iterates", "surrogate 1 steps", *END],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Purifier) else "",
)  # fmt: skip
def test_the_members_follow_from_the_traits(purifier, expected):
    assert names(purifier) == expected


def test_few_classes_leave_out_what_needs_more():
    assert names(Identity(), classes=3) == ["full ce", "full cw", "full dlr", *END]
    assert names(JPEG(), classes=2) == ["bpda ce", "bpda cw", *END]


def test_the_standard_budget_for_deterministic_defenses_is_autoattacks():
    logits, labels = torch.zeros(2, 10), torch.zeros(2, dtype=torch.int64)
    members = Adaptive().plan(Identity(), logits, labels)
    official = AutoAttack()
    assert cost(members, 1) == (official.forward, official.backward)


def run(attack, victim, purifier, images, labels, knowledge=None):
    seeds = list(range(50, 50 + len(images)))
    target = (knowledge or Everything()).target(victim, purifier, [], seeds=seeds, batch=len(images))
    return attack(target, images, labels, seeds=seeds), target


@pytest.mark.parametrize(
    "purifier",
    [Identity(), JPEG(), Noise(sigma=0.02), DIP(trace=SMALL, steps=4)],
    ids=lambda p: type(p).__name__,
)
def test_a_budget_is_kept_and_told(purifier):
    victim, images = RowByRow(), inner_images(2)
    logits = victim(images)
    labels = logits.argmax(1)
    least = cost(Adaptive().plan(purifier, logits, labels), judging_draws(purifier))[0]
    with pytest.raises(
        InputError, match=r"attack\.budget: expected at least the .* of one step of each"
    ) as error:
        Adaptive(budget=1).plan(purifier, logits, labels)
    smallest = int(str(error.value).split("at least the ")[1].split()[0])
    budget = smallest + (least - smallest) // 50
    result, target = run(Adaptive(eps=1e-6, budget=budget), victim, purifier, images, labels)
    for note, count in zip(result.notes, target.counts, strict=True):
        assert count.forward <= note["budget"][0] <= budget
        assert count.backward <= note["budget"][1]
        passes = sum(member["forward"] for member in note["members"])
        assert passes == count.forward - judging_draws(purifier)
    assert Adaptive(budget=budget).reduced == f"budget {budget}"
    assert Adaptive().reduced == ""


def test_an_image_that_is_broken_is_attacked_no_more():
    """The first image is misclassified, the second falls to the first member, the third stands to the end."""
    victim, images = RowByRow(), inner_images(3)
    logits = victim(images)
    labels = logits.argmax(1)
    images[2] = 0.5 + 0.3 * victim.weight[1].sign().view_as(images[2])
    labels[0], labels[2] = logits[0].argmin(), 1
    result, target = run(Adaptive(eps=0.01, budget=700), victim, Identity(), images, labels)
    itself, first, last = result.notes
    assert (itself["by"], itself["members"], target.counts[0].forward) == (ITSELF, [], 1)
    assert first["by"] == "APGD-CE"
    assert [member["member"] for member in first["members"]] == ["APGD-CE"]
    assert first["misled"] == 1
    assert (last["by"], last["misled"]) == ("", 0)
    assert [member["member"] for member in last["members"]] == AUTO == last["planned"]
    assert torch.equal(result.images[0], images[0])
    assert torch.equal(result.images[2], images[2])
    assert victim(result.images[1:2]).argmax(1) != labels[1]
    assert [list(seconds) for seconds in result.seconds] == [[], ["APGD-CE"], AUTO]


def test_autoattacks_four_break_what_autoattack_breaks():
    victim, images = RowByRow(), inner_images(24)
    labels = victim(images).argmax(1)
    budget, eps = 2000, 0.0025
    result, _ = run(Adaptive(eps=eps, budget=budget), victim, Identity(), images, labels)
    theirs, _ = run(
        AutoAttack(eps=eps, steps=10, queries_of_square=100), victim, Identity(), images, labels, Full()
    )
    ours, stands = (victim(attacked.images).argmax(1) == labels for attacked in (result, theirs))
    assert 4 < stands.sum() < 20, "this test could not fail"
    assert torch.equal(ours, stands)


def test_an_image_has_the_same_example_alone_and_among_others():
    victim, images, purifier = RowByRow(), inner_images(4), DIP(trace=SMALL, steps=4)
    labels = victim(purifier(images, seeds=[1] * 4)).argmax(1)
    attack = Adaptive(eps=8 / 255, budget=110)
    together, _ = run(attack, victim, purifier, images, labels)
    seeds = [52]
    target = Everything().target(victim, purifier, [], seeds=seeds, batch=4)
    alone = attack(target, images[2:3], labels[2:3], seeds=seeds)
    assert torch.equal(together.images[2:3], alone.images)
    assert together.notes[2] == alone.notes[0]
    depths = [member for member in alone.notes[0]["members"] if "cosine" in member]
    assert all(len(member["cosine"]) == len(member["growth"]) > 0 for member in depths)


class Rounding(Purifier):
    """A purifier that rounds all values, so that its gradient is 0 wherever it exists; nothing is robust."""

    def purify(self, images, seeds, victim):
        return (images * 64).round() / 64


@pytest.mark.parametrize("purifier", [Rounding(), Noise(sigma=0.05)], ids=["masked", "random"])
def test_what_only_masks_gradients_or_only_draws_is_broken(purifier):
    """Every image of the bare victim falls within this ball, so there is no robustness to be found."""
    victim, images = RowByRow(), inner_images(8)
    labels = victim(images).argmax(1)
    result, _ = run(Adaptive(eps=4 / 255, budget=1500), victim, purifier, images, labels)
    draws = [purifier(result.images, seeds=list(range(r, r + 8))) for r in range(100, 180, 8)]
    standing = torch.stack([victim(images).argmax(1) == labels for images in draws])
    assert standing.float().mean() < 0.1, [note["by"] for note in result.notes]


class Misleading(Purifier):
    """A purifier that changes no decision, and whose exact gradient is the opposite of the victim's."""

    gradient = "exact"

    def purify(self, images, seeds, victim):
        return images.detach() - (images - images.detach())


def test_an_exact_gradient_that_leads_nowhere_is_not_the_only_one_that_is_followed():
    """Blind, the attack breaks every image; along the purifier's own gradient it breaks none."""
    victim, images = RowByRow(), inner_images(4)
    labels = victim(images).argmax(1)
    result, _ = run(Adaptive(eps=0.02, budget=300), victim, Misleading(), images, labels)
    assert (victim(result.images).argmax(1) != labels).all()
    assert {note["by"] for note in result.notes} == {"bpda ce"}


def test_it_needs_everything():
    for knowledge in (Blind(), BPDA(), Full(), Score()):
        with pytest.raises(UnsuitedError, match=r"Adaptive needs everything.*\(knowledge=everything\)"):
            knowledge.check(Adaptive(), Identity())
    Everything().check(Adaptive(), Identity())
    target = Target(lambda images, seeds: images.flatten(1), seeds=[1])
    with pytest.raises(InputError, match="take knowledge=everything"):
        Adaptive()(target, inner_images(1), torch.tensor([0]), seeds=[1])


def test_how_many_draws_judge_an_example():
    assert [judging_draws(p) for p in (JPEG(), Noise(), DIP(trace=SMALL, steps=4))] == [
        1,
        DRAWS,
        DRAWS_OF_A_FIT,
    ]
