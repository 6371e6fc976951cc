"""The geometry of a NIfTI header as ITK reads it, and where the header contradicts that or itself.

The standard (https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h) takes positions from the sform where its code
is above 0, sizes and shear included, and else from the qform with the sizes in ``pixdim``, which must be positive. ITK
takes the axis directions and the origin from one of the two and the sizes from ``pixdim`` always, with their signs, and
1 where ``pixdim`` is 0 or no number. nibabel takes the sform before the qform, and the absolute value of ``pixdim``.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.itk_silence import ITK_ERRORS, reason_line, silent_itk
from crossmorph.images.orientation import itk_affine, spatial_affine, spatial_axes
from crossmorph.system.files import brief

DISAGREEMENT_MM = 0.1  # at a corner; one voxel where that is smaller
UNITS = {1: 1e3, 3: 1e-3}  # millimetres of the header's metre and micrometre


class Geometry(NamedTuple):
    """Voxel index to RAS millimetres of the axes that are kept, and what is to be known before it is relied on."""

    affine: Float[ndarray, "n n"]
    cautions: tuple[str, ...]


def header_geometry(name: Path, header: nibabel.Nifti1Header, axes: tuple[int, ...]) -> Geometry:
    """What ITK reads of a header, compared with what its sform, qform and pixdim say.

    Args:
        name: the file, for errors.
        header: of a file whose voxels follow it.
        axes: the axes of the image, two or three of the first three.

    Raises:
        InputError: ITK refuses the geometry, it is singular or not finite, or the header contradicts itself about
            left and right.
    """
    stated, cautions = _stated(name, header)  # before ITK, which never returns from some infinite numbers
    used = volume_affine(name, header)
    volume = len(header.get_data_shape()) in (3, 4) and int(header["intent_code"]) == 0
    native = used if volume else _as_itk_reads(name, header)
    affine = spatial_affine(name, native, axes)
    return Geometry(affine, (*cautions, *_contradictions(name, header, stated, used, axes)))


def volume_affine(name: Path, header: nibabel.Nifti1Header) -> Float[ndarray, "4 4"]:
    """What ITK reads of a header if its file is a volume: of two axes, and of some vectors, it would read two.

    Raises:
        InputError: ITK refuses the geometry.
    """
    volume = header.copy()
    volume["intent_code"] = 0
    volume.set_data_shape((*header.get_data_shape(), 1, 1)[:3])
    return _as_itk_reads(name, volume)


def lent_shape(shape: tuple[int, ...], header_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a slice with the axes of one voxel that a header has: ``(X, Y, 1)``, ``(X, 1, Z)``."""
    axes = spatial_axes(Path(), header_shape[:3])
    if len(axes) != 2:
        return shape
    lent = [1] * len(header_shape)
    for axis, size in zip(axes, shape, strict=True):
        lent[axis] = size
    return tuple(lent)


def coded(header: nibabel.Nifti1Header) -> bool:
    """Whether the header says where the image lies: by a qform or an sform with a code."""
    return int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0


def _as_itk_reads(name: Path, header: nibabel.Nifti1Header) -> ndarray:
    """Index-to-RAS matrix of all axes: ITK reads a copy of the header, since it also goes by the file's name."""
    with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
        path, alone = Path(folder, "header.nii"), header.copy()
        alone["vox_offset"] = alone.single_vox_offset
        path.write_bytes(alone.binaryblock + bytes(alone.single_vox_offset - len(alone.binaryblock)))
        reader = sitk.ImageFileReader()
        reader.SetImageIO("NiftiImageIO")
        reader.SetFileName(str(path))
        try:
            with silent_itk():
                reader.ReadImageInformation()
        except ITK_ERRORS as error:
            raise InputError(f"{name}: ITK cannot use its geometry ({brief(reason_line(error))})") from error
    return itk_affine(reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin())


def _contradictions(
    name: Path, header: nibabel.Nifti1Header, stated: dict[str, ndarray], used: ndarray, axes: tuple[int, ...]
) -> list[str]:
    """Sentences on where the header and ITK's reading of it differ. Raises InputError where they are mirrored."""
    sizes = np.asarray(header["pixdim"][1:4], np.float64)
    negative = [f"pixdim[{axis + 1}]" for axis in axes if sizes[axis] < 0]
    missing = [f"pixdim[{axis + 1}]" for axis in axes if not abs(sizes[axis]) > 0 or not np.isfinite(sizes[axis])]
    cautions = []
    mirrored = [form for form, said in stated.items() if _mirrored(used, said, axes)]
    if mirrored:
        reason = f"its {' and '.join(stated)} are mirror images of each other"
        if negative:
            reason = f"{_and(negative)} below 0, which ITK takes for a mirror image and other programs do not"
        raise InputError(f"{name}: contradicts itself about left and right: {reason}; correct its header")
    if not coded(header):
        cautions.append("Neither qform nor sform says where it lies: left and right are not known, nor the position.")
        stated = {}
    if negative:
        cautions.append(f"Reverses the axes of {_and(negative)} below 0, as ITK does; other programs do not.")
    if missing:
        cautions.append(f"Has no voxel size along an axis: {_and(missing)} 0 or no number, and is taken as 1.")
    for form, said in stated.items():
        apart = _apart(used, said, header.get_data_shape())
        if apart > min(DISAGREEMENT_MM, *np.linalg.norm(used[:3, list(axes)], axis=0)):
            cautions.append(
                f"The {form} puts a corner {apart:.4g} mm from where register, which follows ITK, puts it"
                f"{_sizes_apart(used, said, axes)}; other programs may follow the {form}."
            )
    return cautions


def _stated(name: Path, header: nibabel.Nifti1Header) -> tuple[dict[str, ndarray], list[str]]:
    """Index to RAS millimetres by each form that has a code, or by pixdim alone; and which form cannot be used.

    Raises InputError where none can, or where one holds NaN.
    """
    plain = header.copy()
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    sizes[~(np.isfinite(sizes) & (sizes > 0))] = 1
    plain["pixdim"][1:4] = sizes
    unit = np.diag([*[UNITS.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
    stated, unusable = {}, []
    for form, get in (("qform", plain.get_qform), ("sform", plain.get_sform)):
        if int(header[f"{form}_code"]) <= 0:
            continue
        matrix = np.zeros((4, 4))
        with contextlib.suppress(nibabel.spatialimages.HeaderDataError, ValueError), np.errstate(all="ignore"):
            matrix = unit @ get()
        if not np.isfinite(matrix).all():
            raise InputError(f"{name}: its {form} holds NaN or infinity")
        if np.linalg.matrix_rank(matrix[:3, :2]) < 2:
            unusable.append(f"The {form} cannot be used: it is no rotation, or singular.")
        else:
            stated[form] = matrix
    if not coded(header):
        stated["pixdim"] = unit @ np.diag([*(-1, -1, 1) * sizes, 1])  # ITK's axes, as they come
    if not stated:
        raise InputError(f"{name}: its NIfTI header is invalid. {' '.join(unusable)}")
    return stated, unusable


def _mirrored(used: ndarray, said: ndarray, axes: tuple[int, ...]) -> bool:
    """Whether one is the mirror image of the other in the axes that count."""
    return bool(np.linalg.det(np.linalg.pinv(said[:3, list(axes)]) @ used[:3, list(axes)]) < 0)


def _apart(one: ndarray, other: ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance between the same corner of an image by two affines, in millimetres."""
    size = (*shape, 1, 1)[:3]
    corners = np.stack([*np.meshgrid(*([0, end - 1] for end in size)), np.ones((2, 2, 2))]).reshape(4, -1)
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def _sizes_apart(used: ndarray, said: ndarray, axes: tuple[int, ...]) -> str:
    """What the voxel sizes are by both, where they differ."""
    ours, theirs = (np.linalg.norm(matrix[:3, list(axes)], axis=0) for matrix in (used, said))
    if np.allclose(ours, theirs, rtol=1e-3):
        return ""
    by_said, by_used = (" x ".join(f"{size:.6g}" for size in sizes) for sizes in (theirs, ours))
    return f", since its voxels are {by_said} mm and by pixdim {by_used} mm"


def _and(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
