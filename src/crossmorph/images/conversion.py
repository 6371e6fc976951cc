"""Images of other libraries, and arrays, as images of ours and back."""

import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Shaped
from nibabel.spatialimages import SpatialImage
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, Image
from crossmorph.images.io import checked_image, read_image
from crossmorph.images.itk import sitk_content
from crossmorph.images.nifti import nifti_content
from crossmorph.images.orientation import spatial_affine, spatial_axes

Array = tuple[Shaped[ndarray, "*space"], Float[ndarray, "n n"]]
FLAT = 1e-4  # millimetres out of the axial plane by one within it
ImageLike = str | Path | SpatialImage | sitk.Image | Array | Image


def as_image(source: object, role: str, labels: bool = False) -> Image:
    """An image of any form as ours; one rule gives the geometry, what ITK reads.

    Args:
        source: a path, a nibabel or SimpleITK image, ``(array, affine)``, or an :class:`Image`. An array of three axes
            of which one has one voxel is a slice; one of two axes may have the 4 x 4 affine of an axial slice.
        role: what to call it in errors.
        labels: whether to read whole numbers.

    Raises:
        InputError: the image cannot be used.
        TypeError: it is of no known form.
    """
    if isinstance(source, Image):
        if len(spatial_axes(Path(role), source.shape)) != source.dim:
            raise InputError(
                f"{role}: is an image of shape {source.shape}, a single slice; expected two axes and a 3 x 3 affine"
            )
        return source
    if isinstance(source, (str, Path)):
        return read_image(source, labels)
    name = Path(role)
    if isinstance(source, tuple):
        content = _array_content(name, *source)
    elif isinstance(source, sitk.Image):
        content = sitk_content(name, source)
    elif isinstance(source, SpatialImage):
        with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
            path = Path(folder, "image.nii")
            nibabel.save(nibabel.Nifti1Image.from_image(source), path)
            content = nifti_content(path, name)
    else:
        raise TypeError(
            f"{role}: received {type(source).__name__}, expected a path, an image of nibabel or SimpleITK, or an "
            "array with its affine"
        )
    return checked_image(name, content, labels)


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
