"""Displacement fields in millimetres: onto images, between grids, and to and from the files of ITK and ANTs.

A :class:`Warp` is a pull-back in the world: the point ``x`` of the fixed space (RAS millimetres) shows what the
moving image has at ``x + d(x)``. Files hold the same field in ITK's LPS millimetres, on the fixed image's grid:

* ``.h5``: ITK composite transform ``[AffineTransform, DisplacementFieldTransform]``, float64; the last added acts
  first, so a point goes through the field and then through the (identity) affine;
* ``.nii``, ``.nii.gz``: the warp of ANTs and ITK, ``(X, Y, Z, 1, 3)`` or ``(X, Y, 1, 1, 2)``, float32, NIfTI intent
  1007.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.files import atomic_output, readable, suffix_of
from crossmorph.formats import quiet_itk
from crossmorph.image import Image
from crossmorph.interpolate import affine_slab, inside, lattice, linear, majority, nearest, rotate, slabs
from crossmorph.itk_transforms import Part, affine_part, read_itk_transform, write_hdf5
from crossmorph.nifti import embed_affine, itk_affine, lps_to_ras, read_affine, read_nifti

Resampling = Literal["linear", "nearest", "genericlabel"]
TRANSFORM_SUFFIXES = (".h5", ".nii.gz", ".nii")

# NIfTI intent codes of vector data, and their world: ITK passes 1007 (vector) through as LPS, and since 5.4 reads
# 1006 (displacement) as RAS.
VECTOR_INTENT = 1007
DISPLACEMENT_INTENT = 1006


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
    return rotate(np.linalg.inv(_matrix(warp.affine)), warp.displacement)


def from_voxel_displacement(displacement: Float[ndarray, "dim *space"], affine: Float[ndarray, "dim+1 dim+1"]) -> Warp:
    """A warp of a field in voxels of its own grid: ``d = M u``, ``M`` the linear part of the grid's affine.

    Args:
        displacement: ``u``, ``(dim, *space)``, voxels, component ``k`` along array axis ``k``; its type is kept.
        affine: voxel index to RAS millimetres of the grid.
    """
    return Warp(rotate(_matrix(affine), displacement), np.asarray(affine, np.float64))


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
        coordinates += rotate(_matrix(to_image), warp.displacement[:, slab].astype(np.float64))
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
        displacement[:, slab] = rotate(_matrix(matrix), warp.displacement[:, slab])
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
    return rotate(_matrix(matrix), points) + np.reshape(matrix[:-1, -1], (-1,) + (1,) * (points.ndim - 1))


def fields_overlap(moving: Image, fixed: Image) -> float:
    """Fraction of the fixed image's field of view, by voxel centres, that lies inside the moving image's."""
    matrix = np.linalg.inv(moving.affine) @ fixed.affine
    within = (inside(affine_slab(matrix, fixed.shape, slab), moving.shape) for slab in slabs(fixed.shape))
    return sum(int(slab.sum()) for slab in within) / fixed.data.size


def write_transform(path: str | Path, warp: Warp) -> None:
    """Write a warp for ITK, SimpleITK, ANTs and Slicer; the file appears whole or not at all.

    Args:
        path: ``.h5`` or ``.nii``, ``.nii.gz`` (see the module); an existing file is replaced.
        warp: the field on the fixed image's grid.

    Raises:
        InputError: unknown suffix, missing or unwritable folder, NaN or infinite displacements, or a sheared 3-D
            grid, which NIfTI cannot hold for ITK.
    """
    path = Path(path)
    suffix = suffix_of(path, TRANSFORM_SUFFIXES, "transform")
    if not np.isfinite(warp.displacement).all():
        raise InputError(f"{path}: the transform to write holds NaN or infinite displacements")
    with atomic_output(path) as temporary:
        if suffix == ".h5":
            _write_composite(temporary, warp)
        else:
            _write_nifti_warp(path, temporary, warp)


def read_transform(path: str | Path) -> Warp:
    """Read a warp: an ITK composite or displacement field (``.h5``), or an ANTs / ITK warp (``.nii``, ``.nii.gz``).

    A composite's other transforms, such as the affine that ANTs puts behind its warp, are folded into the field,
    which is exact where the field is the first to act. An affine on its own (``.mat``, ``.tfm``) has no grid and is
    not read here.

    Raises:
        InputError: the file is missing, damaged, or not a transform with a displacement field.
    """
    path = Path(path)
    suffix = suffix_of(path, TRANSFORM_SUFFIXES, "transform")
    if suffix == ".h5":
        return itk_warp(path, read_itk_transform(path))
    with readable(path):
        return _read_nifti_warp(path)


def _matrix(affine: ndarray) -> ndarray:
    return np.asarray(affine, np.float64)[:-1, :-1]


_SAMPLERS: dict[Resampling, Callable[[ndarray, ndarray], ndarray]] = {
    "linear": lambda data, coordinates: linear(data[None], coordinates)[0],
    "nearest": nearest,
    "genericlabel": majority,
}


def _lps(warp: Warp, dtype: type) -> ndarray:
    """The field in ITK's frame; the components of a voxel, and voxels along the first axis, next to one another."""
    lps: ndarray = np.array(warp.displacement, dtype, order="F")
    lps[:2] *= -1
    return lps


def _write_composite(temporary: Path, warp: Warp) -> None:
    dim, itk = warp.dim, lps_to_ras(warp.affine)
    spacing = np.linalg.norm(_matrix(itk), axis=0)
    grid = np.concatenate([warp.shape, itk[:dim, dim], spacing, (_matrix(itk) / spacing).ravel()])
    field = Part(f"DisplacementFieldTransform_double_{dim}_{dim}", _lps(warp, np.float64).ravel("K"), grid)
    composite = Part(f"CompositeTransform_double_{dim}_{dim}", np.empty(0), np.empty(0))
    write_hdf5(temporary, [composite, affine_part(np.eye(dim + 1)), field])


def _write_nifti_warp(path: Path, temporary: Path, warp: Warp) -> None:
    dim, affine = warp.dim, warp.affine
    data = np.moveaxis(_lps(warp, np.float32), 0, -1)
    data = data[:, :, None, None] if dim == 2 else data[:, :, :, None]
    full = embed_affine(affine) if dim == 2 else affine
    nifti = nibabel.Nifti1Image(data, full)
    nifti.set_qform(full, 1)
    nifti.set_sform(full, 1)
    nifti.header.set_intent(VECTOR_INTENT)
    nifti.header.set_xyzt_units("mm")
    nibabel.save(nifti, temporary)
    try:
        same = np.allclose(read_affine(temporary, dim), affine, rtol=1e-4, atol=1e-4)
    except InputError:
        same = False
    if not same:
        raise InputError(f"{path}: NIfTI cannot hold the sheared grid {np.asarray(affine).tolist()} for ITK; write .h5")


def itk_warp(path: Path, transform: sitk.Transform) -> Warp:
    """The warp of a displacement field or of a composite whose first to act is one; ``path`` is for the errors.

    Raises:
        InputError: another transform is the first to act, or the field holds NaN.
    """
    with quiet_itk(path):
        first = transform
        if isinstance(transform, sitk.CompositeTransform):
            transform.FlattenTransform()
            first = transform.GetBackTransform().Downcast()
        if not isinstance(first, sitk.DisplacementFieldTransform):
            raise InputError(
                f"{path}: holds {first.GetName()}, expected a displacement field as the first transform to act"
            )
        grid = first.GetDisplacementField()
        field = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
        )
    lps = sitk.GetArrayFromImage(field).T
    return _from_lps(path, lps, itk_affine(grid.GetSpacing(), grid.GetDirection(), grid.GetOrigin()))


def _read_nifti_warp(path: Path) -> Warp:
    data, header = read_nifti(path)
    dim = data.shape[-1]
    intent = int(header["intent_code"])
    space = 2 if data.ndim == 5 and data.shape[2] == 1 else 3
    if data.ndim != 5 or data.shape[3] != 1 or dim != space:
        raise InputError(f"{path}: has shape {data.shape}, expected a warp of shape (X, Y, Z, 1, 3) or (X, Y, 1, 1, 2)")
    if intent not in (VECTOR_INTENT, DISPLACEMENT_INTENT):
        raise InputError(f"{path}: has NIfTI intent {intent}, expected a warp of intent {VECTOR_INTENT}")
    displacement = np.moveaxis(data.reshape(*data.shape[:dim], dim), -1, 0)
    affine = read_affine(path, dim)
    if intent == DISPLACEMENT_INTENT:
        displacement = np.concatenate([-displacement[:2], displacement[2:]])
    return _from_lps(path, displacement, affine)


def _from_lps(path: Path, lps: ndarray, affine: ndarray) -> Warp:
    if not np.isfinite(lps).all():
        raise InputError(f"{path}: holds NaN or infinite displacements")
    displacement: ndarray = np.array(lps, np.float32 if lps.dtype == np.float32 else np.float64, order="C")
    displacement[:2] *= -1
    return Warp(displacement, affine)
