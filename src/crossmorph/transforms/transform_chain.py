"""Transforms of any program from a fixed to a moving image, from the files that their programs write.

Beside what :mod:`crossmorph.transforms.affine_files` and :mod:`crossmorph.transforms.warp_files` read:

* ITK, elastix: transforms that are neither linear nor begin with a displacement field, such as B-splines, alone or in a
  composite. They are sampled at the voxels of the fixed image.
* FSL ``fnirt``: displacement fields ``(X, Y, Z, 3)`` of NIfTI intent 2006, which are relative: what to add to FSL's
  coordinates of a fixed voxel to get those of the moving image, in millimetres.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, slabs
from crossmorph.images.image import Image
from crossmorph.images.itk import quiet_itk
from crossmorph.images.nifti import NIFTI_SUFFIXES, read_affine, read_nifti
from crossmorph.images.orientation import lps_to_ras
from crossmorph.system.files import readable, suffix_of
from crossmorph.transforms.affine_files import READABLE_SUFFIXES, fsl_coordinates, read_affine_transform
from crossmorph.transforms.composition import Step, dim_of
from crossmorph.transforms.itk_files import read_itk_transform
from crossmorph.transforms.warp import Warp, linear_part, transform_points
from crossmorph.transforms.warp_files import TRANSFORM_SUFFIXES, itk_warp, read_transform

SUFFIXES = tuple(dict.fromkeys((*TRANSFORM_SUFFIXES, *READABLE_SUFFIXES)))
# NIfTI intents of FSL (nifti1.h, fnirt_file_writer.cpp): a field, and coefficients, which only FSL expands.
FNIRT_FIELD = 2006
FNIRT_COEFFICIENTS = (2007, 2008, 2009)
ELASTIX = b"(Transform "  # in elastix's own parameter files


def read_chain(paths: Sequence[Path], moving: Image, fixed: Image) -> list[Step]:
    """Transforms from the fixed to the moving image, in the order in which points of the fixed space go through them.

    Args:
        paths: files, in the order of ``antsApplyTransforms -t``; none is the identity.
        moving: the moving image, which FSL's coordinates depend on.
        fixed: the fixed image, likewise.

    Raises:
        InputError: a file that is missing, damaged, of another kind or of another dimension than the images; or a
            transform that has to be sampled on the fixed grid (a B-spline), but does not act first.
    """
    steps: list[Step] = []
    for path in paths:
        step = _read(path, moving, fixed, first=not steps)
        if dim_of(step) != fixed.dim:
            raise InputError(f"{path}: is a {dim_of(step)}-D transform; the images are {fixed.dim}-D")
        steps.append(step)
    return steps


def _read(path: Path, moving: Image, fixed: Image, first: bool) -> Step:
    suffix = suffix_of(path, SUFFIXES, "transform")
    if suffix in NIFTI_SUFFIXES:
        return _read_nifti(path, moving)
    if suffix in (".txt", ".tfm"):
        _refuse_elastix(path)
    if suffix in (".tfm", ".h5") or (suffix == ".txt" and _is_itk_text(path)):
        return _read_itk(path, fixed, first)
    return read_affine_transform(path, moving, fixed)


def _refuse_elastix(path: Path) -> None:
    with readable(path), path.open("rb") as stream:
        if ELASTIX in stream.read(1 << 16):
            raise InputError(
                f"{path}: is a parameter file of elastix, expected a transform of ITK; let elastix write one with "
                '(ITKTransformOutputFileNameExtension "tfm") and (WriteITKCompositeTransform "true")'
            )


def _is_itk_text(path: Path) -> bool:
    """Whether a text file says that it is of ITK; flirt's holds numbers alone."""
    with readable(path), path.open("rb") as stream:
        return b"Transform" in stream.read(1 << 10)


def _read_itk(path: Path, fixed: Image, first: bool) -> Step:
    transform = read_itk_transform(path)
    if transform.IsLinear():
        return read_affine_transform(path)
    acting = transform
    while isinstance(acting, sitk.CompositeTransform):
        acting = acting.GetBackTransform().Downcast()
    if isinstance(acting, sitk.DisplacementFieldTransform):
        return itk_warp(path, transform)
    if transform.GetDimension() != fixed.dim:
        raise InputError(f"{path}: is a {transform.GetDimension()}-D transform; the images are {fixed.dim}-D")
    if not first:
        raise InputError(
            f"{path}: begins with {acting.GetName()}, which is sampled on the fixed image's grid; expected it as the "
            "first of the transforms"
        )
    return _sampled(path, transform, fixed)


def _sampled(path: Path, transform: sitk.Transform, fixed: Image) -> Warp:
    """Any transform of ITK as a warp on an image's grid."""
    dim, itk = fixed.dim, lps_to_ras(fixed.affine)
    direction = linear_part(itk) / np.array(fixed.spacing)
    with quiet_itk(path):
        field = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, fixed.shape, itk[:dim, dim].tolist(), fixed.spacing,
            direction.ravel().tolist(),
        )  # fmt: skip
    displacement: ndarray = np.array(sitk.GetArrayFromImage(field).T, order="C")
    if not np.isfinite(displacement).all():
        raise InputError(f"{path}: gives NaN or infinite displacements")
    displacement[:2] *= -1
    return Warp(displacement, np.asarray(fixed.affine, np.float64))


def _read_nifti(path: Path, moving: Image) -> Warp:
    """A warp of FSL, by its intent, or of ANTs and ITK; the former undoes ``crossmorph convert --to fsl``."""
    with readable(path):
        data, header = read_nifti(path)
    intent = int(header["intent_code"])
    if intent in FNIRT_COEFFICIENTS:
        raise InputError(
            f"{path}: holds coefficients of fnirt (NIfTI intent {intent}), expected a field: fnirt --fout, or "
            "fnirtfileutils --withaff"
        )
    if intent != FNIRT_FIELD:
        return read_transform(path)
    if data.ndim != 4 or data.shape[3] != 3 or moving.dim != 3:
        raise InputError(f"{path}: has shape {data.shape}, expected a field of FSL, (X, Y, Z, 3), and 3-D images")
    if not np.isfinite(data).all():
        raise InputError(f"{path}: holds NaN or infinite displacements")
    affine, shape = read_affine(path, 3), data.shape[:3]
    grid = Image(np.broadcast_to(np.uint8(0), shape), affine)
    to_fixed, to_world = fsl_coordinates(grid) @ affine, np.linalg.inv(fsl_coordinates(moving))
    displacement = np.empty((3, *shape))
    for slab in slabs(shape):
        ends = affine_slab(to_fixed, shape, slab) + np.moveaxis(data[slab], -1, 0)
        displacement[:, slab] = transform_points(to_world, ends) - affine_slab(affine, shape, slab)
    return Warp(displacement, affine)
