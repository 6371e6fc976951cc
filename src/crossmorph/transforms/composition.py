"""Several transforms one after another: points through them, the inverse of any of them, all of them as one warp.

A step is an affine map, a warp, or the inverse of a warp. Steps stand in the order in which a point of the fixed space
goes through them, which is the order of ``antsApplyTransforms -t``: the last moves the moving image first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, slabs
from crossmorph.transforms.warp import (
    Warp,
    displacement_at,
    followed_by,
    inverse_points,
    nearest_affine,
    resample_warp,
    transform_points,
)


class Inverse(NamedTuple):
    """The inverse of ``x -> x + w(x)``, found point by point."""

    warp: Warp


Step = Warp | Inverse | Float64[ndarray, "n n"]


def dim_of(step: Step) -> int:
    """Number of spatial axes that a step acts on."""
    if isinstance(step, Inverse):
        return step.warp.dim
    return step.dim if isinstance(step, Warp) else len(step) - 1


def move_points(steps: Sequence[Step], points: Float64[ndarray, "dim *out"]) -> Float64[ndarray, "dim *out"]:
    """Points of the fixed space, in RAS millimetres, to where the moving image shows the same.

    A warp is linear between the voxels of its grid, and its edge values are held beyond it.

    Raises:
        InputError: a step is an inverse that cannot be found.
    """
    for step in steps:
        if isinstance(step, Inverse):
            points = inverse_points(step.warp, points)
        elif isinstance(step, Warp):
            points = points + displacement_at(step, points)
        else:
            points = transform_points(step, points)
    return points


def inverted(steps: Sequence[Step]) -> list[Step]:
    """The steps that undo these.

    A warp is the affine map ``A`` that it is nearest to behind a smaller warp ``x + w(x)``, and only that one is
    inverted step by step; beyond the edge of the grid the inverse goes on as ``A`` does.
    """
    undone: list[Step] = []
    for step in reversed(steps):
        if isinstance(step, Inverse):
            undone.append(step.warp)
        elif isinstance(step, Warp):
            back = np.linalg.inv(nearest_affine(step))
            undone += [back, Inverse(followed_by(step, back))]
        else:
            undone.append(np.linalg.inv(step))
    return undone


def as_warp(steps: Sequence[Step], affine: Float[ndarray, "n n"], shape: tuple[int, ...]) -> Warp:
    """All steps as one warp on a grid.

    Args:
        steps: in the order in which points go through them.
        affine: voxel index to RAS millimetres of the grid.
        shape: of the grid.

    Raises:
        InputError: a step is an inverse that cannot be found.
    """
    if len(steps) == 1 and isinstance(steps[0], Warp):
        return resample_warp(steps[0], affine, shape)
    displacement = np.empty((len(shape), *shape))
    for slab in slabs(shape):
        points = affine_slab(affine, shape, slab)
        displacement[:, slab] = move_points(steps, points) - points
    return Warp(displacement, np.asarray(affine, np.float64))


def compose(first: Warp, *others: Warp) -> Warp:
    """Several warps as one, on the grid of the first, which acts first on points: ``x -> others(first(x))``.

    An image moved by the result is what an image moved by the last, then by the one before, and so on would be, but is
    sampled once.

    Raises:
        InputError: warps of different dimension.
    """
    for warp in others:
        if warp.dim != first.dim:
            raise InputError(f"warps of {first.dim} and {warp.dim} dimensions cannot be composed")
    return as_warp([first, *others], first.affine, first.shape)
