"""Local correlation by rows: it is that of the slow way, and its gradient is the derivative."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmorph.functional import similarity
from crossmorph.functional.local_correlation import FLOOR, local_correlation

SHAPE = (9, 8, 11)


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    moved, fixed = (torch.rand(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return moved, 0.6 * fixed + 0.4 * moved**2


def slow(moved: Tensor, fixed: Tensor, window: int, weight: Tensor, counted: Tensor | None = None) -> Tensor:
    """As the equation says, by the package's sums over shifted copies."""
    one = torch.ones_like(fixed) if counted is None else counted
    products = one * torch.stack([torch.ones_like(one), moved, fixed, moved**2, fixed**2, moved * fixed])[None]
    n, i, j, ii, jj, ij = similarity.box_sum(products, window)[0]
    if counted is not None:
        weight, n = weight * n / window**3, n.clamp_min(1)
    cross = ij - i * j / n
    squared = cross**2 / ((ii - i * i / n) * (jj - j * j / n) + FLOOR * window**3)
    return (weight * squared).sum() / weight.sum()


@pytest.mark.parametrize("window", [3, 5, 7, 9])
def test_value_and_gradient_are_those_of_the_equation(window: int) -> None:
    """In double precision, against automatic differentiation, twice, since the scratch space is used again."""
    moved, fixed = images()
    weight = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    correlation = local_correlation(fixed, window, weight)
    for image in (moved.flip(0), moved):
        image = image.clone().requires_grad_()
        wanted = slow(image, fixed, window, weight)
        (slope,) = torch.autograd.grad(wanted, image)
        value, found = correlation(image.detach(), True)
        assert value == pytest.approx(float(wanted.detach()), rel=1e-10)
        torch.testing.assert_close(found, slope, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("window", [3, 5])
def test_voxels_that_do_not_count_have_no_part(window: int) -> None:
    moved, fixed = images()
    generator = torch.Generator().manual_seed(7)
    weight = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    counted = (torch.rand(SHAPE, generator=generator) > 0.3).double()
    counted[:4, :4] = 0
    correlation = local_correlation(fixed, window, weight, counted)
    image = moved.clone().requires_grad_()
    wanted = slow(image, fixed, window, weight, counted)
    (slope,) = torch.autograd.grad(wanted, image)
    value, found = correlation(moved, True)
    assert value == pytest.approx(float(wanted.detach()), rel=1e-10)
    torch.testing.assert_close(found, slope, rtol=1e-8, atol=1e-12)
    spoilt = torch.where(counted > 0, moved, 9.0)
    assert correlation(spoilt, False)[0] == value


def test_the_gradient_by_differences() -> None:
    """Independent of any other derivative: of single voxels, border included."""
    moved, fixed = images()
    correlation = local_correlation(fixed, 5)
    slope = correlation(moved, True)[1]
    assert slope is not None
    slope = slope.clone()
    for place in [(0, 0, 0), (4, 3, 5), (8, 7, 10), (0, 4, 10)]:
        step = torch.zeros_like(moved)
        step[place] = 1e-5
        change = (correlation(moved + step, False)[0] - correlation(moved - step, False)[0]) / 2e-5
        assert float(slope[place]) == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("curve", [lambda x: 0.2 + 0.7 * x, lambda x: 0.9 - 0.5 * x])
def test_a_linear_curve_of_the_image_is_wholly_alike(curve: object) -> None:
    """Rising or falling; and a bias that changes slowly leaves it nearly so."""
    moved, _ = images()
    fixed = curve(moved)  # type: ignore[operator]
    value, slope = local_correlation(fixed, 5)(moved, True)
    assert value == pytest.approx(1, abs=1e-3)
    assert slope is not None
    assert slope.abs().max() < 1e-4
    bias = torch.linspace(0.9, 1.1, SHAPE[0], dtype=torch.float64)[:, None, None]
    assert local_correlation(fixed, 5)(moved * bias, False)[0] > 0.95


def test_constant_images_and_no_weight() -> None:
    moved, fixed = images()
    flat = torch.full_like(moved, 0.4)
    for one, other in ((flat, fixed), (moved, flat), (flat, flat)):
        value, slope = local_correlation(other, 5)(one, True)
        assert value == pytest.approx(0, abs=1e-9)
        assert slope is not None
        assert torch.isfinite(slope).all()
    value, slope = local_correlation(fixed, 5, torch.zeros_like(fixed))(moved, True)
    assert value == 0
    assert slope is not None
    assert not slope.any()


def test_only_weighted_windows_count() -> None:
    """Those of the inner part, cut out with half a window around it, are all that is left."""
    moved, fixed = images()
    weight = F.pad(torch.ones(3, 2, 5, dtype=torch.float64), [3] * 6)
    value = local_correlation(fixed, 5, weight)(moved, False)[0]
    part = tuple(slice(1, side - 1) for side in SHAPE)
    assert value == pytest.approx(local_correlation(fixed[part], 5, weight[part])(moved[part], False)[0], rel=1e-9)
    assert not math.isclose(value, local_correlation(fixed, 5)(moved, False)[0], rel_tol=1e-3)
