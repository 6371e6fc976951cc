"""Warps whose files say what to add to a coordinate: FSL's relative warps, and the fields of Learn2Reg.

* FSL: ``(X, Y, Z, 3)`` on the fixed grid, NIfTI intent 2006, between FSL's coordinates of both images.
* Learn2Reg: ``(X, Y, Z, 3)`` on the fixed grid, in voxels: voxel ``i`` of the fixed image belongs to voxel ``i + d(i)``
  of the moving image, as in ``scipy.ndimage.map_coordinates(moving, identity + d)``. The challenge's evaluation reads
  no header, and many programs write the identity as affine, so both images' grids must be known.
"""

from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, slabs
from crossmorph.images.image import Image
from crossmorph.images.nifti import read_nifti
from crossmorph.system.files import atomic_output, readable
from crossmorph.transforms.affine_files import fsl_coordinates
from crossmorph.transforms.warp import Warp, transform_points

FSL_RELATIVE_INTENT = 2006  # FSL_FNIRT_DISPLACEMENT_FIELD


def write_fsl_warp(output: Path, warp: Warp, moving: Image) -> None:
    """Write a relative warp of FSL; ``warp`` and ``moving`` are 3-D."""
    to_fixed = fsl_coordinates(Image(np.broadcast_to(np.uint8(0), warp.shape), warp.affine)) @ warp.affine
    _write(output, _relative(warp, fsl_coordinates(moving), to_fixed), warp.affine, FSL_RELATIVE_INTENT)


def write_learn2reg(output: Path, warp: Warp, moving: Image) -> None:
    """Write a field of Learn2Reg; ``warp`` and ``moving`` are 3-D."""
    _write(output, _relative(warp, np.linalg.inv(moving.affine), np.eye(4)), warp.affine, 0)


def read_learn2reg(path: Path, moving: Image, fixed: Image) -> Warp:
    """Read a field of Learn2Reg.

    Raises:
        InputError: the file cannot be read, or has another shape than that of the fixed image, and 3 components.
    """
    with readable(path):
        data, _ = read_nifti(path)
    if data.shape != (*fixed.shape, 3):
        raise InputError(
            f"{path}: has shape {data.shape}; expected {(*fixed.shape, 3)}, a Learn2Reg field on the fixed image's grid"
        )
    if not np.isfinite(data).all():
        raise InputError(f"{path}: holds NaN or infinite displacements; expected voxels")
    displacement = np.empty((3, *fixed.shape), np.float32)
    for slab in slabs(fixed.shape):
        ends = affine_slab(np.eye(4), fixed.shape, slab) + np.moveaxis(data[slab], -1, 0)
        displacement[:, slab] = transform_points(moving.affine, ends) - affine_slab(fixed.affine, fixed.shape, slab)
    return Warp(displacement, fixed.affine)


def _relative(
    warp: Warp, to_moving: Float[ndarray, "4 4"], to_fixed: Float[ndarray, "4 4"]
) -> Float[ndarray, "3 x y z"]:
    """What to add to a voxel's coordinates to get those of its point in the moving image.

    Args:
        warp: the field.
        to_moving: coordinates in the moving image of a point in the world.
        to_fixed: coordinates in the fixed image of a voxel.
    """
    relative = np.empty((3, *warp.shape), np.float32, order="F")
    for slab in slabs(warp.shape):
        ends = affine_slab(warp.affine, warp.shape, slab) + warp.displacement[:, slab]
        relative[:, slab] = transform_points(to_moving, ends) - affine_slab(to_fixed, warp.shape, slab)
    return relative


def _write(output: Path, relative: Float[ndarray, "3 x y z"], affine: Float[ndarray, "4 4"], intent: int) -> None:
    nifti = nibabel.Nifti1Image(np.moveaxis(relative, 0, -1), affine)
    nifti.set_qform(affine, 1)
    nifti.set_sform(affine, 1)
    nifti.header.set_intent(intent, allow_unknown=True)
    nifti.header.set_xyzt_units("mm")
    with atomic_output(output) as temporary:
        nibabel.save(nifti, temporary)
