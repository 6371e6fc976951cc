"""The pipeline a user calls: two images, each on its own grid, to one transform between their worlds."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph.checkpoint import Model
from crossmorph.errors import InputError
from crossmorph.grid import Grid, centre, onto_grid, working_grid
from crossmorph.hierarchy import Registration
from crossmorph.image import Image, scale_intensity
from crossmorph.transform import Warp, fields_overlap, from_voxel_displacement, resample_warp

Start = Literal["none", "centers"]
LEAST_OVERLAP = 0.25  # of the fixed field of view; below it there is little to compare


class Registered(NamedTuple):
    """A registered pair.

    Attributes:
        warp: final field on the fixed image's grid: ``moved(x) = moving(x + d(x))``.
        inverse: its inverse on the moving image's grid.
        coarse: the first stage's field alone, on the fixed image's grid.
        translated: the moving image in the fixed image's modality, on its own grid, in units of
            ``scale_intensity(fixed)``.
        overlap: fraction of the fixed field of view that the moving image covered at the start.
        moving: the moving image as the networks saw it, ``(1, 1, *working)``, in [0, 1].
        fixed: the fixed image as the networks saw it.
        result: all fields of the hierarchy on the working grid.
        grid: that grid.
    """

    warp: Warp
    inverse: Warp
    coarse: Warp
    translated: Image
    overlap: float
    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    result: Registration
    grid: Grid


class Prepared(NamedTuple):
    """Two images on the model's grid, and what was done to get them there.

    ``placed`` is the moving image in [0, 1] where the start put it, ``offset`` (mm) what takes a point there to its own
    place.
    """

    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    grid: Grid
    placed: Image
    offset: Float[ndarray, " dim"]
    overlap: float


def register_images(moving: Image, fixed: Image, model: Model, start: Start = "none") -> Registered:
    """Register two images of different modality through all three stages.

    Args:
        moving: the image to move; any size, spacing and orientation.
        fixed: the image to move it to.
        model: weights, from :func:`crossmorph.load_model`.
        start: ``none`` believes the images' positions in the world; ``centers`` first lays centre on centre.

    Raises:
        InputError: wrong dimension, constant images, or fields of view that hardly overlap.
    """
    prepared = prepare(moving, fixed, model, start)
    with torch.inference_mode():
        result = model.hierarchy(prepared.moving, prepared.fixed)
    inverse = _in_world(result.final.inverse, prepared.grid)
    inverse = resample_warp(inverse, prepared.placed.affine, moving.shape)
    return Registered(
        warp=_on_fixed(result.final.displacement, prepared, fixed),
        inverse=Warp(inverse.displacement - _column(prepared.offset), moving.affine),
        coarse=_on_fixed(result.coarse.displacement, prepared, fixed),
        translated=_translated(result.mask, prepared, moving),
        overlap=prepared.overlap,
        moving=prepared.moving,
        fixed=prepared.fixed,
        result=result,
        grid=prepared.grid,
    )


def register_coarse(moving: Image, fixed: Image, model: Model, start: Start = "none") -> Warp:
    """The first stage alone, on the fixed image's grid; arguments and errors as :func:`register_images`."""
    prepared = prepare(moving, fixed, model, start)
    with torch.inference_mode():
        coarse = model.hierarchy.register_coarse(prepared.moving, prepared.fixed)
    return _on_fixed(coarse.displacement, prepared, fixed)


def prepare(moving: Image, fixed: Image, model: Model, start: Start = "none") -> Prepared:
    """Both images in [0, 1] on the model's grid; arguments and errors as :func:`register_images`."""
    card, hierarchy = model.card, model.hierarchy
    dim = card.hierarchy.dim
    for role, image in (("moving", moving), ("fixed", fixed)):
        if image.dim != dim:
            raise InputError(
                f"the {role} image is {image.dim}-D, shape {image.shape}; model {card.name} registers {dim}-D images"
            )
    offset = centre(moving) - centre(fixed) if start == "centers" else np.zeros(dim)
    affine = moving.affine.copy()
    affine[:dim, dim] -= offset
    placed = Image(scale_intensity(moving.data).data, affine, moving.physical)
    overlap = fields_overlap(placed, fixed)
    if overlap < LEAST_OVERLAP:
        raise InputError(
            f"the moving image covers only {overlap:.0%} of the fixed image's field of view, expected at least "
            f"{LEAST_OVERLAP:.0%}; if their positions in the world are wrong, begin with --init centers"
        )
    grid = working_grid(fixed, card.spacing, max(card.shape), hierarchy.divisor)
    device = next(hierarchy.parameters()).device
    target = Image(scale_intensity(fixed.data).data, fixed.affine, fixed.physical)
    tensors = [torch.from_numpy(onto_grid(image, grid).data)[None, None].to(device) for image in (placed, target)]
    return Prepared(tensors[0], tensors[1], grid, placed, offset, overlap)


def _in_world(displacement: Tensor, grid: Grid) -> Warp:
    return from_voxel_displacement(displacement[0].cpu().numpy(), grid.affine)


def _on_fixed(displacement: Tensor, prepared: Prepared, fixed: Image) -> Warp:
    warp = resample_warp(_in_world(displacement, prepared.grid), fixed.affine, fixed.shape)
    return Warp(warp.displacement + _column(prepared.offset), fixed.affine)


def _translated(mask: Tensor, prepared: Prepared, moving: Image) -> Image:
    """``T = M + Mask`` at the moving image's own resolution: only the mask comes from the working grid."""
    added = Image(mask[0, 0].cpu().numpy(), prepared.grid.affine, moving.physical)
    data = prepared.placed.data + onto_grid(added, Grid(prepared.placed.affine, moving.shape)).data
    return Image(data, moving.affine, moving.physical, moving.header)


def _column(vector: ndarray) -> ndarray:
    return vector.reshape(-1, *[1] * len(vector))
