"""Cubic B-splines whose control points lie on voxels, and fields twice as fine: the steps of a refinement, fast.

Sums of shifted copies throughout, and no product of matrices, whose order of summation depends on the number of
threads. Fields of three components without a batch, ``(3, *space)``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.functional import spatial


def control_points(side: int, apart: int) -> int:
    """How many lie along a side such that the spline of none reaches the border, where nothing may move."""
    return max(1, (side - 1 - 4 * apart) // apart + 1)


def _taps(apart: int) -> list[tuple[int, float]]:
    """The cubic B-spline at the voxels around a control point: how far away, and its value there."""
    values = spatial.bspline_basis(8 * apart + 1, float(apart))
    middle = values[:, values.shape[1] // 2]
    return [(place - 4 * apart, float(value)) for place, value in enumerate(middle) if value > 0]


def spread(controls: Float[Tensor, "3 *points"], apart: int, space: tuple[int, ...]) -> Float[Tensor, "3 *space"]:
    """Voxels of the cubic B-splines of control points ``apart`` voxels apart, the first ``2 apart`` from the border.

    By sums of shifted copies, not by a product of matrices, whose order of summation depends on the number of threads.
    """
    for axis, side in enumerate(space, start=1):
        count = controls.shape[axis]
        wide = controls.new_zeros(*controls.shape[:axis], side, *controls.shape[axis + 1 :])
        for place, value in _taps(apart):
            wide[_every(axis, 2 * apart + place, apart, count)].add_(controls, alpha=value)
        controls = wide
    return controls


def gather(field: Float[Tensor, "3 *space"], apart: int) -> Float[Tensor, "3 *points"]:
    """The transpose of :func:`spread`."""
    for axis in (1, 2, 3):
        count = control_points(field.shape[axis], apart)
        narrow = field.new_zeros(*field.shape[:axis], count, *field.shape[axis + 1 :])
        for place, value in _taps(apart):
            narrow.add_(field[_every(axis, 2 * apart + place, apart, count)], alpha=value)
        field = narrow
    return field


def _every(axis: int, first: int, apart: int, count: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(first, first + apart * (count - 1) + 1, apart))


def doubled(field: Float[Tensor, "3 *space"]) -> Float[Tensor, "3 *twice"]:
    """The field on a grid of half the spacing over the same extent: linear, edges held, in the new voxels.

    As :func:`crossmorph.functional.spatial.resize` does it, in less than half the time: the long rows of the last axis
    are written while there are fewest, and nothing is copied to be interleaved.
    """
    field = 2 * field
    for axis in (3, 2, 1):
        side = field.shape[axis]
        wide = field.new_empty(*field.shape[:axis], side, 2, *field.shape[axis + 1 :])
        here, ahead = field.narrow(axis, 0, side - 1), field.narrow(axis, 1, side - 1)
        for place, edge, start, others in ((0, 0, 1, (ahead, here)), (1, side - 1, 0, (here, ahead))):
            half = wide.select(axis + 1, place)
            torch.lerp(*others, 0.25, out=half.narrow(axis, start, side - 1))
            half.select(axis, edge).copy_(field.select(axis, edge))
        field = wide.flatten(axis, axis + 1)
    return field
