"""Targeted FAB: projections that a solver confirms, and the known distance to a linear boundary."""

import pytest
import torch
from conftest import rows_of
from scipy.optimize import minimize

from attacks import fab


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.99])
def test_the_nearest_point_of_a_plane_is_that_of_a_solver(norm, share):
    """The plane lies at `share` of what [0, 1] allows along the slope.

    One coordinate has no slope, and one is at the border.
    """
    draws = torch.Generator().manual_seed(5)
    point = torch.rand(1, 1, 1, 6, generator=draws)
    point[..., 1] = 1.0
    slope = torch.randn(1, 1, 1, 6, generator=draws)
    slope[..., 0] = 0.0
    for sign in (1, -1):
        room = torch.where(sign * slope > 0, 1 - point, point)
        offset = ((slope * point).sum() + sign * share * (slope.abs() * room).sum()).view(1)
        change = fab.nearest_on_plane(point, slope, offset, norm=norm)
        torch.testing.assert_close((slope * (point + change)).sum().view(1), offset, atol=1e-5, rtol=0)
        assert (point + change).min() >= -1e-6
        assert (point + change).max() <= 1 + 1e-6
        size = change.abs().max() if norm == "linf" else change.norm()
        assert size.item() == pytest.approx(solved(point, slope, offset, norm), abs=2e-4)


def solved(point, slope, offset, norm: str) -> float:
    """Return the size of the smallest change by SciPy: its l2 norm, or a bound on every coordinate."""
    p, w, b = (value.double().flatten().numpy() for value in (point, slope, offset))
    on_plane = {"type": "eq", "fun": lambda z: w @ (p + z[:6]) - b[0]}
    bounds = [(-x, 1 - x) for x in p]
    if norm == "l2":
        solution = minimize(lambda z: z @ z, 0 * p, bounds=bounds, constraints=[on_plane], tol=1e-10)
        return solution.fun**0.5
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
    distance = victim.margin(data.images).abs() / (
        victim.weight.abs().sum() if norm == "linf" else victim.weight.norm()
    )
    rows, settings = rows_of(victim, len(data)), {"norm": norm, "steps": 6}
    result = fab.approach(rows, data.images, data.labels, 1 - data.labels, eps=eps, **settings)
    assert 8 < result.fell.sum() < 56, "this test could not fail"
    assert result.fell[distance < 0.99 * eps].all()
    assert not result.fell[distance > eps].any()
    assert (victim(result.images).argmax(1) != data.labels).equal(result.fell)
    order = 2 if norm == "l2" else torch.inf
    assert ((result.images - data.images).flatten(1).norm(order, dim=1) <= eps * (1 + 1e-5)).all()
