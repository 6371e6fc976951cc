"""A folder that holds one DICOM series to a volume: complete, in order and evenly spaced, or an error says why not.

GDCM, through ITK, reads the slices; this module chooses the files and reports damaged ones.
"""

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crossmorph.errors import InputError
from crossmorph.images.image import Content
from crossmorph.images.itk import ITK_ERRORS, check_header, itk_content, read_header, silent_itk
from crossmorph.system.files import DEFLATE_LIMIT, brief

# A slice may lie this far from where even spacing would put it: positions are decimal numbers, often of two digits.
POSITION_TOLERANCE_MM = 0.02
POSITION_TOLERANCE = 0.01  # of the spacing

SERIES_NAMED = 5
SERIES, DESCRIPTION = "0020|000e", "0008|103e"  # SeriesInstanceUID, SeriesDescription
DICOM_MAGIC = (128, b"DICM")  # https://dicom.nema.org/medical/dicom/current/output/chtml/part10/chapter_7.html
META_BYTES = 1 << 20
LONG_TYPES = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UC", b"UR", b"UT", b"SV", b"UV"}
SHORT_TYPES = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
SHORT_TYPES |= {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}


def read_dicom_file(path: Path) -> Content:
    """Read the series that a DICOM file belongs to, from the file's folder; see :func:`read_dicom`."""
    if not is_dicom(path):
        raise InputError(f"{path}: is not a DICOM file")
    return read_dicom(path.parent, path)


def read_dicom(folder: Path, member: Path | None = None) -> Content:
    """Read the DICOM series that a folder holds, in order of position.

    Args:
        folder: of the series.
        member: one file of the series, where the folder may hold several.

    Returns:
        Voxels rescaled by the slices' factors; ``stored`` is the type after that, where all slices share it.

    Raises:
        InputError: no series or several, slices that are missing, truncated, doubled, shifted against each other or
            unlike the others, several frames a file, or colour.
    """
    files, slices = _series(folder, member)
    for file, reader in zip(files, slices, strict=True):
        check_header(file, reader, "GDCMImageIO")
        size, bound = reader.GetSize(), DEFLATE_LIMIT * file.stat().st_size
        if size[2:] not in ((), (1,)):
            raise InputError(f"{file}: holds {size[2]} frames, expected one slice a file; convert it to NIfTI first")
        if math.prod(size) > bound:
            raise InputError(f"{file}: announces {size} pixels, more than {file.stat().st_size} bytes can hold")
    files = _in_order(folder, files, slices)
    types = {reader.GetPixelID() for reader in slices}
    series = sitk.ImageSeriesReader()
    series.SetImageIO("GDCMImageIO")
    series.SetFileNames([str(file) for file in files])
    if len(types) > 1:  # scaled slice by slice: ITK would cast all to the type of the first
        series.SetOutputPixelType(sitk.sitkFloat64)
    try:
        with silent_itk():
            image = series.Execute()
    except ITK_ERRORS as error:
        raise _lost(folder, files, [file for file in files if not _read_alone(file)]) from error
    content = itk_content(folder, image, sitk.GetArrayFromImage(image).T)
    return content if len(types) == 1 else content._replace(stored=None)


Slices = list[tuple[Path, sitk.ImageFileReader]]


def _series(folder: Path, member: Path | None) -> tuple[list[Path], list[sitk.ImageFileReader]]:
    """The files of the one series in a folder, or of a member's, and readers that have read their headers."""
    try:
        candidates = [file for file in sorted(folder.iterdir()) if is_dicom(file)]
        # GDCM itself would read every file of the folder, and never returns from some that are damaged.
        damaged = [file for file in candidates if not _whole_meta(file)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    if not candidates:
        raise InputError(f"{folder}: is a folder without DICOM files, expected an image file or one DICOM series")
    series: dict[str, Slices] = {}
    for file in candidates:
        if file in damaged:
            continue
        try:
            reader = read_header(file, "GDCMImageIO")
            name = _tag(reader, SERIES)
            series.setdefault(name, []).append((file, reader))
        except (InputError, *ITK_ERRORS):
            damaged.append(file)
    if member in damaged:
        raise _lost(folder, candidates, damaged)
    chosen = [slices for slices in series.values() if member is None or member in [file for file, _ in slices]]
    if len(chosen) > 1:
        raise _several(folder, series)
    if damaged:
        raise _lost(folder, candidates, damaged)
    ((files, slices),) = (zip(*found, strict=True) for found in chosen)
    return list(files), list(slices)


def _several(folder: Path, series: dict[str, Slices]) -> InputError:
    """Names the series by what tells them apart, and how to choose one."""
    named = []
    for _, slices in sorted(series.items())[:SERIES_NAMED]:
        file, reader = slices[0]
        title = brief(_tag(reader, DESCRIPTION)) or "without description"
        size = " x ".join(map(str, reader.GetSize()[:2]))
        named.append(f"{title} ({len(slices)} slice{'s' * (len(slices) > 1)} of {size}, {brief(file.name)})")
    more = f", and {len(series) - SERIES_NAMED} more" if len(series) > SERIES_NAMED else ""
    return InputError(
        f"{folder}: holds {len(series)} DICOM series: {'; '.join(named)}{more}; expected one: give a file of it "
        "instead of the folder"
    )


def _tag(reader: sitk.ImageFileReader, key: str) -> str:
    return reader.GetMetaData(key).strip(" \0") if reader.HasMetaDataKey(key) else ""


def _lost(folder: Path, files: list[Path], lost: list[Path]) -> InputError:
    names = ", ".join(brief(file.name) for file in sorted(lost)[:SERIES_NAMED])
    return InputError(
        f"{folder}: {len(lost)} of {len(files)} DICOM files are truncated, damaged or no images: {names}; expected one "
        "whole series"
    )


def _read_alone(file: Path) -> bool:
    try:
        with silent_itk():
            read_header(file, "GDCMImageIO").Execute()
    except (InputError, *ITK_ERRORS):
        return False
    return True


def _whole_meta(file: Path) -> bool:
    """Whether the elements of group 2, which define the encoding of all others, are themselves valid.

    Each is a group, an element, two letters for its type, its length in two bytes or, after two empty ones, in four
    (https://dicom.nema.org/medical/dicom/current/output/chtml/part10/chapter_7.html).
    """
    with file.open("rb") as stream:
        stream.seek(DICOM_MAGIC[0] + len(DICOM_MAGIC[1]))
        content = stream.read(META_BYTES)
    at = 0
    while content[at : at + 2] == b"\2\0":
        kind = content[at + 4 : at + 6]
        if kind in LONG_TYPES:
            at += 12 + int.from_bytes(content[at + 8 : at + 12], "little")
        elif kind in SHORT_TYPES:
            at += 8 + int.from_bytes(content[at + 6 : at + 8], "little")
        else:
            return False
    return 0 < at < len(content)


def is_dicom(file: Path) -> bool:
    """Whether a file begins as those of DICOM do; a DICOMDIR, which lists others, does not count."""
    start, magic = DICOM_MAGIC
    if file.is_dir() or file.name.upper() == "DICOMDIR":
        return False
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(len(magic)) == magic


def _in_order(folder: Path, files: list[Path], slices: list[sitk.ImageFileReader]) -> list[Path]:
    """The files by position along the slices' normal. Raises InputError where they do not form a volume."""
    if len(files) == 1:
        return files
    for file, reader in zip(files, slices, strict=True):
        if not reader.HasMetaDataKey("0020|0032"):
            raise InputError(f"{file}: has no ImagePositionPatient; expected its position in the series")
        if not _alike(reader, slices[0]):
            raise InputError(
                f"{file}: its size {reader.GetSize()[:2]}, spacing or orientation is not that of {files[0].name}, size "
                f"{slices[0].GetSize()[:2]}; expected slices of one volume"
            )
    normal = np.reshape(slices[0].GetDirection(), (3, 3))[:, 2]
    positions = np.array([reader.GetOrigin() for reader in slices])
    order = np.argsort(positions @ normal)
    files = [files[index] for index in order]
    steps = np.diff(positions[order], axis=0)
    gaps = steps @ normal
    usual = float(np.median(gaps))
    tolerance = POSITION_TOLERANCE_MM + POSITION_TOLERANCE * usual
    if gaps.min() < tolerance / 2:
        raise InputError(f"{folder}: several slices of the series have one position, expected one slice a position")
    uneven = int(np.abs(gaps - usual).argmax())
    if abs(gaps[uneven] - usual) > tolerance:
        raise InputError(
            f"{folder}: slices are missing: {files[uneven].name} and {files[uneven + 1].name} lie {gaps[uneven]:g} mm "
            f"apart, the others {usual:g} mm ({len(files)} slices)"
        )
    across = float(np.linalg.norm(steps - np.outer(gaps, normal), axis=1).max())
    if across > tolerance:
        raise InputError(
            f"{folder}: its slices are shifted by {across:g} mm against each other (a tilted gantry), expected "
            "positions along their normal; convert it to NIfTI first"
        )
    return files


def _alike(one: sitk.ImageFileReader, other: sitk.ImageFileReader) -> bool:
    """Whether two slices have the same size, spacing and orientation."""
    near = np.allclose(one.GetSpacing()[:2], other.GetSpacing()[:2], atol=1e-4)
    return (
        one.GetSize() == other.GetSize() and near and np.allclose(one.GetDirection(), other.GetDirection(), atol=1e-4)
    )
