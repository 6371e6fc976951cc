"""Masks of the two images: where a registration looks, and what it ignores."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.transforms.warp import Warp, resample

FEWEST = 64  # voxels that evidence is taken from


def with_masks(image: Image, role: str, mask: Image | None, ignored: Image | None) -> Image:
    """An image with its masks, each taken at its voxels by the nearest voxel of its own grid.

    Args:
        image: the moving or the fixed image.
        role: ``moving`` or ``fixed``, for messages.
        mask: above 0 where the registration looks; None is everywhere.
        ignored: above 0 where what the image shows is no evidence, say a lesion; None is nowhere.

    Raises:
        InputError: a mask of another dimension, one that marks nothing of the image, or masks that leave nothing.
    """
    found = replace(
        image,
        mask=None if mask is None else _at(image, mask, f"{role} mask", "where to look"),
        ignored=None if ignored is None else _at(image, ignored, f"mask of what to ignore ({role} image)", "there"),
    )
    left = image.data.size if found.evidence is None else int(found.evidence.sum())
    if left < min(FEWEST, image.data.size):
        raise InputError(
            f"the masks leave {left} of {image.data.size} voxels of the {role} image to look at; expected at least "
            f"{FEWEST}"
        )
    return found


def _at(image: Image, mask: Image, name: str, meaning: str) -> Bool[ndarray, "*space"]:
    if mask.dim != image.dim:
        raise InputError(f"the {name} is {mask.dim}-D, shape {mask.shape}; expected {image.dim}-D as the image")
    marked = np.asarray(resample(mask, Warp.identity(image), "nearest").data > 0)
    if not marked.any():
        raise InputError(
            f"the {name}, shape {mask.shape}, marks no voxel of the image, shape {image.shape}; expected more than 0 "
            f"{meaning}, in the image's own space"
        )
    return marked
