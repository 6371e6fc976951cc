"""ITK's readers: checked headers, voxels with their geometry, reasons of errors."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, slice_header
from crossmorph.images.itk_silence import ITK_ERRORS as ITK_ERRORS
from crossmorph.images.itk_silence import reason_line
from crossmorph.images.itk_silence import silent_itk as silent_itk
from crossmorph.images.orientation import itk_affine, lps_to_ras, spatial_affine, spatial_axes
from crossmorph.system.files import brief


def itk_reason(error: Exception) -> str:
    """The line of a SimpleITK exception with the reason."""
    return brief(reason_line(error))


REALS = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
TYPES = {getattr(sitk, f"sitk{name}"): np.dtype(name.lower()) for name in REALS}

HEADER_BYTES, MOST_LINE = 1 << 16, 512
VECTORS = ("space directions", "space origin", "measurement frame")
VECTOR = re.compile(r"none|\([-+0-9.eEnaif, \t]*\)", re.IGNORECASE)


def read_header(path: Path, kind: str) -> sitk.ImageFileReader:
    """A reader that has read the header of a file. Raises InputError where the header would crash ITK."""
    if kind in _CHECKS:
        _CHECKS[kind](path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    with quiet_itk(path):
        reader.ReadImageInformation()
    return reader


def read_information(path: Path, kind: str) -> sitk.ImageFileReader:
    """A reader that has read the header: one real number a voxel, in a shape that can be used."""
    reader = read_header(path, kind)
    check_header(path, reader, kind)
    return reader


def check_header(path: Path, reader: sitk.ImageFileReader | sitk.Image, kind: str) -> None:
    """Refuse voxels that are not one real number each, and shapes that cannot be used."""
    if reader.GetPixelID() not in TYPES:
        found = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(f"{path}: holds voxels of {found} (colour or several numbers), expected one real number each")
    if min(reader.GetSize(), default=0) < 1:
        raise InputError(f"{path}: has shape {reader.GetSize()}, expected axes of at least one voxel")
    if kind != "TIFFImageIO":
        spatial_axes(path, reader.GetSize())


def sitk_content(name: Path, image: sitk.Image) -> Content:
    """Voxels and geometry of an image in memory. Raises InputError where it cannot be used; ``name`` is for errors."""
    check_header(name, image, "")
    return itk_content(name, image, sitk.GetArrayFromImage(image).T)


def itk_content(path: Path, header: sitk.Image | sitk.ImageFileReader, voxels: Num[ndarray, "..."]) -> Content:
    """Voxels, x first, with the geometry that ITK has read; ``path`` is for errors."""
    affine = itk_affine(header.GetSpacing(), header.GetDirection(), header.GetOrigin())
    axes = spatial_axes(path, voxels.shape)
    shape = tuple(voxels.shape[axis] for axis in axes)
    kept = spatial_affine(path, affine, axes)
    lent = slice_header(affine, voxels.shape) if len(axes) == 2 and len(affine) == 4 else None
    return Content(voxels.reshape(shape), kept, voxels.dtype, lent)


def sitk_image(data: Shaped[ndarray, "*space"], affine: Float[ndarray, "n n"]) -> sitk.Image:
    """Voxels, x first, with their affine from index to RAS millimetres, as SimpleITK has them."""
    dim, lps = data.ndim, lps_to_ras(affine)
    spacing = np.linalg.norm(lps[:dim, :dim], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:dim, :dim] / spacing).ravel().tolist())
    image.SetOrigin(lps[:dim, dim].tolist())
    return image


def _check_axes(path: Path) -> None:
    """Refuse a MetaImage of more axes than MetaIO has memory for: it does not check, and the process crashes."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    for found in re.findall(rb"ndims[\s=:]*([^\s=:]*)", head, re.IGNORECASE):
        if found not in (b"1", b"2", b"3", b"4"):
            raise InputError(f"{path}: its NDims is {brief(found)}, expected 2 or 3")


def _check_vectors(path: Path) -> None:
    """Refuse an NRRD file with missing or too many vectors, or with long lines, which may crash ITK."""
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


@contextlib.contextmanager
def quiet_itk(path: Path, done: str = "read") -> Iterator[None]:
    """Run ITK without output on the terminal; its exception becomes an ``InputError``."""
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
