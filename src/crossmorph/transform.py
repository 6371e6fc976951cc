"""Displacement fields in millimetres: onto images, between grids, and to and from the files of ITK and ANTs.

A :class:`Warp` is a pull-back in the world: the point ``x`` of the fixed space (RAS millimetres) shows what the
moving image has at ``x + d(x)``. Files hold the same field in ITK's LPS millimetres, on the fixed image's grid:

* ``.h5``: ITK composite transform ``[AffineTransform, DisplacementFieldTransform]``, float64; the last added acts
  first, so a point goes through the field and then through the (identity) affine;
* ``.nii``, ``.nii.gz``: the warp of ANTs and ITK, ``(X, Y, Z, 1, 3)`` or ``(X, Y, 1, 1, 2)``, float32, NIfTI intent
  1007.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.files import atomic_output, readable, suffix_of
from crossmorph.image import Image
from crossmorph.nifti import embed_affine, itk_affine, itk_reason, lps_to_ras, read_affine, read_nifti
from crossmorph.spatial import Interpolation, Outside, sample

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
    return _rotate(np.linalg.inv(_matrix(warp.affine)), warp.displacement)


def from_voxel_displacement(displacement: Float[ndarray, "dim *space"], affine: Float[ndarray, "dim+1 dim+1"]) -> Warp:
    """A warp of a field in voxels of its own grid: ``d = M u``, ``M`` the linear part of the grid's affine.

    Args:
        displacement: ``u``, ``(dim, *space)``, voxels, component ``k`` along array axis ``k``.
        affine: voxel index to RAS millimetres of the grid.
    """
    return Warp(_rotate(_matrix(affine), displacement), np.asarray(affine, np.float64))


def resample(image: Image, warp: Warp, interpolation: Interpolation = "linear") -> Image:
    """Bring a moving image or label map onto the warp's grid: ``moved(x) = moving(x + d(x))``, sampled once.

    The moving image reaches half a voxel beyond its outermost centres, where the edge value is held, and is 0 outside
    (ITK's rule), so the result is that of ``antsApplyTransforms`` and ``SimpleITK.Resample``.

    Args:
        image: the moving image, on any grid of the warp's dimension.
        warp: where each point of the fixed grid looks.
        interpolation: ``linear`` for intensities, ``nearest`` for labels.

    Returns:
        Image on the warp's grid without a header (the fixed image's is the caller's to give): float32 where linear,
        of the moving image's own type where nearest.

    Raises:
        InputError: image and warp differ in dimension.
    """
    if image.dim != warp.dim:
        raise InputError(f"a {warp.dim}-D transform cannot be applied to a {image.dim}-D image of shape {image.shape}")
    points = _grid_points(warp.affine, warp.shape) + warp.displacement
    values = _sample(image.data[None], _indices(image.affine, points), interpolation, "zero")[0]
    dtype = np.float32 if interpolation == "linear" else image.data.dtype
    return Image(values.astype(dtype), warp.affine, image.physical)


def resample_warp(warp: Warp, affine: Float[ndarray, "n n"], shape: tuple[int, ...]) -> Warp:
    """The same field on another grid: linear in millimetres, its edge values held beyond its own grid.

    Args:
        warp: the field.
        affine: voxel index to RAS millimetres of the new grid.
        shape: shape of the new grid.
    """
    if warp.shape == tuple(shape) and np.array_equal(warp.affine, affine):
        return warp
    coordinates = _indices(warp.affine, _grid_points(affine, shape))
    return Warp(_sample(warp.displacement, coordinates, "linear", "edge"), np.asarray(affine, np.float64))


def followed_by(warp: Warp, matrix: Float[ndarray, "n n"]) -> Warp:
    """The warp and then an affine map, as one warp on the same grid: ``x -> A (x + d(x))``.

    Args:
        warp: the field that acts first.
        matrix: ``A``, ``(dim + 1, dim + 1)``, RAS millimetres to RAS millimetres.
    """
    points = _grid_points(warp.affine, warp.shape)
    moved = _rotate(_matrix(matrix), points + warp.displacement) + np.reshape(matrix[:-1, -1], (-1, *[1] * warp.dim))
    return Warp(moved - points, warp.affine)


def after_moving(warp: Warp, affine: Float[ndarray, "n n"]) -> Warp:
    """The warp of a grid that was moved before, told from where the grid lay: each voxel still ends where it did.

    Args:
        warp: the field on the moved grid.
        affine: voxel index to RAS millimetres of the same voxels before they were moved.
    """
    ends = _grid_points(warp.affine, warp.shape) + warp.displacement
    return Warp(ends - _grid_points(affine, warp.shape), np.asarray(affine, np.float64))


def fields_overlap(moving: Image, fixed: Image) -> float:
    """Fraction of the fixed image's field of view, by voxel centres, that lies inside the moving image's."""
    coordinates = _indices(moving.affine, _grid_points(fixed.affine, fixed.shape))
    size = np.reshape(moving.shape, (-1,) + (1,) * fixed.dim)
    return float(((coordinates >= -0.5) & (coordinates < size - 0.5)).all(0).mean())


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
    lps = np.array(warp.displacement, np.float64)
    lps[:2] *= -1
    with atomic_output(path) as temporary:
        if suffix == ".h5":
            _write_composite(path, temporary, lps, warp.affine)
        else:
            _write_nifti_warp(path, temporary, lps, warp.affine)


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
    with readable(path):
        return _read_composite(path) if suffix == ".h5" else _read_nifti_warp(path)


def _matrix(affine: ndarray) -> ndarray:
    return np.asarray(affine, np.float64)[:-1, :-1]


def _rotate(matrix: ndarray, vectors: ndarray) -> ndarray:
    rotated: ndarray = np.einsum("ij,j...->i...", matrix, vectors)
    return rotated


def _grid_points(affine: ndarray, shape: tuple[int, ...]) -> ndarray:
    """RAS millimetres of every voxel centre, ``(dim, *space)``, float64."""
    offset = np.reshape(affine[:-1, -1], (-1,) + (1,) * len(shape))
    return _rotate(_matrix(affine), np.indices(shape, np.float64)) + offset


def _indices(affine: ndarray, points: ndarray) -> ndarray:
    """Voxel coordinates, in the grid of ``affine``, of points in RAS millimetres."""
    offset = np.reshape(affine[:-1, -1], (-1,) + (1,) * (points.ndim - 1))
    return _rotate(np.linalg.inv(_matrix(affine)), points - offset)


def _sample(channels: ndarray, coordinates: ndarray, mode: Interpolation, outside: Outside) -> ndarray:
    # In float64: float32 coordinates would move points that lie on a voxel's face to its wrong side.
    image, points = (torch.from_numpy(np.array(array, np.float64))[None] for array in (channels, coordinates))
    values: ndarray = sample(image, points, mode, outside)[0].numpy()
    return values


def _write_composite(path: Path, temporary: Path, lps: ndarray, affine: ndarray) -> None:
    dim = lps.shape[0]
    # SimpleITK's arrays are indexed from the last axis, with the components at the end.
    field = sitk.GetImageFromArray(np.ascontiguousarray(lps.T), isVector=True)
    itk = lps_to_ras(affine)
    spacing = np.linalg.norm(_matrix(itk), axis=0)
    field.SetSpacing(spacing.tolist())
    field.SetDirection((_matrix(itk) / spacing).ravel().tolist())
    field.SetOrigin(itk[:dim, dim].tolist())
    composite = sitk.CompositeTransform([sitk.AffineTransform(dim), sitk.DisplacementFieldTransform(field)])
    try:
        sitk.WriteTransform(composite, os.fspath(temporary))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written ({itk_reason(error)})") from error


def _write_nifti_warp(path: Path, temporary: Path, lps: ndarray, affine: ndarray) -> None:
    dim = lps.shape[0]
    data = np.moveaxis(lps, 0, -1).astype(np.float32)
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


def _read_composite(path: Path) -> Warp:
    try:
        transform = sitk.ReadTransform(os.fspath(path)).Downcast()
    except RuntimeError as error:
        raise InputError(f"{path}: is not an ITK transform, or is truncated ({itk_reason(error)})") from error
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
    displacement = np.ascontiguousarray(lps, np.float64)
    displacement[:2] *= -1
    return Warp(displacement, affine)
