"""MetaImage, NRRD, TIFF and MINC files to voxels with their geometry; MetaImage and NRRD back.

ITK reads all of them but MINC, and its geometry counts (:mod:`crossmorph.nifti`). It is not trusted with the size: a
header may announce more than the file holds, and a damaged compressed MetaImage is read as whatever was in memory. So
the bytes are counted, and compressed ones unpacked to the end, before ITK sees the voxels.

MINC keeps world coordinates right, anterior and superior, and ITK 5 takes them for left, posterior and superior: half a
turn about the vertical axis (https://github.com/InsightSoftwareConsortium/ITK/pull/4864). nibabel reads them as they
are meant, and so do we: here alone ``affine`` is not what ITK reads.
"""

import contextlib
import gzip
import io
import logging
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import PIL.Image
import SimpleITK as sitk
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.files import DEFLATE_LIMIT, atomic_output, brief
from crossmorph.memory import check_room
from crossmorph.nifti import (
    ITK_ERRORS,
    itk_affine,
    itk_reason,
    lps_to_ras,
    silent_itk,
    spatial_affine,
    spatial_shape,
    storable,
)

ITK_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}
REALS = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
TYPES = {getattr(sitk, f"sitk{name}"): np.dtype(name.lower()) for name in REALS}

# A picture without millimetres: one a pixel, first pixel at the origin, x to the left and y to the back as in ITK.
PAGE = np.diag([-1.0, -1.0, 1.0])

HEADER_BYTES, MOST_LINE = 1 << 16, 512
VECTORS = ("space directions", "space origin", "measurement frame")
VECTOR = re.compile(r"none|\([-+0-9.eEnaif, \t]*\)", re.IGNORECASE)
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

# Pillow would say on the terminal what it thinks of a damaged file.
logging.getLogger("PIL").addHandler(logging.NullHandler())

TIFF_MODES = ("L", "I", "I;16", "I;16B", "F")

# Header fields of MetaImage and NRRD that hold geometry; their parsers read NaN as 0.
GEOMETRY = {"offset", "position", "origin", "elementspacing", "elementsize", "transformmatrix", "rotation"}
GEOMETRY |= {"orientation", "spacings", "space directions", "space origin"}


class Content(NamedTuple):
    """What an image file holds.

    Attributes:
        voxels: ``(*space)``, two or three axes, x first; of any real type.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``.
        stored: type of the voxels in the file, None where a scale comes between them and the intensities.
        header: of a NIfTI file.
        physical: whether the affine has millimetres.
    """

    voxels: Num[ndarray, "*space"]
    affine: Float[ndarray, "n n"]
    stored: np.dtype | None
    header: nibabel.Nifti1Header | None = None
    physical: bool = True


class Payload(NamedTuple):
    """Where the voxels of a MetaImage or NRRD file lie: from byte ``start`` of ``file``."""

    file: Path
    start: int
    compressed: bool


def read_itk(path: Path) -> Content:
    """Read a MetaImage (``.mha``, ``.mhd``) or NRRD (``.nrrd``, ``.nhdr``) file.

    Raises:
        InputError: not such a file, truncated or damaged, of voxels that are not one real number each, not 2-D or
            3-D, of a geometry that is singular or not finite, or stored in a way that cannot be checked: as text,
            bzip2, or in several files of voxels.
    """
    kind = ITK_READERS[path.suffix.lower()]
    reader = read_information(path, kind)
    needed = math.prod(reader.GetSize()) * TYPES[reader.GetPixelID()].itemsize
    _check_payload(path, _payload(path), needed)
    check_room(path, math.prod(reader.GetSize()), needed)
    with quiet_itk(path):
        image = reader.Execute()
    return itk_content(path, image)


def read_tiff(path: Path) -> Content:
    """Read a greyscale TIFF file of one page; its resolution is none of the body's and is dropped.

    Raises:
        InputError: not TIFF, truncated, of colour or several pages, or announcing more than the file can hold.
    """
    # Pillow first: libtiff makes room for as many strips as a header announces.
    mode, size = _tiff_header(path)
    if math.prod(size) > DEFLATE_LIMIT * 8 * path.stat().st_size:
        raise InputError(f"{path}: announces {size} pixels, more than {path.stat().st_size} bytes can hold")
    reader = read_information(path, "TIFFImageIO")
    if len(reader.GetSize()) != 2:
        raise InputError(f"{path}: holds {reader.GetSize()[-1]} pages, expected one greyscale picture")
    if mode not in TIFF_MODES:
        raise InputError(f"{path}: holds a palette, colour or transparency (mode {mode}); save it as greyscale")
    with quiet_itk(path):
        image = reader.Execute()
    return itk_content(path, image)._replace(affine=PAGE, physical=False)


def _tiff_header(path: Path) -> tuple[str, tuple[int, int]]:
    """Pillow's word for the pixels, and how many; ITK makes meaningless grey levels of palettes and transparency."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(path, formats=["TIFF"]) as tiff:
                return tiff.mode, tiff.size
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"{path}: is not a TIFF picture of a known kind, or is too large ({error})") from error


def read_minc(path: Path) -> Content:
    """Read a MINC file, version 1 (also ``.mnc.gz``) or 2.

    Returns:
        Voxels with the axes of the file in reverse, x first as a rule; ``stored`` is set where all intensities are
        whole numbers of the file's type.

    Raises:
        InputError: not MINC, truncated or damaged, not of three spatial axes, or of a singular geometry.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open_minc(path)
            announced = math.prod(image.shape) * image.get_data_dtype().itemsize
            if announced > DEFLATE_LIMIT * path.stat().st_size:
                raise InputError(
                    f"{path}: is truncated: its header announces {announced} bytes, too many for a file of "
                    f"{path.stat().st_size} bytes"
                )
            shape = spatial_shape(path, image.shape[::-1])
            voxels = np.asarray(image.dataobj).T.reshape(shape)
    except InputError:
        raise
    except Exception as error:  # nibabel passes on whatever it stumbles over in a damaged file
        reason = brief(error) or type(error).__name__
        raise InputError(f"{path}: is not a MINC file that nibabel can read, or is damaged ({reason})") from error
    affine = spatial_affine(path, image.affine[:, [2, 1, 0, 3]], len(shape))
    return Content(voxels, affine, _exact_type(voxels, image.get_data_dtype().newbyteorder("=")))


def _open_minc(path: Path) -> Any:
    """A MINC file as nibabel sees it; version 1 from memory, where no more can be asked for than there is."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
        if stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            return nibabel.Minc2Image.from_filename(path)
        stream.seek(0)
        held = nibabel.fileholders.FileHolder(fileobj=io.BytesIO(stream.read()))
    return nibabel.Minc1Image.from_file_map({"image": held})


def _exact_type(voxels: ndarray, dtype: np.dtype) -> np.dtype | None:
    """The type, if it holds every voxel as it is."""
    if dtype.kind not in "iu":
        return dtype
    limits = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        whole = (voxels == np.round(voxels)).all() and limits.min <= voxels.min() and voxels.max() <= limits.max
    return dtype if whole else None


def write_itk(path: Path, data: Shaped[ndarray, "*space"], affine: Float[ndarray, "n n"]) -> None:
    """Write an image as compressed MetaImage (``.mha``) or NRRD (``.nrrd``); it appears whole or not at all.

    Args:
        path: where to; the suffix chooses the format, an existing file is replaced.
        data: two or three axes; integers keep their type (int64 becomes int32), anything else is float32.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``.

    Raises:
        InputError: missing or unwritable folder, labels beyond 32 bits, or a singular affine.
    """
    dim = data.ndim
    lps = lps_to_ras(affine)
    spacing = np.linalg.norm(lps[:dim, :dim], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(storable(path, data).T))
    with atomic_output(path) as temporary, quiet_itk(path, "written"):
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:dim, :dim] / spacing).ravel().tolist())
        image.SetOrigin(lps[:dim, dim].tolist())
        sitk.WriteImage(image, str(temporary), useCompression=True)


def read_header(path: Path, kind: str) -> sitk.ImageFileReader:
    """A reader that knows the header of a file, whatever that says; InputError where ITK would die of it."""
    if kind in _CHECKS:
        _CHECKS[kind](path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    with quiet_itk(path):
        reader.ReadImageInformation()
    return reader


def read_information(path: Path, kind: str) -> sitk.ImageFileReader:
    """A reader that knows the header; one real number a voxel, in a shape that can be used."""
    reader = read_header(path, kind)
    check_header(path, reader, kind)
    return reader


def check_header(path: Path, reader: sitk.ImageFileReader, kind: str) -> None:
    """Refuse voxels that are not one real number each, and shapes that cannot be used."""
    if reader.GetPixelID() not in TYPES:
        found = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(f"{path}: holds voxels of {found} (colour or several numbers), expected one real number each")
    if min(reader.GetSize(), default=0) < 1:
        raise InputError(f"{path}: has shape {reader.GetSize()}, expected axes of at least one voxel")
    if kind != "TIFFImageIO":
        spatial_shape(path, reader.GetSize())


def itk_content(path: Path, image: sitk.Image) -> Content:
    """Voxels and geometry of an image that ITK has read; ``path`` is for errors."""
    affine = itk_affine(image.GetSpacing(), image.GetDirection(), image.GetOrigin())
    shape = spatial_shape(path, image.GetSize())
    voxels = sitk.GetArrayFromImage(image).T.reshape(shape)
    return Content(voxels, spatial_affine(path, affine, len(shape)), voxels.dtype)


def _check_axes(path: Path) -> None:
    """Refuse a MetaImage of more axes than MetaIO has room for: it does not look, and the process dies of it."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    for found in re.findall(rb"ndims[\s=:]*([^\s=:]*)", head, re.IGNORECASE):
        if found not in (b"1", b"2", b"3", b"4"):
            raise InputError(f"{path}: its NDims is {brief(found)}, expected 2 or 3")


def _check_vectors(path: Path) -> None:
    """Refuse an NRRD file with vectors that are none or too many, or with long lines: ITK may die of them."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES).split(b"\n\n")[0].split(b"\r\n\r\n")[0]
    for line in head.decode("latin-1").split("\n"):
        key, _, value = line.partition(":")
        if len(line) > MOST_LINE and not key.startswith(("#", "content")) and not value.startswith("="):
            raise InputError(f"{path}: its {brief(key)} has {len(value)} letters, expected {MOST_LINE} at most")
        if key.strip().lower() in VECTORS:
            found = VECTOR.findall(value)
            if VECTOR.sub("", value).strip() or len(found) > 4 or max((one.count(",") for one in found), default=0) > 3:
                raise InputError(f"{path}: its {key.strip()} is {brief(value)}, expected a vector for each axis")


_CHECKS = {"MetaImageIO": _check_axes, "NrrdImageIO": _check_vectors}


def _payload(path: Path) -> Payload:
    """Where the voxels are, from the text at the head of a MetaImage or NRRD file that ITK understood.

    MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation; NRRD: https://teem.sourceforge.net/nrrd/format.html.
    """
    meta = ITK_READERS[path.suffix.lower()] == "MetaImageIO"
    fields, start = _fields(path, "=" if meta else ":", "elementdatafile" if meta else "")
    for key in GEOMETRY & fields.keys():
        if "nan" in fields[key].lower() or "inf" in fields[key].lower():
            raise InputError(f"{path}: its {key} is {fields[key]}, expected finite numbers")
    encoding = _meta_encoding(fields) if meta else fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path}: its voxels are stored as {encoding}, expected raw or gzip")
    name = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile") or "LOCAL"
    if name.upper() == "LOCAL":
        return Payload(path, start, encoding != "raw")
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path}: its voxels lie in several files ({name}), expected one")
    if not (path.parent / name).is_file():
        raise InputError(f"{path}: its voxels should lie in {path.parent / name}, which is missing")
    return Payload(path.parent / name, 0, encoding != "raw")


def _fields(path: Path, separator: str, last: str) -> tuple[dict[str, str], int]:
    """The fields of a text header by lower-case name, and the byte after it: after the field ``last``, or a blank."""
    fields = {}
    with path.open("rb") as stream:
        for line in iter(stream.readline, b""):
            key, _, value = line.decode("latin-1").partition(separator)
            key = key.strip().lower()
            if not value.startswith("="):  # in NRRD := begins what the user noted
                fields[key] = value.strip()
            if key == last:
                break
        return fields, stream.tell()


def _meta_encoding(fields: dict[str, str]) -> str:
    if fields.get("binarydata", "True")[:1].lower() in ("f", "0"):
        return "text"
    return "gzip" if fields.get("compresseddata", "False")[:1].lower() in ("t", "1") else "raw"


def _check_payload(path: Path, payload: Payload, needed: int) -> None:
    """Refuse a file that holds fewer bytes of voxels than its header announces, or damaged ones."""
    there = payload.file.stat().st_size - payload.start
    if needed > there * (DEFLATE_LIMIT if payload.compressed else 1):
        raise InputError(
            f"{path}: is truncated: its header announces {needed} bytes of voxels, too many for the {there} that are "
            "there"
        )
    if not payload.compressed:
        return
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib (MetaImage) or gzip (NRRD), whichever begins here
    held = 0
    with payload.file.open("rb") as stream:
        stream.seek(payload.start)
        try:
            while not inflater.eof and (chunk := stream.read(1 << 16)):
                held += len(inflater.decompress(chunk))
        except zlib.error as error:
            raise InputError(f"{path}: is damaged ({error})") from error
    if not inflater.eof or held < needed:
        raise InputError(
            f"{path}: is truncated or damaged: its header announces {needed} bytes of voxels, {held} were unpacked"
        )


@contextlib.contextmanager
def quiet_itk(path: Path, done: str = "read") -> Iterator[None]:
    """Let ITK work without a word on the terminal; its exception becomes an ``InputError``."""
    try:
        with silent_itk():
            yield
    except ITK_ERRORS as error:
        raise InputError(f"{path}: cannot be {done} by ITK ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    for word, wanted in (("spacing", "millimetres above 0"), ("direction", "independent axes")):
        if f"to change {word}" in str(error):
            return f"its {word} is zero, singular or not finite, expected {wanted}"
    return itk_reason(error)
