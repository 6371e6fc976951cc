"""Displacement fields to and from the files of ITK and ANTs.

Files hold the field of a :class:`crossmorph.transforms.warp.Warp` in ITK's LPS millimetres, on the fixed image's grid:

* ``.h5``: ITK composite transform ``[AffineTransform, DisplacementFieldTransform]``, compressed, float32 or float64 as
  the field is; the last added acts first, so a point goes through the field and then through the (identity) affine;
* ``.nii``, ``.nii.gz``: the warp of ANTs and ITK, ``(X, Y, Z, 1, 3)`` or ``(X, Y, 1, 1, 2)``, float32, NIfTI intent
  1007.
"""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy import ndarray
from numpy.typing import DTypeLike

from crossmorph.errors import InputError
from crossmorph.images.itk import quiet_itk
from crossmorph.images.nifti import read_affine, read_nifti
from crossmorph.images.orientation import embed_affine, itk_affine, lps_to_ras
from crossmorph.system.files import atomic_output, readable, suffix_of
from crossmorph.transforms.itk_files import Part, affine_part, is_single, read_itk_transform, type_name, write_hdf5
from crossmorph.transforms.warp import Warp, linear_part

TRANSFORM_SUFFIXES = (".h5", ".nii.gz", ".nii")

# NIfTI intent codes of vector data, and their world: ITK passes 1007 (vector) through as LPS, and since 5.4 reads
# 1006 (displacement) as RAS.
VECTOR_INTENT = 1007
DISPLACEMENT_INTENT = 1006


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

    The field is float32 where the file is, else float64. A composite's other transforms, such as the affine that ANTs
    puts behind its warp, are folded into it, which is exact where the field is the first to act. An affine on its own
    (``.mat``, ``.tfm``) has no grid and is not read here.

    Raises:
        InputError: the file is missing, damaged, or not a transform with a displacement field.
    """
    path = Path(path)
    suffix = suffix_of(path, TRANSFORM_SUFFIXES, "transform")
    if suffix == ".h5":
        return itk_warp(path, read_itk_transform(path))
    with readable(path):
        return _read_nifti_warp(path)


def _lps(warp: Warp, dtype: DTypeLike) -> ndarray:
    """The field in ITK's frame; the components of a voxel, and voxels along the first axis, next to one another."""
    lps: ndarray = np.array(warp.displacement, dtype, order="F")
    lps[:2] *= -1
    return lps


def _write_composite(temporary: Path, warp: Warp) -> None:
    dim, itk = warp.dim, lps_to_ras(warp.affine)
    spacing = np.linalg.norm(linear_part(itk), axis=0)
    grid = np.concatenate([warp.shape, itk[:dim, dim], spacing, (linear_part(itk) / spacing).ravel()])
    dtype = np.dtype(np.float32 if warp.displacement.dtype == np.float32 else np.float64)
    field = Part(type_name("DisplacementField", dtype, dim), _lps(warp, dtype).ravel("K"), grid)
    composite = Part(type_name("Composite", dtype, dim), np.empty(0), np.empty(0))
    write_hdf5(temporary, [composite, affine_part(np.eye(dim + 1, dtype=dtype)), field])


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
    if path.suffix.lower() == ".h5" and is_single(path):
        lps = lps.astype(np.float32)
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
