"""Displacement fields in millimetres: their algebra, and images resampled by them.

A :class:`Warp` is a pull-back in the world: the point ``x`` of the fixed space (RAS millimetres) shows what the
moving image has at ``x + d(x)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, inside, lattice, linear, majority, nearest, rotate, slabs
from crossmorph.images.image import Image

Resampling = Literal["linear", "nearest", "genericlabel"]


@dataclass(frozen=True, eq=False)
class Warp:
    """A pull-back ``x -> x + d(x)`` sampled on a grid.

    Attributes:
        displacement: ``d``, ``(dim, *space)``, float32 or float64, RAS millimetres.
        affine: voxel index to RAS millimetres of the grid it is sampled on, ``(dim + 1, dim + 1)``.
    """

    displacement: Float[ndarray, "components *space"]
    affine: Float[ndarray, "n n"]

    def __post_init__(self) -> None:
        """Refuse components and an affine of another dimension than the grid."""
        dim = self.displacement.ndim - 1
        if self.displacement.shape[0] != dim or self.affine.shape != (dim + 1, dim + 1):
            raise ValueError(
                f"a warp on {dim} axes needs {dim} components and an affine of shape {(dim + 1, dim + 1)},"
                f" got {self.displacement.shape[0]} and {self.affine.shape}"
            )

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.displacement.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels of the grid along each axis."""
        return self.displacement.shape[1:]


def voxel_displacement(warp: Warp) -> Float[ndarray, "dim *space"]:
    """The field in voxels of its own grid, component ``k`` along array axis ``k``: ``u = M^-1 d``."""
    return rotate(np.linalg.inv(linear_part(warp.affine)), warp.displacement)


def from_voxel_displacement(displacement: Float[ndarray, "dim *space"], affine: Float[ndarray, "dim+1 dim+1"]) -> Warp:
    """A warp of a field in voxels of its own grid: ``d = M u``, ``M`` the linear part of the grid's affine.

    Args:
        displacement: ``u``, ``(dim, *space)``, voxels, component ``k`` along array axis ``k``; its type is kept.
        affine: voxel index to RAS millimetres of the grid.
    """
    return Warp(rotate(linear_part(affine), displacement), np.asarray(affine, np.float64))


def resample(image: Image, warp: Warp, interpolation: Resampling = "linear") -> Image:
    """Bring a moving image or label map onto the warp's grid: ``moved(x) = moving(x + d(x))``, sampled once.

    The moving image reaches half a voxel beyond its outermost centres, where the edge value is held, and is 0 outside
    (ITK's rule), so the result is that of ``antsApplyTransforms`` and ``SimpleITK.Resample``. Besides the result,
    memory is needed for a slab of the grid and for the part of the moving image that it looks at.

    Args:
        image: the moving image, on any grid of the warp's dimension.
        warp: where each point of the fixed grid looks.
        interpolation: ``linear`` for intensities; for labels ``nearest`` (half-way cases go up) or ``genericlabel``,
            the label with most weight in linear interpolation, which gives smoother borders.

    Returns:
        Image on the warp's grid without a header (the fixed image's is the caller's to give): float32 where linear,
        else of the moving image's own type.

    Raises:
        InputError: image and warp differ in dimension.
    """
    if image.dim != warp.dim:
        raise InputError(f"a {warp.dim}-D transform cannot be applied to a {image.dim}-D image of shape {image.shape}")
    to_image = np.linalg.inv(image.affine)
    data = np.empty(warp.shape, np.float32 if interpolation == "linear" else image.data.dtype)
    for slab in slabs(warp.shape):
        coordinates = affine_slab(to_image @ warp.affine, warp.shape, slab)
        coordinates += rotate(linear_part(to_image), warp.displacement[:, slab].astype(np.float64))
        data[slab] = _SAMPLERS[interpolation](image.data, coordinates)
        data[slab][~inside(coordinates, image.shape)] = 0
    return Image(data, warp.affine, image.physical)


def resample_warp(warp: Warp, affine: Float[ndarray, "n n"], shape: tuple[int, ...]) -> Warp:
    """The same field on another grid: linear in millimetres, its edge values held beyond its own grid.

    Args:
        warp: the field; the type of its displacement is kept.
        affine: voxel index to RAS millimetres of the new grid.
        shape: shape of the new grid.
    """
    if warp.shape == tuple(shape) and np.array_equal(warp.affine, affine):
        return warp
    return Warp(
        lattice(warp.displacement, np.linalg.inv(warp.affine) @ affine, tuple(shape)), np.asarray(affine, np.float64)
    )


def followed_by(warp: Warp, matrix: Float[ndarray, "n n"]) -> Warp:
    """The warp and then an affine map, as one warp on the same grid: ``x -> A (x + d(x))``.

    Args:
        warp: the field that acts first; the type of its displacement is kept.
        matrix: ``A``, ``(dim + 1, dim + 1)``, RAS millimetres to RAS millimetres.
    """
    displacement = np.empty_like(warp.displacement)
    for slab in slabs(warp.shape):
        # A (x + d) - x = A d + (A - I) x, where x is an affine function of the voxel index.
        displacement[:, slab] = rotate(linear_part(matrix), warp.displacement[:, slab])
        displacement[:, slab] += affine_slab(matrix @ warp.affine - warp.affine, warp.shape, slab)
    return Warp(displacement, warp.affine)


def after_moving(warp: Warp, affine: Float[ndarray, "n n"]) -> Warp:
    """The warp of a grid that was moved before, told from where the grid lay: each voxel still ends where it did.

    Args:
        warp: the field on the moved grid; the type of its displacement is kept.
        affine: voxel index to RAS millimetres of the same voxels before they were moved.
    """
    displacement = warp.displacement.copy()
    for slab in slabs(warp.shape):
        displacement[:, slab] += affine_slab(warp.affine - affine, warp.shape, slab)
    return Warp(displacement, np.asarray(affine, np.float64))


def displacement_at(warp: Warp, points: Float64[ndarray, "dim *out"]) -> Float64[ndarray, "dim *out"]:
    """``d(x)`` at any points in RAS millimetres, linear between the grid's voxels, edge values held beyond it."""
    return linear(warp.displacement, transform_points(np.linalg.inv(warp.affine), points))


def transform_points(
    matrix: Float[ndarray, "n n"], points: Float64[ndarray, "dim *out"]
) -> Float64[ndarray, "dim *out"]:
    """``A x + t`` of every point."""
    return rotate(linear_part(matrix), points) + np.reshape(matrix[:-1, -1], (-1,) + (1,) * (points.ndim - 1))


def fields_overlap(moving: Image, fixed: Image) -> float:
    """Fraction of the fixed image's field of view, by voxel centres, that lies inside the moving image's."""
    matrix = np.linalg.inv(moving.affine) @ fixed.affine
    within = (inside(affine_slab(matrix, fixed.shape, slab), moving.shape) for slab in slabs(fixed.shape))
    return sum(int(slab.sum()) for slab in within) / fixed.data.size


def linear_part(affine: ndarray) -> ndarray:
    """The matrix of an affine map without its shift, float64."""
    return np.asarray(affine, np.float64)[:-1, :-1]


_SAMPLERS: dict[Resampling, Callable[[ndarray, ndarray], ndarray]] = {
    "linear": lambda data, coordinates: linear(data[None], coordinates)[0],
    "nearest": nearest,
    "genericlabel": majority,
}
