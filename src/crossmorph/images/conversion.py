"""Images of other libraries, and arrays, as images of ours and back."""

import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.spatialimages import SpatialImage
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, Image, ImageLike
from crossmorph.images.io import checked_image, exact_image, read_content, write_image
from crossmorph.images.itk import sitk_content, sitk_image
from crossmorph.images.nifti import nifti_content
from crossmorph.images.orientation import spatial_affine, spatial_axes

FLAT = 1e-4  # millimetres out of the axial plane by one within it


def as_image(source: object, role: str) -> Image:
    """An image of any form as ours, float32, of more than one intensity.

    One rule gives the geometry: it is what ITK reads.

    Args:
        source: a path, a nibabel or SimpleITK image, ``(array, affine)``, or an :class:`Image`, which stays as it is.
            An array of three axes of which one has one voxel is a slice; one of two axes may have the 4 x 4 affine of
            an axial slice.
        role: what to call it in errors.

    Raises:
        InputError: the image cannot be used.
        TypeError: it is of no known form.
    """
    return _ours(source, role) if isinstance(source, Image) else checked_image(*_content(source, role))


def as_exact_image(source: object, role: str) -> Image:
    """The same of any intensities, with whole numbers as integers (:func:`crossmorph.images.io.exact_numbers`)."""
    return _ours(source, role) if isinstance(source, Image) else exact_image(*_content(source, role))


def _ours(image: Image, role: str) -> Image:
    """The image, unless it is a slice that is said to be a volume."""
    if len(spatial_axes(Path(role), image.shape)) != image.dim:
        raise InputError(
            f"{role}: is an image of shape {image.shape}, a single slice; expected two axes and a 3 x 3 affine"
        )
    return image


def _content(source: object, role: str) -> tuple[Path, Content]:
    """What an image of another form holds, and what to call it in errors."""
    if isinstance(source, (str, Path)):
        return Path(source), read_content(Path(source))
    name = Path(role)
    if isinstance(source, tuple):
        return name, _array_content(name, *source)
    if isinstance(source, sitk.Image):
        return name, sitk_content(name, source)
    if isinstance(source, SpatialImage):
        with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
            path = Path(folder, "image.nii")
            nibabel.save(nibabel.Nifti1Image.from_image(source), path)
            return name, nifti_content(path, name)
    raise TypeError(
        f"{role}: received {type(source).__name__}, expected a path, an image of nibabel or SimpleITK, or an "
        "array with its affine"
    )


def _array_content(name: Path, voxels: ndarray, affine: ndarray) -> Content:
    affine = np.asarray(affine, np.float64)
    sizes = {2: (3, 4), 3: (4,)}.get(voxels.ndim, ())
    if affine.shape not in [(size, size) for size in sizes]:
        raise InputError(
            f"{name}: received an array of shape {voxels.shape} with an affine of shape {affine.shape}; expected two "
            "or three axes and an affine of one more, or two axes and an affine of 4 x 4"
        )
    if affine.shape[0] == voxels.ndim + 2 and not np.allclose(
        affine[2, :2], 0, atol=FLAT * np.abs(affine[:2, :2]).max()
    ):
        raise InputError(
            f"{name}: received an array of two axes that leave the axial plane, by {affine[2, :2].tolist()} mm, "
            "which an image of two axes cannot hold; expected an affine of 3 x 3, of the plane alone"
        )
    axes = spatial_axes(name, voxels.shape)
    shape = tuple(voxels.shape[axis] for axis in axes)
    return Content(voxels.reshape(shape), spatial_affine(name, affine, axes), voxels.dtype)


def in_form_of(image: Image, source: ImageLike) -> Any:
    """An image on the source's grid, in the source's form."""
    if isinstance(source, SpatialImage):
        return nibabel.Nifti1Image(image.data.reshape(source.shape), source.affine)
    if isinstance(source, sitk.Image):
        made = sitk.GetImageFromArray(image.data.reshape(source.GetSize()).T)
        made.CopyInformation(source)
        return made
    return image.data.reshape(source[0].shape) if isinstance(source, tuple) else image


def to_nibabel(image: Image) -> nibabel.Nifti1Image:
    """An image as nibabel reads it from the file that :func:`crossmorph.write_image` writes; in memory."""
    with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
        path = Path(folder, "image.nii")
        write_image(path, image)
        return nibabel.Nifti1Image.from_bytes(path.read_bytes())


def to_sitk(image: Image) -> sitk.Image:
    """An image for SimpleITK, its voxels in their own type."""
    data = image.data.astype(np.uint8) if image.data.dtype == bool else image.data
    return sitk_image(data, image.affine)
