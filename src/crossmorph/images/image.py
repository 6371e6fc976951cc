"""An image: voxels, their types and intensity scaling, and the affine from voxel indices to RAS millimetres."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float, Num, Shaped
from nibabel.spatialimages import SpatialImage
from numpy import ndarray
from numpy.typing import DTypeLike
from scipy import ndimage

from crossmorph.errors import InputError

# On T1w, T2w and PDw slices of the phantom (3% Rician noise, half of them background) the upper one moves by at most
# 0.6% (one standard deviation) from one noise to the next and clips 1.1% of the brain.
SCALE_PERCENTILES = (0.5, 99.5)
FILL_SIGMA = 4.0  # mm, of what an ignored part is filled with
MOST_SCALED = 2**20  # voxels that the percentiles are taken of, twice that at most; of a larger image every n-th


@dataclass(frozen=True, eq=False)
class Image:
    """An image or label map with its geometry.

    Attributes:
        data: voxels, ``(*space)`` with two or three axes in nibabel's order (PNG: x, y); float32, or integers for
            labels.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``, float64; in 2-D the two world axes that ITK
            sees.
        physical: False where the file has no millimetres (PNG): spacing 1 by convention. A NIfTI file without
            position codes is physical: its spacing is in the header, and only its position is unknown (ITK puts it at
            the origin).
        header: header of the NIfTI file it came from, carried into outputs on the same grid; of a slice that another
            format stores with three axes, one that holds its place in the volume.
        stored: type of the file's voxels where they are the intensities or labels themselves, without a scale.
        cautions: sentences on what is uncertain about the geometry: a file that contradicts itself or does not say.
        mask: where a registration looks at it, ``(*space)``; None is everywhere.
        ignored: what is no evidence although it lies there, say a lesion, likewise; None is nothing.
    """

    data: Shaped[ndarray, "*space"]
    affine: Float[ndarray, "n n"]
    physical: bool = True
    header: nibabel.Nifti1Header | None = None
    stored: np.dtype | None = None
    cautions: tuple[str, ...] = ()
    mask: Bool[ndarray, "*space"] | None = None
    ignored: Bool[ndarray, "*space"] | None = None

    def __post_init__(self) -> None:
        """Refuse an affine of another dimension than the data."""
        expected = (self.data.ndim + 1,) * 2
        if self.affine.shape != expected:
            raise ValueError(
                f"data of shape {self.data.shape} needs an affine of shape {expected}, got {self.affine.shape}"
            )

    @classmethod
    def of(cls, source: "ImageLike") -> "Image":
        """An image of any form as ours, see :func:`crossmorph.images.conversion.as_exact_image`."""
        return _later("conversion").as_exact_image(source, "image")

    def __repr__(self) -> str:
        spacing = " x ".join(f"{size:.4g}" for size in self.spacing)
        return f"Image({' x '.join(map(str, self.shape))} voxels of {spacing} {self.unit}, {self.data.dtype})"

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> ndarray:
        """The voxels, for NumPy."""
        return np.array(self.data, dtype, copy=copy)

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """The image for nibabel, see :func:`crossmorph.images.conversion.to_nibabel`."""
        return _later("conversion").to_nibabel(self)

    def to_sitk(self) -> sitk.Image:
        """The image for SimpleITK, see :func:`crossmorph.images.conversion.to_sitk`."""
        return _later("conversion").to_sitk(self)

    def save(self, path: str | Path) -> None:
        """Write the image to a file, see :func:`crossmorph.write_image`."""
        _later("io").write_image(path, self)

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.data.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.data.shape

    @property
    def unit(self) -> str:
        """Unit of lengths: ``mm``, or ``pixels`` where the image has no millimetres."""
        return "mm" if self.physical else "pixels"

    @property
    def evidence(self) -> Bool[ndarray, "*space"] | None:
        """Where a registration takes evidence from: in the mask and not ignored; None is everywhere."""
        if self.ignored is None:
            return self.mask
        return ~self.ignored if self.mask is None else self.mask & ~self.ignored

    def scaled(self, filled: bool = True) -> "Image":
        """The image with its intensities scaled to [0, 1], see :func:`scale_intensity`.

        What is ignored has no part in the scale, and is filled from around it, or not.
        """
        data = scale_intensity(self.data, self.ignored).data
        if filled and self.ignored is not None:
            data = fill(data, self.ignored, self.spacing)
        return Image(data, self.affine, self.physical, mask=self.mask, ignored=self.ignored)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, in millimetres: the norms of the affine's columns."""
        return tuple(float(norm) for norm in np.linalg.norm(self.affine[:-1, :-1], axis=0))


Array = tuple[Shaped[ndarray, "*space"], Float[ndarray, "n n"]]
ImageLike = str | Path | SpatialImage | sitk.Image | Array | Image


def _later(module: str) -> Any:
    """A module of this package that itself needs this one."""
    return import_module(f"crossmorph.images.{module}")


class Scaled(NamedTuple):
    """Intensities in [0, 1] and the two original intensities that became 0 and 1."""

    data: Float[ndarray, "*space"]
    low: float
    high: float


def in_stored_type(image: Image, source: Image) -> Image:
    """The image in the type that another's voxels have in their file, if that is one of integers.

    Args:
        image: intensities or labels, say a moved image.
        source: the image they come from; where its ``stored`` is None, the image is returned unchanged.

    Returns:
        Voxels rounded to the nearest integer and clipped to what the type holds.
    """
    if source.stored is None or source.stored.kind not in "iu":
        return image
    limits = np.iinfo(source.stored)
    if image.data.dtype.kind in "iu":  # floats hold no integers of more than 53 bits
        own = np.iinfo(image.data.dtype)
        held = image.data.clip(max(own.min, limits.min), min(own.max, limits.max))
        return replace(image, data=held.astype(source.stored), stored=source.stored)
    values = np.rint(np.asarray(image.data, np.float64))
    # The largest 64-bit integer is not a float64; the next float64 below it is used.
    top = float(limits.max) if int(float(limits.max)) <= limits.max else np.nextafter(float(limits.max), 0)
    return replace(image, data=values.clip(limits.min, top).astype(source.stored), stored=source.stored)


def storable(data: ndarray) -> ndarray:
    """Voxels in a type for a file: integers keep theirs, but of 64 bits become int32 if they fit; the rest is float32.

    Many programs do not read integers of 64 bits, so that only numbers that need them are stored as such.
    """
    if data.dtype == bool:
        return data.astype(np.uint8)
    if data.dtype in (np.int64, np.uint64):
        limits = np.iinfo(np.int32)
        return data.astype(np.int32) if limits.min <= data.min() and data.max() <= limits.max else data
    return data if data.dtype.kind in "iu" else data.astype(np.float32)


def scale_intensity(data: Num[ndarray, "*space"], ignored: Bool[ndarray, "*space"] | None = None) -> Scaled:
    """Scale intensities to [0, 1] by percentiles 0.5 and 99.5: ``clip((data - low) / (high - low), 0, 1)``.

    The same call prepares images for training and for registration. Where the two percentiles coincide (fewer bright
    voxels than they leave out) the minimum and maximum are used.

    Args:
        data: finite intensities.
        ignored: voxels that have no part in the percentiles.

    Returns:
        Float32 intensities in [0, 1], and the ``low`` and ``high`` used.

    Raises:
        InputError: a single intensity, or NaN or infinite voxels.
    """
    if not np.isfinite(data).all():
        raise InputError("intensities to scale must be finite, received NaN or infinity")
    counted = data.reshape(-1) if ignored is None else data[~ignored]
    step = max(1, counted.size // MOST_SCALED) | 1  # odd, so that it walks through all columns of a volume
    some = np.asarray(counted[::step], np.float64)
    low, high = (float(value) for value in np.percentile(some, SCALE_PERCENTILES))
    if high <= low:
        low, high = float(counted.min()), float(counted.max())
    if high <= low:
        raise InputError(f"intensities to scale are all {low:g}: a constant image; expected at least two intensities")
    scaled = (np.asarray(data, np.float64) - low) / (high - low)
    return Scaled(np.clip(scaled, 0, 1, out=scaled).astype(np.float32), low, high)


def fill(
    data: Float[ndarray, "*space"], ignored: Bool[ndarray, "*space"], spacing: tuple[float, ...]
) -> Float[ndarray, "*space"]:
    """A copy whose ignored voxels have the values of the nearest other ones, smoothed, as no image of anatomy is.

    Args:
        data: intensities.
        ignored: the voxels to fill; not all of them.
        spacing: of the voxels, mm.
    """
    places = np.argwhere(ignored)
    if not len(places):
        return data
    margin = np.ceil(3 * FILL_SIGMA / np.array(spacing)).astype(int)
    low, high = np.maximum(places.min(0) - margin, 0), np.minimum(places.max(0) + margin + 1, data.shape)
    box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    if ignored[box].all():  # an end of the image
        box = (slice(None),) * data.ndim
    hole = ignored[box]
    nearest = ndimage.distance_transform_edt(hole, spacing, return_distances=False, return_indices=True)
    smooth = ndimage.gaussian_filter(data[box][tuple(nearest)], FILL_SIGMA / np.array(spacing), mode="nearest")
    whole = data.copy()
    whole[box][hole] = smooth[hole]
    return whole


def slice_header(affine: Float[ndarray, "4 4"], shape: tuple[int, ...]) -> nibabel.Nifti1Header:
    """A header that holds where a slice of three axes, one of them of one voxel, lies in RAS millimetres."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape[:3])
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    return header


# Affine of a PNG or TIFF file, which has no millimetres: one a pixel, first pixel at the origin, x to the left and y to
# the back as in ITK.
PAGE = np.diag([-1.0, -1.0, 1.0])


class Content(NamedTuple):
    """What an image file holds.

    Attributes:
        voxels: ``(*space)``, two or three axes, x first; of any real type.
        affine: voxel index to RAS millimetres, ``(dim + 1, dim + 1)``.
        stored: type of the voxels in the file, None where a scale comes between them and the intensities.
        header: of a NIfTI file.
        physical: whether the affine has millimetres.
        cautions: as of :class:`Image`.
    """

    voxels: Num[ndarray, "*space"]
    affine: Float[ndarray, "n n"]
    stored: np.dtype | None
    header: nibabel.Nifti1Header | None = None
    physical: bool = True
    cautions: tuple[str, ...] = ()
