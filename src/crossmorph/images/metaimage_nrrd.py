"""MetaImage and NRRD files to voxels with their geometry, and back.

ITK reads the header, and its geometry is used (:mod:`crossmorph.images.nifti`). The voxels are read here: ITK does not
check sizes, so that of a compressed MetaImage whose ``CompressedDataSize`` is missing or wrong it returns uninitialised
memory. What was unpacked and counted is what becomes the array.
"""

import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, storable
from crossmorph.images.itk import TYPES, itk_content, quiet_itk, read_information, sitk_image
from crossmorph.images.nifti_geometry import lent_shape, volume_affine
from crossmorph.images.orientation import spatial_affine, spatial_axes
from crossmorph.system.files import DEFLATE_LIMIT, atomic_output, brief
from crossmorph.system.memory import check_room

ITK_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}

# Header fields of MetaImage and NRRD that hold geometry; their parsers read NaN as 0.
GEOMETRY = {"offset", "position", "origin", "elementspacing", "elementsize", "transformmatrix", "rotation"}
GEOMETRY |= {"orientation", "spacings", "space directions", "space origin"}


ByteOrder = Literal["<", ">", ""]
ORDERS: dict[str, ByteOrder] = {"little": "<", "big": ">"}


class Payload(NamedTuple):
    """Where the voxels of a MetaImage or NRRD file lie, and how.

    Attributes:
        file: the file that holds them.
        start: the byte of it at which they, or the compressed ones, begin; None: they end where the file ends.
        compressed: whether they are to be unpacked, by zlib or gzip.
        skipped: bytes before them, once they are unpacked.
        order: of the bytes of a number, ``<`` or ``>``; empty: the file does not say.
    """

    file: Path
    start: int | None
    compressed: bool
    skipped: int
    order: ByteOrder


def read_itk(path: Path) -> Content:
    """Read a MetaImage (``.mha``, ``.mhd``) or NRRD (``.nrrd``, ``.nhdr``) file.

    Raises:
        InputError: not such a file, truncated or damaged, of voxels that are not one real number each, not 2-D or
            3-D, of a geometry that is singular or not finite, or stored in a way that cannot be checked: as text,
            bzip2, or in several files of voxels.
    """
    reader = read_information(path, ITK_READERS[path.suffix.lower()])
    size, dtype = reader.GetSize(), TYPES[reader.GetPixelID()]
    payload = _payload(path)
    if dtype.itemsize > 1 and not payload.order:
        raise InputError(f"{path}: does not say the order of the bytes of its {dtype} numbers, expected its endian")
    content = _content(path, payload, math.prod(size), dtype.itemsize)
    stored = np.frombuffer(content, dtype.newbyteorder(payload.order or "="))
    voxels = stored.astype(dtype, copy=False).reshape(size, order="F")
    return itk_content(path, reader, voxels)


def write_itk(
    path: Path,
    data: Shaped[ndarray, "*space"],
    affine: Float[ndarray, "n n"],
    header: nibabel.Nifti1Header | None = None,
) -> None:
    """Write an image as compressed MetaImage (``.mha``) or NRRD (``.nrrd``); it appears complete or not at all.

    Args:
        path: where to; the suffix chooses the format, an existing file is replaced.
        data: two or three axes; integers keep their type, but of 64 bits become int32 if they fit; the rest is float32.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``.
        header: gives a slice its axis of one voxel and its place in the volume, where it still describes it.

    Raises:
        InputError: missing or unwritable folder, or a singular affine.
    """
    stored = storable(data)
    if header is not None and data.ndim == 2:
        lent = lent_shape(data.shape, header.get_data_shape())[:3]
        full = volume_affine(path, header)
        if len(lent) == 3 and np.allclose(spatial_affine(path, full, spatial_axes(path, lent)), affine, atol=1e-4):
            stored, affine = stored.reshape(lent), full
    with atomic_output(path) as temporary, quiet_itk(path, "written"):
        sitk.WriteImage(sitk_image(stored, affine), str(temporary), useCompression=True)


def _payload(path: Path) -> Payload:
    """Where the voxels are, from the text at the head of a MetaImage or NRRD file that ITK understood."""
    meta = ITK_READERS[path.suffix.lower()] == "MetaImageIO"
    fields, after = _meta_fields(path) if meta else _nrrd_fields(path)
    for key in fields:
        if key.lower() in GEOMETRY and ("nan" in fields[key].lower() or "inf" in fields[key].lower()):
            raise InputError(f"{path}: its {key} is {fields[key]}, expected finite numbers")
    encoding = _meta_encoding(fields) if meta else fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path}: its voxels are stored as {encoding}, expected raw or gzip")
    name = fields.get("ElementDataFile") or fields.get("data file") or fields.get("datafile") or "LOCAL"
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path}: its voxels lie in several files ({name}), expected one file")
    local = name.upper() == "LOCAL"
    file = path if local else path.parent / name
    if not file.is_file():
        raise InputError(f"{path}: its voxels should lie in {file}, which is missing")
    describe = _meta_payload if meta else _nrrd_payload
    return describe(path, fields, file, after if local else 0, encoding != "raw")


def _meta_payload(path: Path, fields: dict[str, str], file: Path, start: int, compressed: bool) -> Payload:
    """https://itk.org/Wiki/ITK/MetaIO/Documentation: ``HeaderSize`` counts from the beginning of the file."""
    orders = {_true(fields[key]) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if key in fields}
    if len(orders) > 1:
        raise InputError(f"{path}: says two orders of bytes, expected BinaryDataByteOrderMSB or ElementByteOrderMSB")
    header = _whole_number(path, fields, "HeaderSize")
    place = None if header == -1 else (header or start)
    return _checked(path, Payload(file, place, compressed, 0, ">" if orders == {True} else "<"))


def _nrrd_payload(path: Path, fields: dict[str, str], file: Path, start: int, compressed: bool) -> Payload:
    """https://teem.sourceforge.net/nrrd/format.html: lines are skipped first, then bytes, of what is unpacked."""
    lines = _whole_number(path, fields, "line skip" if "line skip" in fields else "lineskip")
    skipped = _whole_number(path, fields, "byte skip" if "byte skip" in fields else "byteskip")
    if lines:
        with file.open("rb") as stream:
            stream.seek(start)
            for _ in range(max(lines, 0)):
                stream.readline()
            start = stream.tell()
    order = ORDERS.get(fields.get("endian", "").lower(), "")
    if skipped == -1:
        return _checked(path, Payload(file, None, compressed, 0, order))
    return _checked(path, Payload(file, start, compressed, skipped, order))


def _checked(path: Path, payload: Payload) -> Payload:
    if payload.skipped < 0 or (payload.start is None and payload.compressed) or (payload.start or 0) < 0:
        raise InputError(f"{path}: its voxels begin before its first byte or at an unknown one, expected 0 or later")
    return payload


def _whole_number(path: Path, fields: dict[str, str], key: str) -> int:
    value = fields.get(key, "0")
    if not re.fullmatch(r"-?\d{1,15}", value):
        raise InputError(f"{path}: its {key} is {brief(value)}, expected a whole number")
    return int(value)


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header by name, whose case counts, and the byte after it."""
    fields = {}
    with path.open("rb") as stream:
        for line in iter(stream.readline, b""):
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                break
        return fields, stream.tell()


def _nrrd_fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header by lower-case name, and the byte after the empty line that ends it."""
    fields = {}
    with path.open("rb") as stream:
        for line in iter(stream.readline, b""):
            key, _, value = line.decode("latin-1").partition(":")
            if not line.strip():
                break
            if not value.startswith("="):  # := marks a user's own key and value
                fields[key.strip().lower()] = value.strip()
        return fields, stream.tell()


def _meta_encoding(fields: dict[str, str]) -> str:
    if not _true(fields.get("BinaryData", "True")):
        return "text"
    return "gzip" if _true(fields.get("CompressedData", "False")) else "raw"


def _true(value: str) -> bool:
    return value[:1].lower() in ("t", "1")


def _content(path: Path, payload: Payload, count: int, itemsize: int) -> bytearray:
    """The bytes of the voxels. Raises InputError where there are fewer than announced, or damaged ones."""
    needed = count * itemsize
    there = payload.file.stat().st_size - (payload.start or 0)
    if needed + payload.skipped > there * (DEFLATE_LIMIT if payload.compressed else 1):
        raise InputError(
            f"{path}: is truncated: its header announces {needed} bytes of voxels, too many for the {there} bytes "
            "that follow it"
        )
    check_room(path, count, needed)
    with payload.file.open("rb") as stream:
        stream.seek(there - needed if payload.start is None else payload.start)
        if not payload.compressed:
            stream.seek(payload.skipped, 1)
            return bytearray(stream.read(needed))
        content = _unpacked(path, stream, payload.skipped + needed)
    if len(content) < payload.skipped + needed:
        raise InputError(
            f"{path}: is truncated or damaged: its header announces {needed} bytes of voxels, "
            f"{max(len(content) - payload.skipped, 0)} were unpacked"
        )
    return content[payload.skipped :]


def _unpacked(path: Path, stream: BinaryIO, most: int) -> bytearray:
    """What a compressed stream holds, up to a number of bytes; it is unpacked to its end, where its checksum is."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib (MetaImage) or gzip (NRRD), by its header
    content = bytearray()
    try:
        while not inflater.eof and (chunk := stream.read(1 << 16)):
            content += inflater.decompress(chunk)[: most - len(content)]
    except zlib.error as error:
        raise InputError(f"{path}: is damaged ({error})") from error
    if not inflater.eof:
        raise InputError(f"{path}: is truncated or damaged: its compressed voxels have no end")
    return content
