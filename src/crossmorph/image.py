"""Images and label maps: NIfTI and PNG files to arrays with their geometry, and back.

One rule gives the geometry: ``Image.affine`` is what ITK reads from the same file (SimpleITK is asked, not imitated),
turned from LPS to nibabel's RAS by negating the first two world axes. A transform written for such a grid therefore
means the same in every ITK tool. Files that nibabel and ITK read differently (qform and sform that disagree, spatial
units other than millimetres) follow ITK.

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
import math
import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import PIL.Image
import SimpleITK as sitk
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.errors import InputError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".png")

# Deflate cannot pack more than 1032 bytes into one (https://zlib.net/zlib_tech.html), so a compressed file bounds its
# content.
DEFLATE_LIMIT = 1032
# On simulated T1w and T2w brain slices with 3% Rician noise, half of them background, the upper one moves by less
# than 0.3% (one standard deviation) from one noise to the next and clips 0.5% of the brain.
SCALE_PERCENTILES = (0.5, 99.8)
PNG_KINDS = {"P": "a colour palette", "RGB": "colour", "RGBA": "colour and transparency"}
# Below this a slice's in-plane axes are lost when the through-plane world axis is dropped (a coronal or sagittal
# slice).
SINGULAR_DIRECTION = 1e-3


@dataclass(frozen=True, eq=False)
class Image:
    """An image or label map and its place in the world.

    Attributes:
        data: voxels, ``(*space)`` with two or three axes in nibabel's order (PNG: x, y); float32, or integers for
            labels.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``, float64; in 2-D the two world axes that ITK
            sees.
        physical: False where the file has no millimetres (PNG): spacing 1 by convention. A NIfTI file without
            position codes is physical: its spacing is in the header, and only its position is unknown (ITK puts it at
            the origin).
        header: header of the NIfTI file it came from, carried into outputs on the same grid.
    """

    data: Shaped[ndarray, "*space"]
    affine: Float[ndarray, "n n"]
    physical: bool = True
    header: nibabel.Nifti1Header | None = None

    def __post_init__(self) -> None:
        """Refuse an affine of another dimension than the data."""
        expected = (self.data.ndim + 1,) * 2
        if self.affine.shape != expected:
            raise ValueError(
                f"data of shape {self.data.shape} needs an affine of shape {expected}, got {self.affine.shape}"
            )

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.data.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.data.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, in millimetres: the norms of the affine's columns."""
        return tuple(float(norm) for norm in np.linalg.norm(self.affine[:-1, :-1], axis=0))


class Scaled(NamedTuple):
    """Intensities in [0, 1] and the two original intensities that became 0 and 1."""

    data: Float[ndarray, "*space"]
    low: float
    high: float


def read_image(path: str | Path, labels: bool = False) -> Image:
    """Read an image or a label map from a NIfTI (``.nii``, ``.nii.gz``) or greyscale PNG file.

    Trailing axes of one voxel are dropped: ``(X, Y, 1)`` and ``(X, Y, 1, 1)`` are 2-D. See the module for the geometry.

    Args:
        path: the file.
        labels: read whole numbers, as int32, instead of intensities, as float32.

    Returns:
        The image, with finite voxels and an invertible affine.

    Raises:
        InputError: the file is missing, unreadable, damaged, of another kind, or cannot be used: more than three
            axes, colour, complex numbers, NaN or infinite voxels, an image of one intensity, labels that are not
            whole numbers, an affine that is singular or that ITK refuses.
    """
    path = Path(path)
    suffix = _suffix(path)
    with readable(path):
        if suffix == ".png":
            raw, affine, header = _read_png(path), np.diag([-1.0, -1.0, 1.0]), None
        else:
            raw, header = read_nifti(path)
            raw = raw.reshape(_space(path, raw.shape))
            affine = read_affine(path, raw.ndim)
    data = _labels(path, raw) if labels else _intensities(path, raw)
    return Image(data, affine, physical=suffix != ".png", header=header)


def write_image(path: str | Path, image: Image) -> None:
    """Write an image as NIfTI (``.nii``, ``.nii.gz``) or PNG; the file appears whole or not at all.

    NIfTI: integers keep their type (int64 becomes int32), anything else is float32. ``image.header`` lends the
    through-plane position, the number of axes and the position code; qform and sform are the same, and ITK reads
    ``image.affine`` back.

    PNG (2-D only, geometry is not stored): whole numbers, or floats rounded to them, at 8 bits if they lie in 0..255
    and at 16 bits if in 0..65535; floats within 0..1 that are not whole are stored times 65535. Nothing wraps or is
    clipped.

    Args:
        path: where to; the suffix chooses the format, an existing file is replaced.
        image: what to write.

    Raises:
        InputError: unknown suffix, missing or unwritable folder, or voxels or an affine that the format cannot hold.
    """
    path = Path(path)
    suffix = _suffix(path)
    with atomic_output(path) as temporary:
        if suffix == ".png":
            _write_png(path, temporary, image)
        else:
            _write_nifti(path, temporary, image)


def scale_intensity(data: Num[ndarray, "*space"]) -> Scaled:
    """Scale intensities to [0, 1] by percentiles 0.5 and 99.8: ``clip((data - low) / (high - low), 0, 1)``.

    The same call prepares images for training and for registration. Where the two percentiles coincide (fewer bright
    voxels than they leave out) the minimum and maximum are used.

    Args:
        data: finite intensities.

    Returns:
        Float32 intensities in [0, 1], and the ``low`` and ``high`` used.

    Raises:
        InputError: A single intensity, or NaN or infinite voxels.
    """
    values = np.asarray(data, np.float64)
    if not np.isfinite(values).all():
        raise InputError("intensities to scale must be finite, got NaN or infinity")
    low, high = (float(value) for value in np.percentile(values, SCALE_PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise InputError(f"intensities to scale are all {low:g}: a constant image cannot be scaled")
    return Scaled(np.clip((values - low) / (high - low), 0, 1).astype(np.float32), low, high)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Refuse a file that is missing, a folder or empty; the system's errors in reading it become an ``InputError``."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes)")
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to, and put it in the place of ``path`` when the block ends well.

    Args:
        path: the file to make. The sibling has the same suffixes, which writers go by.

    Yields:
        The sibling's path; removed if the block raises.

    Raises:
        InputError: the folder is missing, ``path`` is a folder, or the file cannot be written there.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file name")
    temporary = path.with_name(f".{uuid.uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        # Claimed first: an unwritable folder shows here, by its own error, whatever library writes afterwards.
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def lps_to_ras(matrix: Float[ndarray, "n n"]) -> Float[ndarray, "n n"]:
    """Turn an index-to-LPS matrix into index-to-RAS, or back: the first two world axes change sign."""
    flipped = np.array(matrix, np.float64)
    flipped[:2] *= -1
    return flipped


def itk_affine(
    spacing: tuple[float, ...], direction: tuple[float, ...], origin: tuple[float, ...]
) -> Float[ndarray, "n n"]:
    """Index-to-RAS matrix of ITK's (LPS) spacing, direction (row by row) and origin: ``LPS = D diag(s) index + o``."""
    dim = len(spacing)
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = np.reshape(direction, (dim, dim)) * np.asarray(spacing)
    matrix[:dim, dim] = origin
    return lps_to_ras(matrix)


def itk_reason(error: RuntimeError) -> str:
    """The line of a SimpleITK exception that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "ERROR" in line), lines[-1])


def _suffix(path: Path) -> str:
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: unknown image format, expected a name ending in {', '.join(IMAGE_SUFFIXES)}")


def _intensities(path: Path, raw: ndarray) -> ndarray:
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(raw, np.float32)
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    if bad:
        raise InputError(f"{path}: {bad} of {data.size} voxels are NaN or infinite; replace them before registration")
    if data.min() == data.max():
        raise InputError(f"{path}: every voxel is {data.flat[0]:g}; an image of one intensity cannot be registered")
    return data


def _labels(path: Path, raw: ndarray) -> ndarray:
    whole = np.isfinite(raw) & (raw == np.round(raw))
    if not whole.all():
        raise InputError(
            f"{path}: {int(np.count_nonzero(~whole))} of {raw.size} voxels are not whole numbers, expected labels"
        )
    limits = np.iinfo(np.int32)
    if raw.min() < limits.min or raw.max() > limits.max:
        raise InputError(f"{path}: labels from {raw.min():g} to {raw.max():g} do not fit 32 bits")
    return np.ascontiguousarray(raw).astype(np.int32)


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
        return np.asanyarray(nibabel.Nifti1Image.from_bytes(content).dataobj), header
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
    try:
        finite = np.isfinite(header.get_best_affine()).all()
    except (nibabel.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError(f"{path}: its NIfTI header is invalid ({error})") from error
    if not finite:
        raise InputError(f"{path}: its affine holds NaN or infinity")
    return header


def _space(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without trailing axes of one voxel: two axes or three."""
    axes = max([2, *(axis + 1 for axis, size in enumerate(shape) if size > 1)])
    if len(shape) < 2 or axes > 3:
        raise InputError(
            f"{path}: has shape {shape}, expected a 2-D or 3-D image; extract one volume of a series first"
        )
    return shape[:axes]


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
    return needed


def read_affine(path: Path, dim: int) -> Float[ndarray, "n n"]:
    """Index-to-RAS matrix of the first ``dim`` axes of a NIfTI file, as ITK reads it (see the module).

    Raises:
        InputError: ITK refuses the geometry, or it is singular or not finite.
    """
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: ITK cannot use its geometry ({itk_reason(error)})") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    axes = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:dim, :dim]
    if abs(np.linalg.det(direction)) < SINGULAR_DIRECTION:
        if axes == dim:
            raise InputError(
                f"{path}: its affine is singular in {dim} dimensions and ITK cannot read it;"
                " a coronal or sagittal slice must be stored with three axes, (X, Y, 1)"
            )
        direction = np.eye(dim)
    affine = itk_affine(reader.GetSpacing()[:dim], tuple(direction.ravel()), reader.GetOrigin()[:dim])
    if not np.isfinite(affine).all() or min(np.linalg.norm(affine[:dim, :dim], axis=0)) == 0:
        raise InputError(f"{path}: its affine is singular or not finite")
    return affine


def _write_nifti(path: Path, temporary: Path, image: Image) -> None:
    """Write with the header's own 4 x 4 affine if it still describes the image, else with one made from the image's."""
    header = nibabel.Nifti1Header() if image.header is None else image.header.copy()
    candidates = [(image.affine if image.dim == 3 else embed_affine(image.affine), image.shape)]
    if image.header is not None and image.dim == 2:
        shape = image.shape + (1,) * (len(image.header.get_data_shape()) - 2)
        affines = (image.header.get_sform(), image.header.get_qform(), embed_affine(image.affine))
        candidates = [*((affine, shape) for affine in affines), *candidates]
    code = int(header["sform_code"]) or int(header["qform_code"]) or 1
    header.set_xyzt_units("mm")
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    data = _storable(path, image.data)
    header.set_data_dtype(data.dtype)
    for affine, shape in candidates:
        if abs(np.linalg.det(affine)) == 0:
            continue
        nifti = nibabel.Nifti1Image(data.reshape(shape), None, header)
        nifti.set_qform(affine, code)
        nifti.set_sform(affine, code)
        nibabel.save(nifti, temporary)
        with contextlib.suppress(InputError):
            if np.allclose(read_affine(temporary, image.dim), image.affine, rtol=1e-4, atol=1e-4):
                return
    raise InputError(
        f"{path}: NIfTI cannot hold the affine {image.affine.tolist()} such that ITK reads it back (is it sheared?)"
    )


def embed_affine(affine: Float[ndarray, "3 3"]) -> Float[ndarray, "4 4"]:
    """A 4 x 4 affine of orthogonal columns from which ITK's 2-D reader gives back a 2-D affine, sheared or not.

    ITK keeps the spacing (the norm of a column in 3-D) and normalises the in-plane part of the column. With unit
    in-plane directions ``d0, d1`` of cosine ``c``, the columns ``s0 (a d0, z)`` and ``s1 (a d1, -sign(c) z)`` with
    ``a^2 = 1 / (1 + |c|)`` and ``z^2 = 1 - a^2`` are orthogonal and of norms ``s0, s1``.

    Args:
        affine: index to in-plane RAS millimetres.

    Returns:
        Index to RAS millimetres; slice at z = 0, 1 mm thick.
    """
    spacing = np.linalg.norm(affine[:2, :2], axis=0)
    unit = affine[:2, :2] / spacing
    cosine = float(unit[:, 0] @ unit[:, 1])
    if abs(cosine) < 1e-7:
        cosine = 0.0
    inplane = 1 / math.sqrt(1 + abs(cosine))
    tilt = math.sqrt(1 - inplane**2)
    columns = np.vstack([unit * inplane, [tilt, -math.copysign(tilt, cosine)]])
    normal = np.cross(columns[:, 0], columns[:, 1])
    embedded = np.eye(4)
    embedded[:3, :2] = columns * spacing
    embedded[:3, 2] = normal * (1 if normal[2] > 0 else -1)
    embedded[:2, 3] = affine[:2, 2]
    return embedded


def _storable(path: Path, data: ndarray) -> ndarray:
    """Voxels in a type that every NIfTI reader knows."""
    if data.dtype == bool:
        return data.astype(np.uint8)
    if data.dtype in (np.int64, np.uint64):
        limits = np.iinfo(np.int32)
        if data.min() < limits.min or data.max() > limits.max:
            raise InputError(f"{path}: labels from {data.min()} to {data.max()} do not fit 32 bits")
        return data.astype(np.int32)
    return data if data.dtype.kind in "iu" else data.astype(np.float32)


def _read_png(path: Path) -> ndarray:
    """Grey levels ``(x, y)`` of an 8- or 16-bit greyscale PNG; one bit becomes 0 and 255, as in ITK."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path, formats=["PNG"]) as png:
                if png.mode not in ("1", "L", "I", "I;16") or "transparency" in png.info:
                    found = PNG_KINDS.get(png.mode, "transparency")
                    raise InputError(f"{path}: holds {found}; save it as 8- or 16-bit greyscale without transparency")
                if math.prod(png.size) > DEFLATE_LIMIT * 8 * path.stat().st_size:
                    raise InputError(
                        f"{path}: announces {png.size} pixels, more than {path.stat().st_size} bytes can hold"
                    )
                levels = np.asarray(png.convert("L") if png.mode == "1" else png)
    except InputError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise InputError(f"{path}: is not a PNG file") from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: is too large ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{path}: is truncated or damaged ({error})") from error
    return levels.T.astype(np.int32)


def _write_png(path: Path, temporary: Path, image: Image) -> None:
    if image.dim != 2:
        raise InputError(f"{path}: PNG holds 2-D images, got shape {image.shape}; write NIfTI")
    levels = np.round(image.data)
    unit_range = image.data.min() >= 0 and image.data.max() <= 1 and not np.array_equal(levels, image.data)
    if unit_range:
        levels = np.round(image.data.astype(np.float64) * 65535)
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > 65535:
        low, high = float(image.data.min()), float(image.data.max())
        raise InputError(f"{path}: PNG holds whole numbers from 0 to 65535, got {low:g} to {high:g}; write NIfTI")
    depth = np.uint16 if unit_range or levels.max() > 255 else np.uint8
    PIL.Image.fromarray(np.ascontiguousarray(levels.T.astype(depth))).save(temporary, format="PNG")
