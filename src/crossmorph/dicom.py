"""A folder that holds one DICOM series to a volume: every slice there, in order, evenly spaced, or a reason why not.

GDCM, through ITK, reads the slices; it passes over damaged files without a word, so they are counted here.
"""

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from crossmorph.errors import InputError
from crossmorph.files import DEFLATE_LIMIT
from crossmorph.formats import Content, itk_content, quiet_itk, read_information

# A slice may lie this far from where even spacing would put it: positions are decimal numbers, often of two digits.
POSITION_TOLERANCE_MM = 0.02
POSITION_TOLERANCE = 0.01  # of the spacing

SERIES_NAMED = 5
DICOM_MAGIC = (128, b"DICM")  # https://dicom.nema.org/medical/dicom/current/output/chtml/part10/chapter_7.html


def read_dicom(folder: Path) -> Content:
    """Read the DICOM series that a folder holds, in order of position.

    Returns:
        Voxels rescaled as the slices say; ``stored`` is the type after that, where all slices share it.

    Raises:
        InputError: no series or several, slices that are missing, truncated, doubled, shifted against each other or
            unlike the others, several frames a file, or colour.
    """
    files = _series_files(folder)
    slices = [read_information(file, "GDCMImageIO") for file in files]
    for file, reader in zip(files, slices, strict=True):
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
    with quiet_itk(folder):
        image = series.Execute()
    content = itk_content(folder, image)
    return content if len(types) == 1 else content._replace(stored=None)


def _series_files(folder: Path) -> list[Path]:
    """The files of the one series in a folder."""
    try:
        candidates = [file for file in sorted(folder.iterdir()) if _is_dicom(file)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    with quiet_itk(folder):
        names = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        series = {name: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), name) for name in names}
    if not series and not candidates:
        raise InputError(f"{folder}: is a folder without DICOM files, expected an image file or one DICOM series")
    if len(series) > 1:
        found = ", ".join(f"{name} ({len(files)} files)" for name, files in list(series.items())[:SERIES_NAMED])
        more = f" and {len(series) - SERIES_NAMED} more" if len(series) > SERIES_NAMED else ""
        raise InputError(
            f"{folder}: holds {len(series)} DICOM series, {found}{more}; expected one, move it to a folder"
        )
    files = [Path(file) for names in series.values() for file in names]
    # GDCM passes over a file that ends too early.
    lost = sorted({file.name for file in candidates} - {file.name for file in files})
    if lost:
        raise InputError(
            f"{folder}: {len(lost)} of {len(candidates)} DICOM files are truncated, damaged or no images: "
            f"{', '.join(lost[:SERIES_NAMED])}; expected one whole series"
        )
    return files


def _is_dicom(file: Path) -> bool:
    start, magic = DICOM_MAGIC
    if file.is_dir() or file.name.upper() == "DICOMDIR":
        return False
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(len(magic)) == magic


def _in_order(folder: Path, files: list[Path], slices: list[sitk.ImageFileReader]) -> list[Path]:
    """The files by position along the slices' normal; refused where they do not make a volume."""
    if len(files) == 1:
        return files
    for file, reader in zip(files, slices, strict=True):
        if not reader.HasMetaDataKey("0020|0032"):
            raise InputError(f"{file}: has no ImagePositionPatient, so its place in the series is unknown")
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
        raise InputError(f"{folder}: several slices of the series lie in one place, expected one a position")
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
