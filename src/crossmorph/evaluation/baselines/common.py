"""Shared functions of the baselines: images to ITK, transforms from ITK, optional packages, and timed results."""

import importlib
from types import ModuleType
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.orientation import lps_to_ras
from crossmorph.transforms.warp import Warp

SEED = 1  # of every baseline that draws random numbers


class Timed(NamedTuple):
    """A transform on the fixed image's grid, and the wall seconds that the tool's own registration took."""

    warp: Warp
    seconds: float


class Geometry(NamedTuple):
    """ITK's description of a grid, LPS millimetres; directions row by row."""

    origin: list[float]
    spacing: list[float]
    direction: list[list[float]]


def require(module: str, package: str) -> ModuleType:
    """Import a package that is not required by crossmorph itself.

    Args:
        module: the module to import.
        package: the package on PyPI that it comes with.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f'{package} is not installed ({error}); expected it from: pip install "crossmorph[baselines]"'
        ) from None


def geometry(image: Image) -> Geometry:
    """The grid of an image as ITK describes it; sheared axes stay in the directions."""
    lps = lps_to_ras(image.affine)
    direction = lps[:-1, :-1] / np.array(image.spacing)
    return Geometry(lps[:-1, -1].tolist(), list(image.spacing), direction.tolist())


def to_sitk(image: Image) -> sitk.Image:
    """The image for SimpleITK, in float32."""
    origin, spacing, direction = geometry(image)
    found = sitk.GetImageFromArray(np.ascontiguousarray(image.data.T, np.float32))
    found.SetOrigin(origin)
    found.SetSpacing(spacing)
    found.SetDirection(np.ravel(direction).tolist())
    return found


def from_sitk(transform: sitk.Transform, fixed: Image) -> Warp:
    """Any transform of ITK as one field in float64 on the grid of the fixed image."""
    origin, spacing, direction = geometry(fixed)
    flat = np.ravel(direction).tolist()
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, fixed.shape, origin, spacing, flat)
    return from_itk(sitk.GetArrayFromImage(field), fixed)


def from_itk(field: Float[ndarray, "..."], fixed: Image) -> Warp:
    """A field as ITK's arrays hold it, as a warp on the grid of the fixed image.

    Args:
        field: LPS millimetres on the fixed grid, indexed from the last axis, with the components at the end.
        fixed: the fixed image.
    """
    displacement = np.array(field.T, np.float64, order="C")
    displacement[:2] *= -1
    return Warp(displacement, fixed.affine)
