"""World frames and image axes: ITK's LPS and nibabel's RAS millimetres, two axes of a three-dimensional world."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError

# Below this a slice's in-plane axes are lost when the through-plane world axis is dropped (a coronal or sagittal
# slice).
SINGULAR_DIRECTION = 1e-3

# Millimetres: from a microscope's voxels to larger than any body.
SPACINGS = (1e-5, 1e6)


def spatial_axes(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that make an image of two or three axes: of three of which one has one voxel, the other two.

    Args:
        path: the file, for errors.
        shape: of the file, trailing axes of one voxel included.

    Raises:
        InputError: fewer than two axes, or more than three of more than one voxel.
    """
    if len(shape) < 2 or max(shape[3:], default=1) > 1:
        raise InputError(
            f"{path}: has shape {shape}, expected a 2-D or 3-D image; extract one volume of a series first"
        )
    layers = [axis for axis, size in enumerate(shape[:3]) if size == 1]
    flat = max(layers, default=3) if len(shape) > 2 else 2
    return tuple(axis for axis in range(3) if axis != flat)


def spatial_affine(path: Path, affine: Float[ndarray, "m m"], kept_axes: tuple[int, ...]) -> Float[ndarray, "n n"]:
    """The affine of some axes of an image; of a slice of a volume see :mod:`crossmorph.images.nifti`.

    Args:
        path: the file, for errors.
        affine: index to RAS millimetres of all its axes.
        kept_axes: axes to keep, see :func:`spatial_axes`.

    Raises:
        InputError: the result is singular, not finite, or has an implausible voxel size.
    """
    axes, dim = len(affine) - 1, len(kept_axes)
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.linalg.norm(affine[:axes, list(kept_axes)], axis=0)
    if not np.isfinite(spacing).all():
        raise InputError(f"{path}: its affine is singular or not finite")
    # ITK keeps the world axes of the same numbers, in its own frame.
    kept = lps_to_ras(lps_to_ras(affine)[np.ix_([*kept_axes, axes], [*kept_axes, axes])])
    if abs(np.linalg.det(kept[:dim, :dim] / np.where(spacing > 0, spacing, 1))) < SINGULAR_DIRECTION:
        if axes == dim:
            advice = "; a coronal or sagittal slice must be stored with three axes, (X, Y, 1)" if dim == 2 else ""
            raise InputError(f"{path}: its affine is singular in {dim} dimensions and ITK cannot read it{advice}")
        kept[:dim, :dim] = lps_to_ras(np.diag([*spacing, 1]))[:dim, :dim]
    if not np.isfinite(kept).all() or spacing.min() == 0:
        raise InputError(f"{path}: its affine is singular or not finite")
    if spacing.min() < SPACINGS[0] or spacing.max() > SPACINGS[1]:
        sizes = " x ".join(f"{size:g}" for size in spacing)
        raise InputError(f"{path}: its voxels are {sizes} mm, expected {SPACINGS[0]:g} to {SPACINGS[1]:g} mm")
    return kept


def embed_affine(affine: Float[ndarray, "3 3"]) -> Float[ndarray, "4 4"]:
    """A 4 x 4 affine of orthogonal columns from which ITK's 2-D reader gives back a 2-D affine, sheared or not.

    ITK keeps the spacing (the norm of a column in 3-D) and normalises the in-plane part of the column. With unit
    in-plane directions ``d0, d1`` of cosine ``c``, the columns ``s0 (a d0, z)`` and ``s1 (a d1, -sign(c) z)`` with
    ``a^2 = 1 / (1 + |c|)`` and ``z^2 = 1 - a^2`` are orthogonal and of norms ``s0, s1``.

    Args:
        affine: index to in-plane RAS millimetres.

    Returns:
        Index to RAS millimetres; slice at z = 0, 1 mm thick.
    """
    spacing = np.linalg.norm(affine[:2, :2], axis=0)
    unit = affine[:2, :2] / spacing
    cosine = float(unit[:, 0] @ unit[:, 1])
    if abs(cosine) < 1e-7:
        cosine = 0.0
    inplane = 1 / math.sqrt(1 + abs(cosine))
    tilt = math.sqrt(1 - inplane**2)
    columns = np.vstack([unit * inplane, [tilt, -math.copysign(tilt, cosine)]])
    normal = np.cross(columns[:, 0], columns[:, 1])
    embedded = np.eye(4)
    embedded[:3, :2] = columns * spacing
    embedded[:3, 2] = normal * (1 if normal[2] > 0 else -1)
    embedded[:2, 3] = affine[:2, 2]
    return embedded


def lps_to_ras(matrix: Float[ndarray, "n n"]) -> Float[ndarray, "n n"]:
    """Turn an index-to-LPS matrix into index-to-RAS, or back: the first two world axes change sign."""
    flipped = np.array(matrix, np.float64)
    flipped[:2] *= -1
    return flipped


def itk_affine(
    spacing: tuple[float, ...], direction: tuple[float, ...], origin: tuple[float, ...]
) -> Float[ndarray, "n n"]:
    """Index-to-RAS matrix of ITK's (LPS) spacing, direction (row by row) and origin: ``LPS = D diag(s) index + o``."""
    dim = len(spacing)
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = np.reshape(direction, (dim, dim)) * np.asarray(spacing)
    matrix[:dim, dim] = origin
    return lps_to_ras(matrix)
