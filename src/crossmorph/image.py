"""Images and label maps: NIfTI and PNG files to arrays with their geometry, and back.

``Image.affine`` is what ITK reads from the same file, in RAS millimetres; :mod:`crossmorph.nifti` has the rule, and
what a 2-D image keeps of a three-dimensional world.
"""

import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import PIL.Image
from jaxtyping import Float, Num, Shaped
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.files import DEFLATE_LIMIT, atomic_output, readable, suffix_of
from crossmorph.nifti import NIFTI_SUFFIXES, read_affine, read_nifti, write_nifti

IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".png")

# On T1w, T2w and PDw slices of the phantom (3% Rician noise, half of them background) the upper one moves by at most
# 0.6% (one standard deviation) from one noise to the next and clips 1.1% of the brain.
SCALE_PERCENTILES = (0.5, 99.5)
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

    Trailing axes of one voxel are dropped: ``(X, Y, 1)`` and ``(X, Y, 1, 1)`` are 2-D.

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
    suffix = suffix_of(path, IMAGE_SUFFIXES, "image")
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
    if suffix_of(path, IMAGE_SUFFIXES, "image") == ".png":
        _write_png(path, image)
    else:
        write_nifti(path, image.data, image.affine, image.header)


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
    values = np.asarray(data, np.float64)
    if not np.isfinite(values).all():
        raise InputError("intensities to scale must be finite, got NaN or infinity")
    low, high = (float(value) for value in np.percentile(values, SCALE_PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise InputError(f"intensities to scale are all {low:g}: a constant image cannot be scaled")
    return Scaled(np.clip((values - low) / (high - low), 0, 1).astype(np.float32), low, high)


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


def _space(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without trailing axes of one voxel: two axes or three."""
    axes = max([2, *(axis + 1 for axis, size in enumerate(shape) if size > 1)])
    if len(shape) < 2 or axes > 3:
        raise InputError(
            f"{path}: has shape {shape}, expected a 2-D or 3-D image; extract one volume of a series first"
        )
    return shape[:axes]


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


def _write_png(path: Path, image: Image) -> None:
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
    with atomic_output(path) as temporary:
        PIL.Image.fromarray(np.ascontiguousarray(levels.T.astype(depth))).save(temporary, format="PNG")
