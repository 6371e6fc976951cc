"""B-splines on voxels: spreading and gathering are transposes, and nothing reaches the border."""

import pytest
import torch

from crossmorph.functional import spatial
from crossmorph.functional.control_points import control_points, doubled, gather, spread

SPACE = (25, 28, 31)


@pytest.mark.parametrize("apart", [1, 2, 3])
def test_gathering_is_the_transpose_of_spreading(apart: int) -> None:
    """``<B c, f> = <c, B' f>``."""
    points = [control_points(side, apart) for side in SPACE]
    controls, field = (torch.randn(3, *shape, dtype=torch.float64) for shape in (points, SPACE))
    left, right = (spread(controls, apart, SPACE) * field).sum(), (controls * gather(field, apart)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)


@pytest.mark.parametrize("apart", [1, 2, 3])
def test_equal_control_points_move_the_middle_evenly_and_the_border_not_at_all(apart: int) -> None:
    points = [control_points(side, apart) for side in SPACE]
    field = spread(torch.ones(3, *points, dtype=torch.float64), apart, SPACE)
    middle = (slice(10, 14),) * 3
    torch.testing.assert_close(field[(..., *middle)], torch.ones_like(field[(..., *middle)]))
    for axis in (1, 2, 3):
        assert not field.select(axis, 0).any()
        assert not field.select(axis, -1).any()


def test_one_control_point_is_the_cubic_spline() -> None:
    """``2/3`` at the point, ``1/6`` a spacing away along an axis."""
    points = [control_points(side, 2) for side in SPACE]
    controls = torch.zeros(3, *points, dtype=torch.float64)
    controls[0, 1, 1, 1] = 1
    field = spread(controls, 2, SPACE)[0]
    assert float(field[6, 6, 6]) == pytest.approx((2 / 3) ** 3)
    assert float(field[8, 6, 6]) == pytest.approx((2 / 3) ** 2 / 6)
    assert float(field[10, 6, 6]) == 0


def test_doubling_is_resizing() -> None:
    field = torch.randn(3, 5, 6, 7)
    torch.testing.assert_close(doubled(field)[None], spatial.resize(field[None], (10, 12, 14)))
