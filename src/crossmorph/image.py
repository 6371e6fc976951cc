"""Images, label maps and series: files to arrays with their geometry, and back.

``Image.affine`` is what ITK reads from the same file, in RAS millimetres; :mod:`crossmorph.nifti` has the rule, and
what a 2-D image keeps of a three-dimensional world; :mod:`crossmorph.formats` has the one exception, MINC.
"""

import math
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import PIL.Image
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.dicom import read_dicom
from crossmorph.errors import InputError
from crossmorph.files import DEFLATE_LIMIT, atomic_output, readable, suffix_of
from crossmorph.formats import PAGE, Content, read_itk, read_minc, read_tiff, write_itk
from crossmorph.nifti import NIFTI_SUFFIXES, plain_type, read_affine, read_nifti, spatial_shape, write_nifti

# Of 2-D pictures without millimetres.
GREY_SUFFIXES = (".png", ".tif", ".tiff")
# That can be written: an image is one file, so that it appears whole.
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *GREY_SUFFIXES, ".mha", ".nrrd")
# That can be read, besides a folder of one DICOM series.
READABLE_SUFFIXES = (*IMAGE_SUFFIXES, ".mhd", ".nhdr", ".mnc", ".mnc.gz")

# On T1w, T2w and PDw slices of the phantom (3% Rician noise, half of them background) the upper one moves by at most
# 0.6% (one standard deviation) from one noise to the next and clips 1.1% of the brain.
SCALE_PERCENTILES = (0.5, 99.5)
MOST_SCALED = 2**20  # voxels that the percentiles are taken of, twice that at most; of a larger image every n-th
PNG_KINDS = {"P": "a colour palette", "RGB": "colour", "RGBA": "colour and transparency"}


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
        stored: type of the file's voxels where they are the intensities or labels themselves, without a scale.
    """

    data: Shaped[ndarray, "*space"]
    affine: Float[ndarray, "n n"]
    physical: bool = True
    header: nibabel.Nifti1Header | None = None
    stored: np.dtype | None = None

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
    """Read an image or a label map.

    NIfTI (``.nii``, ``.nii.gz``), MetaImage (``.mha``, ``.mhd``), NRRD (``.nrrd``, ``.nhdr``), MINC (``.mnc``,
    ``.mnc.gz``), greyscale PNG and TIFF, or a folder that holds one DICOM series. Trailing axes of one voxel are
    dropped: ``(X, Y, 1)`` and ``(X, Y, 1, 1)`` are 2-D.

    Args:
        path: the file or folder.
        labels: read whole numbers, as int32, instead of intensities, as float32.

    Returns:
        The image, with finite voxels and an invertible affine.

    Raises:
        InputError: the file is missing, unreadable, damaged, of another kind, or cannot be used: more than three
            axes, colour, complex numbers, NaN or infinite voxels, an image of one intensity, labels that are not
            whole numbers, an affine that is singular or that ITK refuses, a DICOM series that lacks slices.
    """
    path = Path(path)
    return checked_image(path, _read(path), labels)


def checked_image(name: Path, content: Content, labels: bool = False) -> Image:
    """Voxels and their place as an image, refused as :func:`read_image` refuses them; ``name`` is for the errors."""
    data = _labels(name, content.voxels) if labels else _varied(name, _intensities(name, content.voxels))
    return Image(data, content.affine, content.physical, content.header, content.stored)


def read_series(path: str | Path) -> list[Image]:
    """Read the volumes of a NIfTI series ``(X, Y, Z, T)``; any other image is a series of one.

    Args:
        path: the file or folder.

    Returns:
        Images of one grid, with the file's header, which knows the time step. Unlike :func:`read_image` this takes
        volumes of one intensity.

    Raises:
        InputError: as of :func:`read_image`, or more than four axes.
    """
    path = Path(path)
    if path.is_dir() or not path.name.lower().endswith(NIFTI_SUFFIXES):
        return [read_image(path)]
    with readable(path):
        raw, header = read_nifti(path)
        shape = spatial_shape(path, raw.shape[:3])
        if max(raw.shape[4:], default=1) > 1:
            raise InputError(f"{path}: has shape {raw.shape}, expected a series of at most four axes")
        affine = read_affine(path, len(shape))
    data = _intensities(path, raw.reshape(*shape, -1))
    stored = plain_type(header)
    return [Image(np.ascontiguousarray(data[..., i]), affine, True, header, stored) for i in range(data.shape[-1])]


def write_image(path: str | Path, image: Image) -> None:
    """Write an image as NIfTI, MetaImage, NRRD, PNG or TIFF; the file appears whole or not at all.

    NIfTI (``.nii``, ``.nii.gz``): integers keep their type (int64 becomes int32), anything else is float32.
    ``image.header`` lends the through-plane position, the number of axes and the position code; qform and sform are
    the same, and ITK reads ``image.affine`` back.

    MetaImage (``.mha``) and NRRD (``.nrrd``), compressed: the same types; a 2-D image has two axes.

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
        raise InputError(f"{path}: is a header beside a file of voxels, which cannot appear together; expected .mha")
    suffix = suffix_of(path, IMAGE_SUFFIXES, "image")
    if suffix in GREY_SUFFIXES:
        _write_picture(path, image)
    elif suffix in NIFTI_SUFFIXES:
        write_nifti(path, image.data, image.affine, image.header)
    else:
        write_itk(path, image.data, image.affine)


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
            raise InputError(f"{path}: image {number} of the series lies on another grid than the first")
    data = np.stack([image.data for image in images], axis=-1)
    write_nifti(path, data, first.affine, first.header, first.header if timing is None else timing)


def in_stored_type(image: Image, source: Image) -> Image:
    """The image in the type that another's voxels have in their file, if that is one of integers.

    Args:
        image: intensities or labels, say a moved image.
        source: where they come from: the moving image. Its ``stored`` may be None, and the image stays as it is.

    Returns:
        Voxels rounded to the nearest integer and clipped to what the type holds.
    """
    if source.stored is None or source.stored.kind not in "iu":
        return image
    limits = np.iinfo(source.stored)
    values = np.rint(np.asarray(image.data, np.float64))
    # The largest of 64 bits is no float64; the next one below is.
    top = float(limits.max) if int(float(limits.max)) <= limits.max else np.nextafter(float(limits.max), 0)
    return replace(image, data=values.clip(limits.min, top).astype(source.stored), stored=source.stored)


def scale_intensity(data: Num[ndarray, "*space"]) -> Scaled:
    """Scale intensities to [0, 1] by percentiles 0.5 and 99.5: ``clip((data - low) / (high - low), 0, 1)``.

    The same call prepares images for training and for registration. Where the two percentiles coincide (fewer bright
    voxels than they leave out) the minimum and maximum are used.

    Args:
        data: finite intensities.

    Returns:
        Float32 intensities in [0, 1], and the ``low`` and ``high`` used.

    Raises:
        InputError: A single intensity, or NaN or infinite voxels.
    """
    if not np.isfinite(data).all():
        raise InputError("intensities to scale must be finite, got NaN or infinity")
    step = max(1, data.size // MOST_SCALED) | 1  # odd, so that it walks through all columns of a volume
    some = np.asarray(data.reshape(-1)[::step], np.float64)
    low, high = (float(value) for value in np.percentile(some, SCALE_PERCENTILES))
    if high <= low:
        low, high = float(data.min()), float(data.max())
    if high <= low:
        raise InputError(f"intensities to scale are all {low:g}: a constant image cannot be scaled")
    scaled = (np.asarray(data, np.float64) - low) / (high - low)
    return Scaled(np.clip(scaled, 0, 1, out=scaled).astype(np.float32), low, high)


def _read(path: Path) -> Content:
    """What a file or folder holds, whatever the format."""
    if path.is_dir():
        return read_dicom(path)
    suffix = suffix_of(path, READABLE_SUFFIXES, "image")
    with readable(path):
        return READERS[suffix](path)


def _read_nifti(path: Path) -> Content:
    raw, header = read_nifti(path)
    raw = raw.reshape(spatial_shape(path, raw.shape))
    return Content(raw, read_affine(path, raw.ndim), plain_type(header), header)


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
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(raw) & (raw == np.round(raw))
    if not whole.all():
        raise InputError(
            f"{path}: {int(np.count_nonzero(~whole))} of {raw.size} voxels are not whole numbers, expected labels"
        )
    limits = np.iinfo(np.int32)
    if raw.min() < limits.min or raw.max() > limits.max:
        raise InputError(f"{path}: labels from {raw.min():g} to {raw.max():g} do not fit 32 bits")
    return np.ascontiguousarray(raw).astype(np.int32)


def _read_png(path: Path) -> Content:
    """Grey levels of an 8- or 16-bit greyscale PNG; one bit becomes 0 and 255, as in ITK."""
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
                stored = np.dtype(np.uint8 if png.mode in ("1", "L") else np.uint16)
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
    return Content(levels.T.astype(np.int32), PAGE, stored, physical=False)


def _write_picture(path: Path, image: Image) -> None:
    kind = "PNG" if path.suffix.lower() == ".png" else "TIFF"
    if image.dim != 2:
        raise InputError(f"{path}: {kind} holds 2-D images, got shape {image.shape}; write NIfTI")
    levels = np.round(image.data)
    unit_range = image.data.min() >= 0 and image.data.max() <= 1 and not np.array_equal(levels, image.data)
    if unit_range:
        levels = np.round(image.data.astype(np.float64) * 65535)
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > 65535:
        low, high = float(image.data.min()), float(image.data.max())
        raise InputError(f"{path}: {kind} holds whole numbers from 0 to 65535, got {low:g} to {high:g}; write NIfTI")
    depth = np.uint16 if unit_range or levels.max() > 255 else np.uint8
    with atomic_output(path) as temporary:
        PIL.Image.fromarray(np.ascontiguousarray(levels.T.astype(depth))).save(temporary, format=kind)


READERS: dict[str, Callable[[Path], Content]] = {
    ".nii.gz": _read_nifti,
    ".nii": _read_nifti,
    ".png": _read_png,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".mnc": read_minc,
    ".mnc.gz": read_minc,
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr"), read_itk),
}
