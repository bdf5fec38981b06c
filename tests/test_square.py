"""The windows that Square proposes by the paper's schedule, and their length."""

import pytest
import torch
from conftest import RowByRow, inner_images, rows_of

from attacks import square
from attacks.losses import LOSSES


def test_a_linf_proposal_paints_one_square_of_the_scheduled_size():
    images, victim, proposals = inner_images(3, 20), RowByRow(20), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: proposals.append(x.clone()) or victim(x), 3)
    square.random_search(rows, images, labels, eps=1e-4, norm="linf", queries=60, p_init=0.1)
    steps = torch.stack([(x - images) / 1e-4 for x in proposals])
    torch.testing.assert_close(steps.abs(), torch.ones_like(steps), atol=2e-3, rtol=0)
    stripes = steps[0].sign()
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    best, lowest = proposals[0].clone(), [float("inf")] * 3
    corners = set()
    for number, x in enumerate(proposals):
        side = {True: 6, False: 4}[number - 1 <= 10]  # round(sqrt(0.1 * 400)), then half the area
        for i in range(3):
            changed = (x[i] != best[i]).any(0)
            if number:
                rows_changed, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
                if len(rows_changed):
                    assert rows_changed[-1] - rows_changed[0] < side
                    assert columns[-1] - columns[0] < side
                    corners.add((number, int(rows_changed[0]), int(columns[0])))
            logits = victim(x[i : i + 1])
            margin = -LOSSES["cw"](logits, labels[i : i + 1]).item()
            if margin < lowest[i]:
                best[i], lowest[i] = x[i], margin
    assert len({corner[1:] for corner in corners}) > 60, "windows do not differ by image and proposal"


def test_an_l2_proposal_has_the_radius_as_its_length():
    images, victim, proposals = inner_images(3, 20), RowByRow(20), []
    labels = victim(images).argmax(1)
    rows = rows_of(lambda x: proposals.append(x.clone()) or victim(x), 3)
    result = square.random_search(rows, images, labels, eps=0.05, norm="l2", queries=40, p_init=0.1)
    assert result.found.fell.sum() < 3
    for x in proposals:
        owners = [min(range(3), key=lambda i, row=row: (row - images[i]).norm()) for row in x]
        lengths = (x - images[owners]).flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full((len(x),), 0.05), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_small_images_have_room_for_every_window(size):
    victim, images = RowByRow(size), inner_images(2, size)
    labels = victim(images).argmax(1)
    for norm in ("linf", "l2"):
        result = square.random_search(
            rows_of(victim, 2), images, labels, eps=0.01, norm=norm, queries=80, p_init=1.0
        )
        assert not torch.equal(result.found.images, images)
        assert torch.isfinite(result.margins).all()
