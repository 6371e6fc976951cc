"""Several transforms one after another: points through them, the inverse of any of them, all of them as one warp.

A step is an affine map, a warp, or the inverse of a warp. Steps stand in the order in which a point of the fixed space
goes through them, which is the order of ``antsApplyTransforms -t``: the last moves the moving image first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, slabs
from crossmorph.functional.spatial import jacobian_determinant
from crossmorph.transforms.warp import (
    Warp,
    displacement_at,
    followed_by,
    resample_warp,
    transform_points,
    voxel_displacement,
)

INVERSE_STEPS = 100
TOLERANCE = 1e-4  # voxels of the warp's grid, by which an inverse may miss
FIT_POINTS = 24  # along each axis, for the affine map that a warp is nearest to


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
            points = _solve(step.warp, points)
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


def nearest_affine(warp: Warp) -> Float64[ndarray, "n n"]:
    """The affine map nearest to a warp, by least squares over a sample of its grid; the identity where none is near."""
    strides = tuple(slice(None, None, -(-size // FIT_POINTS)) for size in warp.shape)
    axes = [np.arange(size)[stride] for size, stride in zip(warp.shape, strides, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"))
    points = transform_points(warp.affine, index.astype(np.float64))
    ends = (points + warp.displacement[:, *strides]).reshape(warp.dim, -1)
    homogeneous = np.vstack([points.reshape(warp.dim, -1), np.ones(ends.shape[1])])
    matrix = np.eye(warp.dim + 1)
    matrix[:-1] = np.linalg.lstsq(homogeneous.T, ends.T, rcond=None)[0].T
    # A grid of one layer, or a warp that turns all inside out, is like no affine map.
    return matrix if np.linalg.det(matrix) > 0.1 else np.eye(warp.dim + 1)


def jacobian(warp: Warp) -> Float32[ndarray, "*space"]:
    """``det(I + dd/dx)`` at every voxel of a warp's grid: how much larger the moving anatomy is than the fixed.

    By central differences, one-sided at the ends. In voxels of the grid: with ``d = M u`` and ``x = M i + t``,
    ``det(I + dd/dx) = det(M (I + du/di) M^-1) = det(I + du/di)`` on anisotropic and oblique grids alike.

    Raises:
        InputError: the grid has an axis of one voxel, along which there is no derivative.
    """
    if min(warp.shape) < 2:
        raise InputError(f"a warp of shape {warp.shape} has no Jacobian: expected two voxels or more along each axis")
    result = np.empty(warp.shape, np.float32)
    for slab in slabs(warp.shape):
        # One layer more at each side, for the differences across the slab's border.
        first, last = max(slab.start - 1, 0), min(slab.stop + 1, warp.shape[0])
        part = Warp(warp.displacement[:, first:last].astype(np.float64), warp.affine)
        determinant = jacobian_determinant(torch.from_numpy(voxel_displacement(part))[None])[0].numpy()
        result[slab] = determinant[slab.start - first : slab.stop - first]
    return result


def _solve(warp: Warp, ends: Float64[ndarray, "dim *out"]) -> Float64[ndarray, "dim *out"]:
    """Where points must lie for a warp to move them to ``ends``: the fixed point of ``x <- x + rate (end - x - w(x))``.

    The rate begins at 1 (Chen et al., Med. Phys. 2008, doi:10.1118/1.2816107) and is halved at each point that does not
    come nearer, so that it converges where a warp stretches, and not only where it is a contraction.
    """
    enough = TOLERANCE * float(np.linalg.norm(warp.affine[:-1, :-1], axis=0).min())
    points, goals = (array.reshape(warp.dim, -1) for array in (ends.copy(), ends))
    active = np.arange(points.shape[1])
    rate, before = np.ones(active.size), np.full(active.size, np.inf)
    for _ in range(INVERSE_STEPS):
        miss = goals[:, active] - points[:, active] - displacement_at(warp, points[:, active])
        size = np.linalg.norm(miss, axis=0)
        left = size > enough
        if not left.any():
            return points.reshape(ends.shape)
        active, rate, before, size, miss = active[left], rate[left], before[left], size[left], miss[:, left]
        rate[size > 0.9 * before] *= 0.5
        before = size
        points[:, active] += rate * miss
    determinant = jacobian(warp)
    folds = int((determinant <= 0).sum())
    raise InputError(
        f"the transform cannot be inverted: after {INVERSE_STEPS} steps {active.size} of {points.shape[1]}"
        f" points miss by up to {size.max():.3g} mm; it folds (Jacobian not positive) at {folds} of {determinant.size}"
        " voxels"
    )
