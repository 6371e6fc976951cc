"""NIfTI files for ITK: voxels and header, the geometry that ITK sees, and files from which it sees a wanted one.

One rule gives the geometry: an affine is what ITK reads from the same file (SimpleITK itself is called), turned
from LPS to nibabel's RAS by negating the first two world axes. A transform written for such a grid therefore means the
same in every ITK tool. Files that nibabel and ITK read differently (qform and sform that disagree, spatial units other
than millimetres) follow ITK.

A 2-D image has two world axes only, and ITK has two ways of dropping the third:

* a file of two axes ``(X, Y)`` keeps the spacing of the header, along the first two components of each axis direction
  normalised to length one;
* a file of three axes ``(X, Y, 1)`` is a volume of one slice, and its slice (SimpleITK's ``volume[:, :, 0]``) keeps the
  first two components of each axis, so an oblique slice is seen foreshortened from above. Likewise ``(X, 1, Z)`` is
  ``volume[:, 0, :]`` and keeps the first and the third component, and ``(1, Y, Z)`` the second and the third. ITK's two
  components, whichever they are, are negated in ``Image.affine``.

A coronal or sagittal slice has no two such components: stored ``(X, Y, 1)`` its axes become those of the page (LPS
identity), as in SimpleITK; stored ``(X, Y)`` neither ITK nor crossmorph can read it. ITK's own 2-D reader
(``antsApplyTransforms -d 2``) ignores the direction of an ``(X, Y, 1)`` file altogether; all tools read files of two
axes in the same way.
"""

import contextlib
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, storable
from crossmorph.images.nifti_geometry import header_geometry, lent_shape, volume_affine
from crossmorph.images.nifti_header import HEADER_BYTES, Header, parse_header
from crossmorph.images.orientation import embed_affine, spatial_axes
from crossmorph.system.files import atomic_output, unpacked
from crossmorph.system.memory import check_room

NIFTI_SUFFIXES = (".nii.gz", ".nii")
PAIR_SUFFIXES = (".hdr", ".img", ".hdr.gz", ".img.gz")


class Stored(NamedTuple):
    """What a file holds.

    Attributes:
        voxels: in the file's own shape.
        dtype: of the stored voxels, see :func:`plain_type`.
        header: as one of NIfTI-1.
        cautions: what is uncertain about it.
    """

    voxels: Num[ndarray, "..."]
    dtype: np.dtype | None
    header: nibabel.Nifti1Header
    cautions: tuple[str, ...]


def nifti_content(path: Path, name: Path | None = None) -> Content:
    """Voxels of two or three axes with their place; errors as of :func:`read_nifti`, which call it ``name``."""
    stored = _read(path, name or path)
    return _placed(name or path, stored, spatial_axes(name or path, stored.voxels.shape))


def nifti_series(path: Path) -> Content:
    """The volumes of a series; as :func:`nifti_content`, and the last axis of the voxels counts the volumes.

    Raises:
        InputError: as of :func:`read_nifti`, or more than four axes.
    """
    stored = _read(path, path)
    shape = stored.voxels.shape
    if max(shape[4:], default=1) > 1:
        raise InputError(f"{path}: has shape {shape}, expected a series of at most four axes")
    content = _placed(path, stored, spatial_axes(path, shape[:3]))
    return content._replace(voxels=content.voxels.reshape(*content.voxels.shape[: len(content.affine) - 1], -1))


def _placed(name: Path, stored: Stored, axes: tuple[int, ...]) -> Content:
    """Voxels with their place: the axes of the image, and then all beyond the first three of more than one voxel."""
    shape = stored.voxels.shape
    kept = tuple(shape[axis] for axis in axes) + tuple(size for size in shape[3:] if size > 1)
    affine, cautions = header_geometry(name, stored.header, axes)
    voxels = stored.voxels.reshape(kept)
    return Content(voxels, affine, stored.dtype, stored.header, True, stored.cautions + cautions)


def read_nifti(path: Path) -> tuple[Num[ndarray, "..."], nibabel.Nifti1Header]:
    """Read all of a NIfTI file, its announced size checked before and its gzip checksum after.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file of NIfTI-1 or NIfTI-2; whether it is compressed is seen from its content.
            Or one of a pair ``.hdr`` and ``.img``, which may also be Analyze 7.5.

    Returns:
        Voxels in the file's own shape, scaled by the header's factors, and the header as one of NIfTI-1.

    Raises:
        InputError: not NIfTI, truncated, damaged, or not of one real number a voxel.
    """
    stored = _read(path, path)
    return stored.voxels, stored.header


def _read(path: Path, name: Path) -> Stored:
    head_file, voxel_file = _files(path)
    layout, nifti, cautions = _header(head_file, name)
    with unpacked(voxel_file, name) as (stream, bound):
        needed = _content_size(name, layout, bound)
        content = stream.read(needed)
        while stream.read(1 << 20):  # gzip checks its checksum at the very end
            pass
    if len(content) < needed:
        raise InputError(f"{name}: is truncated: its header announces {needed} bytes, {len(content)} are there")
    try:
        voxels = np.asanyarray(nibabel.arrayproxy.ArrayProxy(io.BytesIO(content), layout))
    except (nibabel.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError(f"{name}: its NIfTI header is invalid ({error})") from error
    return Stored(voxels, plain_type(layout), nifti, cautions)


def _header(file: Path, name: Path) -> Header:
    with unpacked(file, name) as (stream, _):
        return parse_header(name, stream.read(HEADER_BYTES), file.name.lower().endswith(PAIR_SUFFIXES))


def _files(path: Path) -> tuple[Path, Path]:
    """The files of header and voxels: one, or both of a pair of which one is named."""
    suffix = next((suffix for suffix in PAIR_SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        return path, path
    stem, packed = path.name[: -len(suffix)], suffix.endswith(".gz")
    kind = path.name[len(stem) : len(stem) + 4]
    other = {".hdr": ".img", ".img": ".hdr", ".HDR": ".IMG", ".IMG": ".HDR"}.get(kind, ".img")
    named = [path.with_name(f"{stem}{other}{ending}") for ending in (("", ".gz")[packed], ("", ".gz")[not packed])]
    beside = next((file for file in named if file.is_file()), None)
    if beside is None:
        raise InputError(f"{path}: is one of a pair of files, and {named[0].name} is not beside it")
    return (path, beside) if kind.lower() == ".hdr" else (beside, path)


def _content_size(name: Path, header: Any, bound: int) -> int:
    """Bytes of header and voxels. Raises InputError where the file is too small to hold them."""
    dtype = header.get_data_dtype()
    if dtype.names is not None or dtype.kind not in "iuf":
        found = "colour (RGB)" if dtype.names is not None else f"{dtype} numbers"
        raise InputError(f"{name}: holds {found}, expected one real number a voxel")
    shape = tuple(int(size) for size in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise InputError(f"{name}: has shape {shape}, expected axes of at least one voxel")
    needed = int(header.get_data_offset()) + math.prod(shape) * int(dtype.itemsize)
    if needed > bound:
        raise InputError(f"{name}: is truncated: its header announces {needed} bytes, too many for the file")
    check_room(name, math.prod(shape), needed)
    return needed


def read_affine(path: Path, dim: int) -> Float[ndarray, "n n"]:
    """Index-to-RAS matrix of a NIfTI file's image of ``dim`` axes, as ITK reads it (see the module).

    Raises:
        InputError: ITK refuses the geometry, it is singular or not finite, or contradicts itself about left and right.
    """
    header = _header(_files(path)[0], path).nifti
    axes = spatial_axes(path, header.get_data_shape()[:3]) if dim == 2 else (0, 1, 2)
    return header_geometry(path, header, axes).affine


def plain_type(header: Any) -> np.dtype | None:
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
    """Write an image or a series such that ITK reads its affine back; the file appears complete or not at all.

    Args:
        path: where to, ``.nii`` or ``.nii.gz``; an existing file is replaced.
        data: two or three axes, of a series one more, written as the fourth; integers keep their type, but of 64
            bits become int32 if they fit; anything else is float32.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``; written as qform and as sform.
        header: gives the through-plane position, the number of axes and the position code.
        timing: gives a series its time step and its unit.

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
        stored = storable(data)
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
    lent = lent_shape(shape, header.get_data_shape())
    with contextlib.suppress(InputError):
        return [(volume_affine(Path(), header), lent), (embedded[0], lent), embedded]
    return [(embedded[0], lent), embedded]
