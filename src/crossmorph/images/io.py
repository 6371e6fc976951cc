"""Reading and writing of images, label maps and series, whatever the format.

``Image.affine`` is what ITK reads from the same file, in RAS millimetres; :mod:`crossmorph.images.nifti` has the rule,
and what a 2-D image keeps of a three-dimensional world; :mod:`crossmorph.images.minc` is the one exception.
"""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.dicom import read_dicom, read_dicom_file
from crossmorph.images.freesurfer import read_mgh
from crossmorph.images.image import Content, Image
from crossmorph.images.metaimage_nrrd import read_itk, write_itk
from crossmorph.images.minc import read_minc
from crossmorph.images.nifti import NIFTI_SUFFIXES, PAIR_SUFFIXES, nifti_content, nifti_series, write_nifti
from crossmorph.images.png_tiff import GREY_SUFFIXES, read_png, read_tiff, write_png_tiff
from crossmorph.system.files import readable, suffix_of

# Formats that can be written: an image is one file, so that it appears complete.
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *GREY_SUFFIXES, ".mha", ".nrrd")
# Formats that can be read, besides a folder of one DICOM series.
READABLE_SUFFIXES = (*IMAGE_SUFFIXES, ".mhd", ".nhdr", ".mnc", ".mnc.gz", ".mgz", ".mgh", ".dcm", *PAIR_SUFFIXES)
SERIES_SUFFIXES = (*NIFTI_SUFFIXES, *PAIR_SUFFIXES)


def read_image(path: str | Path, labels: bool = False) -> Image:
    """Read an image or a label map.

    NIfTI (``.nii``, ``.nii.gz``, ``.hdr`` with ``.img``), Analyze 7.5, FreeSurfer (``.mgz``, ``.mgh``), MetaImage
    (``.mha``, ``.mhd``), NRRD (``.nrrd``, ``.nhdr``), MINC (``.mnc``, ``.mnc.gz``), greyscale PNG and TIFF, a folder
    that holds one DICOM series, or one file (``.dcm``) of a series in its folder. An axis of one voxel is dropped:
    ``(X, Y, 1)``, ``(X, Y, 1, 1)``, ``(X, 1, Z)`` and ``(1, Y, Z)`` are 2-D.

    Args:
        path: the file or folder.
        labels: read whole numbers, as int32 or, beyond its range, int64 or uint64, instead of intensities, as float32.

    Returns:
        The image, with finite voxels and an invertible affine.

    Raises:
        InputError: the file is missing, unreadable, damaged, of another kind, or cannot be used: more than three
            axes, colour, complex numbers, NaN or infinite voxels, an image of one intensity, labels that are not
            whole numbers, an affine that is singular or that ITK refuses, a DICOM series that lacks slices.
    """
    path = Path(path)
    return checked_image(path, read_content(path), labels)


def checked_image(name: Path, content: Content, labels: bool = False) -> Image:
    """Voxels with their geometry as an image. Raises InputError as :func:`read_image` does, with ``name`` in it."""
    data = _labels(name, content.voxels) if labels else _varied(name, _intensities(name, content.voxels))
    return _image(content._replace(voxels=data))


def _image(content: Content) -> Image:
    return Image(content.voxels, content.affine, content.physical, content.header, content.stored, content.cautions)


def exact_image(name: Path, content: Content) -> Image:
    """Voxels with their geometry as an image, whole numbers without loss; errors as of :func:`exact_numbers`."""
    return _image(content._replace(voxels=exact_numbers(name, content.voxels)))


def read_series(path: str | Path, exact: bool = False) -> list[Image]:
    """Read the volumes of a NIfTI series ``(X, Y, Z, T)``; any other image is a series of one.

    Args:
        path: the file or folder.
        exact: keep whole numbers as integers, see :func:`exact_numbers`; else all voxels are float32.

    Returns:
        Images of one grid, with the file's header, which holds the time step. Unlike :func:`read_image` this takes
        volumes of one intensity.

    Raises:
        InputError: as of :func:`read_image`, or more than four axes.
    """
    path = Path(path)
    if path.is_dir() or not path.name.lower().endswith(SERIES_SUFFIXES):
        content = read_content(path)
        content = content._replace(voxels=content.voxels[..., None])
    else:
        with readable(path):
            content = nifti_series(path)
    data = exact_numbers(path, content.voxels) if exact else _intensities(path, content.voxels)
    return [_image(content._replace(voxels=np.ascontiguousarray(data[..., i]))) for i in range(data.shape[-1])]


def write_image(path: str | Path, image: Image) -> None:
    """Write an image as NIfTI, MetaImage, NRRD, PNG or TIFF; the file appears complete or not at all.

    NIfTI (``.nii``, ``.nii.gz``): integers keep their type, but of 64 bits become int32 if they fit; anything else is
    float32. ``image.header`` lends the through-plane position, the number of axes and the position code; qform and
    sform are the same, and ITK reads ``image.affine`` back.

    MetaImage (``.mha``) and NRRD (``.nrrd``), compressed: the same types. A 2-D image has two axes, or three where
    ``image.header`` has them.

    PNG and TIFF (2-D only, geometry is not stored): whole numbers, or floats rounded to them, at 8 bits if they lie
    in 0..255 and at 16 bits if in 0..65535; floats within 0..1 that are not whole are stored times 65535. Nothing
    wraps or is clipped.

    Args:
        path: where to; the suffix chooses the format, an existing file is replaced.
        image: what to write.

    Raises:
        InputError: unknown suffix, missing or unwritable folder, or voxels or an affine that the format cannot hold.
    """
    path = Path(path)
    if path.name.lower().endswith((".mhd", ".nhdr")):
        raise InputError(
            f"{path}: is a header beside a file of voxels, and two files cannot appear together; expected .mha"
        )
    suffix = suffix_of(path, IMAGE_SUFFIXES, "image")
    if suffix in GREY_SUFFIXES:
        write_png_tiff(path, image)
    elif suffix in NIFTI_SUFFIXES:
        write_nifti(path, image.data, image.affine, image.header)
    else:
        write_itk(path, image.data, image.affine, image.header)


def write_series(path: str | Path, images: list[Image], timing: nibabel.Nifti1Header | None = None) -> None:
    """Write images of one grid as the volumes of a NIfTI file ``(X, Y, Z, T)``; a single one as :func:`write_image`.

    Args:
        path: where to, ``.nii`` or ``.nii.gz``.
        images: at least one; types and geometry as :func:`write_image` has them, the header of the first counts.
        timing: header that lends the time step and its unit; None: the first image's.

    Raises:
        InputError: images of different shape or position, another suffix, or as of :func:`write_image`.
    """
    path = Path(path)
    first = images[0]
    if len(images) == 1:
        write_image(path, first)
        return
    suffix_of(path, NIFTI_SUFFIXES, "series")
    for number, image in enumerate(images):
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=1e-6):
            raise InputError(f"{path}: image {number} of the series lies on another grid; expected that of the first")
    data = np.stack([image.data for image in images], axis=-1)
    write_nifti(path, data, first.affine, first.header, first.header if timing is None else timing)


def read_content(path: Path) -> Content:
    """What a file or folder holds, whatever the format. Raises InputError where it cannot be read."""
    if path.is_dir():
        return read_dicom(path)
    suffix = suffix_of(path, READABLE_SUFFIXES, "image")
    with readable(path):
        return READERS[suffix](path)


def _intensities(path: Path, raw: ndarray) -> ndarray:
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(raw, np.float32)
    bad = int(data.size - np.count_nonzero(np.isfinite(data)))
    if bad:
        raise InputError(f"{path}: {bad} of {data.size} voxels are NaN or infinite; replace them before registration")
    return data


def _varied(path: Path, data: ndarray) -> ndarray:
    if data.min() == data.max():
        raise InputError(f"{path}: every voxel is {data.flat[0]:g}; an image of one intensity cannot be registered")
    return data


def _labels(path: Path, raw: ndarray) -> ndarray:
    whole = _whole(raw)
    if not whole.all():
        raise InputError(
            f"{path}: {int(np.count_nonzero(~whole))} of {raw.size} voxels are not whole numbers, expected labels"
        )
    labels = _integers(raw)
    if labels is None:
        raise InputError(f"{path}: labels from {raw.min():g} to {raw.max():g} do not fit 64 bits")
    return labels


def exact_numbers(name: Path, raw: ndarray) -> ndarray:
    """Voxels without loss where they are whole numbers, as labels are; float32 otherwise.

    Args:
        name: the file, for errors.
        raw: voxels of any real type.

    Returns:
        Integers in their own type; floats that are all whole as int32 or, beyond its range, int64 or uint64; any
        others, and any beyond 64 bits, as float32.

    Raises:
        InputError: NaN or infinite voxels.
    """
    if raw.dtype.kind in "iu":
        return np.ascontiguousarray(raw, raw.dtype.newbyteorder("="))
    integers = _integers(raw) if _whole(raw).all() else None
    return _intensities(name, raw) if integers is None else integers


def _whole(raw: ndarray) -> ndarray:
    with np.errstate(invalid="ignore"):
        return np.isfinite(raw) & (raw == np.round(raw))


def _integers(raw: ndarray) -> ndarray | None:
    """Whole numbers in the first of three types that holds all of them."""
    low, high = raw.min().item(), raw.max().item()  # Python compares floats and integers exactly
    for dtype in (np.int32, np.int64, np.uint64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.ascontiguousarray(raw).astype(dtype)
    return None


READERS: dict[str, Callable[[Path], Content]] = {
    **dict.fromkeys(SERIES_SUFFIXES, nifti_content),
    **dict.fromkeys((".mgz", ".mgh"), read_mgh),
    ".dcm": read_dicom_file,
    ".png": read_png,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".mnc": read_minc,
    ".mnc.gz": read_minc,
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr"), read_itk),
}
