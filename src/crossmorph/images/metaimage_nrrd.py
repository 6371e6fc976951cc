"""MetaImage and NRRD files to voxels with their geometry, and back.

ITK reads them, and its geometry is used (:mod:`crossmorph.images.nifti`). ITK does not check the size: a header may
announce more than the file holds, and of a damaged compressed MetaImage it returns uninitialised memory. So the bytes
are counted, and compressed ones unpacked to the end, before ITK reads the voxels.
"""

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import SimpleITK as sitk
from jaxtyping import Float, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, storable
from crossmorph.images.itk import TYPES, itk_content, quiet_itk, read_information, sitk_image
from crossmorph.system.files import DEFLATE_LIMIT, atomic_output
from crossmorph.system.memory import check_room

ITK_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}

# Header fields of MetaImage and NRRD that hold geometry; their parsers read NaN as 0.
GEOMETRY = {"offset", "position", "origin", "elementspacing", "elementsize", "transformmatrix", "rotation"}
GEOMETRY |= {"orientation", "spacings", "space directions", "space origin"}


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


def write_itk(path: Path, data: Shaped[ndarray, "*space"], affine: Float[ndarray, "n n"]) -> None:
    """Write an image as compressed MetaImage (``.mha``) or NRRD (``.nrrd``); it appears complete or not at all.

    Args:
        path: where to; the suffix chooses the format, an existing file is replaced.
        data: two or three axes; integers keep their type, but of 64 bits become int32 if they fit; the rest is float32.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``.

    Raises:
        InputError: missing or unwritable folder, or a singular affine.
    """
    with atomic_output(path) as temporary, quiet_itk(path, "written"):
        sitk.WriteImage(sitk_image(storable(data), affine), str(temporary), useCompression=True)


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
        raise InputError(f"{path}: its voxels lie in several files ({name}), expected one file")
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
            if not value.startswith("="):  # in NRRD, := marks a user's own key and value
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
            f"{path}: is truncated: its header announces {needed} bytes of voxels, too many for the {there} bytes "
            "that follow it"
        )
    if not payload.compressed:
        return
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib (MetaImage) or gzip (NRRD), by its header
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
