"""Displacement fields in millimetres: their algebra, and images resampled by them.

A :class:`Warp` is a pull-back in the world: the point ``x`` of the fixed space (RAS millimetres) shows what the
moving image has at ``x + d(x)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, inside, lattice, linear, majority, nearest, rotate, slabs
from crossmorph.functional.spatial import jacobian_determinant
from crossmorph.images.image import Image, ImageLike
from crossmorph.images.label_maps import holds_labels

Resampling = Literal["linear", "nearest", "genericlabel"]
Interpolation = Resampling | Literal["auto"]
INVERSE_STEPS = 100
TOLERANCE = 1e-4  # voxels of the warp's grid, by which an inverse may miss
FIT_POINTS = 24  # along each axis, for the affine map that a warp is nearest to


@runtime_checkable
class Lattice(Protocol):
    """What has a grid: the affine from voxel index to RAS millimetres, and the number of voxels along each axis."""

    @property
    def affine(self) -> Float[ndarray, "n n"]: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


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

    @classmethod
    def identity(cls, grid: "Lattice") -> "Warp":
        """No displacement, on the grid of an image, a warp or a :class:`crossmorph.transforms.grid.Grid`; float32."""
        return cls(np.zeros((len(grid.shape), *grid.shape), np.float32), grid.affine)

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.displacement.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels of the grid along each axis."""
        return self.displacement.shape[1:]

    def __repr__(self) -> str:
        grid = " x ".join(map(str, self.shape))
        return f"Warp({grid} voxels, up to {np.linalg.norm(self.displacement, axis=0).max():.3g} mm)"

    def apply(self, image: ImageLike, interpolation: Interpolation = "auto") -> Image:
        """A moving image or label map on the warp's grid, see :func:`resample`.

        Args:
            image: a path, a nibabel or SimpleITK image, ``(array, affine)``, or an :class:`Image`.
            interpolation: as of :func:`resample`; ``auto`` is ``nearest`` where the image evidently holds labels (see
                :func:`crossmorph.images.label_maps.holds_labels`) and ``linear`` elsewhere.

        Raises:
            InputError: the image cannot be used, or has another dimension.
        """
        ours = Image.of(image)
        return resample(ours, self, interpolation_for([ours]) if interpolation == "auto" else interpolation)

    def inverse(self) -> "Warp":
        """The inverse on the same grid, to a ten-thousandth of a voxel at each of its voxels.

        Raises:
            InputError: it cannot be found, since the warp folds.
        """
        back = np.linalg.inv(nearest_affine(self))
        rest = followed_by(self, back)
        displacement = np.empty(self.displacement.shape, np.float64)
        for slab in slabs(self.shape):
            points = affine_slab(self.affine, self.shape, slab)
            displacement[:, slab] = inverse_points(rest, transform_points(back, points)) - points
        return Warp(displacement.astype(self.displacement.dtype), self.affine)

    def jacobian(self) -> Float32[ndarray, "*space"]:
        """``det(I + dd/dx)`` at every voxel, see :func:`jacobian`."""
        return jacobian(self)


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
    memory is needed for a slab of the grid and for the part of the moving image that it maps to.

    Args:
        image: the moving image, on any grid of the warp's dimension.
        warp: maps each point of the fixed grid into the moving image.
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


def interpolation_for(images: Sequence[Image]) -> Resampling:
    """What is right for the volumes of an image: ``nearest`` where all evidently hold labels, else ``linear``."""
    return "nearest" if all(holds_labels(image.data) for image in images) else "linear"


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
    """The warp of a grid that was moved before, on the grid as it lay before: each voxel still ends where it did.

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


def field_of_view(image: Image, affine: Float[ndarray, "n n"], shape: tuple[int, ...]) -> Bool[ndarray, "*out"]:
    """Where the voxel centres of a grid lie in an image's field of view."""
    matrix = np.linalg.inv(image.affine) @ affine
    return np.concatenate([inside(affine_slab(matrix, shape, slab), image.shape) for slab in slabs(shape)])


def fields_overlap(moving: Image, fixed: Image) -> float:
    """Fraction of the fixed image's field of view, by voxel centres, that lies inside the moving image's."""
    return float(field_of_view(moving, fixed.affine, fixed.shape).mean())


def linear_part(affine: ndarray) -> ndarray:
    """The matrix of an affine map without its shift, float64."""
    return np.asarray(affine, np.float64)[:-1, :-1]


_SAMPLERS: dict[Resampling, Callable[[ndarray, ndarray], ndarray]] = {
    "linear": lambda data, coordinates: linear(data[None], coordinates)[0],
    "nearest": nearest,
    "genericlabel": majority,
}


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


def inverse_points(warp: Warp, ends: Float64[ndarray, "dim *out"]) -> Float64[ndarray, "dim *out"]:
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
