"""NIfTI files for ITK: voxels and header, the geometry that ITK sees, and files from which it sees a wanted one.

One rule gives the geometry: an affine is what ITK reads from the same file (SimpleITK is asked, not imitated), turned
from LPS to nibabel's RAS by negating the first two world axes. A transform written for such a grid therefore means the
same in every ITK tool. Files that nibabel and ITK read differently (qform and sform that disagree, spatial units other
than millimetres) follow ITK.

A 2-D image knows two world axes only, and ITK has two ways of dropping the third:

* a file of two axes ``(X, Y)`` keeps the spacing of the header, along the first two components of each axis direction
  normalised to length one;
* a file of three axes ``(X, Y, 1)`` is a volume of one slice, and its slice (SimpleITK's ``volume[:, :, 0]``) keeps the
  first two components of each axis, so an oblique slice is seen foreshortened from above.

A coronal or sagittal slice has no two such components: stored ``(X, Y, 1)`` its axes become those of the page (LPS
identity), as in SimpleITK; stored ``(X, Y)`` ITK cannot read it, and neither do we. ITK's own 2-D reader
(``antsApplyTransforms -d 2``) ignores the direction of an ``(X, Y, 1)`` file altogether; files of two axes are the
ones on which every tool agrees.
"""

import contextlib
import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.itk import ITK_ERRORS, itk_reason, silent_itk
from crossmorph.images.orientation import embed_affine, itk_affine, spatial_affine
from crossmorph.system.files import DEFLATE_LIMIT, atomic_output
from crossmorph.system.memory import check_room

NIFTI_SUFFIXES = (".nii.gz", ".nii")


def read_nifti(path: Path) -> tuple[Num[ndarray, "..."], nibabel.Nifti1Header]:
    """Read all of a NIfTI file, its announced size checked before and its gzip checksum after.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.

    Returns:
        Voxels in the file's own shape, scaled as the header says, and the header.

    Raises:
        InputError: not NIfTI, truncated, damaged, or not of one real number a voxel.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            head = stream.read(nibabel.Nifti1Header.template_dtype.itemsize)
            header = _nifti_header(path, head)
            needed = _content_size(path, header)
            content = head + stream.read(max(needed - len(head), 0))
            while stream.read(1 << 20):  # gzip checks its checksum at the very end
                pass
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: is not gzip-compressed or is damaged ({error})") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: is truncated or damaged ({error})") from error
    if len(content) < needed:
        raise InputError(f"{path}: is truncated: its header announces {needed} bytes, {len(content)} are there")
    try:
        return np.asanyarray(nibabel.arrayproxy.ArrayProxy(io.BytesIO(content), header)), header
    except (nibabel.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError(f"{path}: its NIfTI header is invalid ({error})") from error


def _nifti_header(path: Path, head: bytes) -> nibabel.Nifti1Header:
    size = nibabel.Nifti1Header.template_dtype.itemsize
    sizes = struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4]) if len(head) == size else ()
    if 540 in sizes:
        raise InputError(f"{path}: is NIfTI-2, which ITK does not read; convert it to NIfTI-1")
    if size not in sizes:
        raise InputError(f"{path}: is not a NIfTI file")
    header = nibabel.Nifti1Header(head, check=False)
    if int(header["datatype"]) not in nibabel.nifti1.data_type_codes.code:
        raise InputError(f"{path}: has voxels of a type unknown to NIfTI, code {int(header['datatype'])}")
    magic, offset = header["magic"].item(), float(header["vox_offset"])
    if magic != b"n+1":
        raise InputError(f"{path}: is not a NIfTI file of header and voxels in one (magic {magic!r}, expected b'n+1')")
    if not header.single_vox_offset <= offset < np.inf:
        raise InputError(f"{path}: its NIfTI header is invalid (voxels at byte {offset:g}, expected 352 or later)")
    # The standard knows -1 and 1, files hold others; nibabel refuses those, ITK goes by the sign.
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    try:
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(header.get_best_affine()).all()
    except (nibabel.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError(f"{path}: its NIfTI header is invalid ({error})") from error
    if not finite:
        raise InputError(f"{path}: its affine holds NaN or infinity")
    return header


def _content_size(path: Path, header: nibabel.Nifti1Header) -> int:
    """Bytes of header and voxels, once it is known that the file can hold them."""
    dtype = header.get_data_dtype()
    if dtype.names is not None or dtype.kind not in "iuf":
        found = "colour (RGB)" if dtype.names is not None else f"{dtype} numbers"
        raise InputError(f"{path}: holds {found}, expected one real number a voxel")
    shape = tuple(int(size) for size in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: has shape {shape}, expected axes of at least one voxel")
    needed = int(header.get_data_offset()) + math.prod(shape) * int(dtype.itemsize)
    size = path.stat().st_size
    if needed > size * (DEFLATE_LIMIT if path.name.lower().endswith(".gz") else 1):
        raise InputError(
            f"{path}: is truncated: its header announces {needed} bytes, too many for a file of {size} bytes"
        )
    check_room(path, math.prod(shape), needed)
    return needed


def read_affine(path: Path, dim: int) -> Float[ndarray, "n n"]:
    """Index-to-RAS matrix of the first ``dim`` axes of a NIfTI file, as ITK reads it (see the module).

    Raises:
        InputError: ITK refuses the geometry, or it is singular or not finite.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        with silent_itk():
            reader.ReadImageInformation()
    except ITK_ERRORS as error:
        raise InputError(f"{path}: ITK cannot use its geometry ({itk_reason(error)})") from error
    return spatial_affine(path, itk_affine(reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin()), dim)


def plain_type(header: nibabel.Nifti1Header) -> np.dtype | None:
    """The type of the stored voxels where they are the intensities themselves; None where a scale comes between."""
    slope, intercept = header.get_slope_inter()
    if slope not in (None, 1) or intercept not in (None, 0):
        return None
    return np.dtype(header.get_data_dtype().newbyteorder("="))


def write_nifti(
    path: Path,
    data: Shaped[ndarray, "*space"],
    affine: Float[ndarray, "n n"],
    header: nibabel.Nifti1Header | None = None,
    timing: nibabel.Nifti1Header | None = None,
) -> None:
    """Write an image or a series such that ITK reads its affine back; the file appears whole or not at all.

    Args:
        path: where to, ``.nii`` or ``.nii.gz``; an existing file is replaced.
        data: two or three axes, of a series one more, written as the fourth; integers keep their type (int64 becomes
            int32), anything else is float32.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``; written as qform and as sform.
        header: lends the through-plane position, the number of axes and the position code.
        timing: lends a series its time step and the unit of it.

    Raises:
        InputError: missing or unwritable folder, or voxels or an affine that NIfTI cannot hold.
    """
    made = nibabel.Nifti1Header() if header is None else header.copy()
    codes = (int(made["sform_code"]), int(made["qform_code"]))
    code = next((code for code in codes if code > 0 and code in nibabel.nifti1.xform_codes.code), 1)
    made.set_xyzt_units("mm")
    made.set_intent("none")
    made["cal_min"] = made["cal_max"] = 0
    made.extensions.clear()
    if timing is not None:
        made.set_xyzt_units("mm", timing.get_xyzt_units()[1])
        made["pixdim"][4], made["toffset"] = timing["pixdim"][4], timing["toffset"]
    dim = len(affine) - 1
    volumes = data.shape[dim:]
    with atomic_output(path) as temporary:
        stored = storable(path, data)
        made.set_data_dtype(stored.dtype)
        for full, shape in _placements(affine, data.shape[:dim], header):
            axes = (*shape, 1, 1)[:3] + volumes if volumes else shape
            nifti = nibabel.Nifti1Image(stored.reshape(axes), None, made)
            nifti.set_qform(full, code)
            nifti.set_sform(full, code)
            nibabel.save(nifti, temporary)
            with contextlib.suppress(InputError):
                if np.allclose(read_affine(temporary, dim), affine, rtol=1e-4, atol=1e-4):
                    return
        raise InputError(
            f"{path}: NIfTI cannot hold the affine {affine.tolist()} such that ITK reads it back (is it sheared?)"
        )


def _placements(
    affine: ndarray, shape: tuple[int, ...], header: nibabel.Nifti1Header | None
) -> list[tuple[ndarray, tuple[int, ...]]]:
    """The 4 x 4 affines and shapes to try, best first: the header's own, where it still describes the image."""
    if len(shape) == 3:
        return [(affine, shape)]
    embedded = (embed_affine(affine), shape)
    if header is None:
        return [embedded]
    lent = shape + (1,) * (len(header.get_data_shape()) - 2)
    placements = []
    for form in (header.get_sform, header.get_qform):
        # ITK took one of the two; the other may hold anything.
        with contextlib.suppress(nibabel.spatialimages.HeaderDataError, ValueError), np.errstate(all="ignore"):
            full = form()
            if np.isfinite(full).all() and np.linalg.det(full) != 0:
                placements.append((full, lent))
    return [*placements, (embedded[0], lent), embedded]


def storable(path: Path, data: ndarray) -> ndarray:
    """Voxels in a type that every reader knows: integers keep theirs (int64 becomes int32), the rest is float32.

    Raises:
        InputError: integers beyond 32 bits.
    """
    if data.dtype == bool:
        return data.astype(np.uint8)
    if data.dtype in (np.int64, np.uint64):
        limits = np.iinfo(np.int32)
        if data.min() < limits.min or data.max() > limits.max:
            raise InputError(f"{path}: labels from {data.min()} to {data.max()} do not fit 32 bits")
        return data.astype(np.int32)
    return data if data.dtype.kind in "iu" else data.astype(np.float32)
