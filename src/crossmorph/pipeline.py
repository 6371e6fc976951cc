"""The pipeline a user calls: two images, each on its own grid, to one transform between their worlds."""

import time
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph import spatial
from crossmorph.checkpoint import Model
from crossmorph.errors import InputError
from crossmorph.grid import Grid, onto_grid, working_grid
from crossmorph.hierarchy import Flow, Registration
from crossmorph.image import Image, scale_intensity
from crossmorph.refine import Refinement, refine
from crossmorph.similarity import mi
from crossmorph.start import LEAST_OVERLAP, Start, places
from crossmorph.transform import (
    Warp,
    after_moving,
    fields_overlap,
    followed_by,
    from_voxel_displacement,
    resample_warp,
)

# Where the coarse network raises mutual information by this factor, no other place is tried: of 300 simulated pairs a
# second place was better for eight, of which seven rose by less from the first.
CONVINCING = 1.25


class Settings(NamedTuple):
    """How a pair is registered.

    Attributes:
        start: see :func:`crossmorph.start.places`; of two, the one from which the coarse network gets further counts.
        smoothness: of the field, 0 (detailed) to 1 (stiff), for models that were trained for it; None is their default.
        refine: whether the field is optimised for this very pair after the networks.
        refine_seconds: for how long at most; None goes on until it stops gaining.
    """

    start: Start = "affine"
    smoothness: float | None = None
    refine: bool = False
    refine_seconds: float | None = None


DEFAULTS = Settings()


class Registered(NamedTuple):
    """A registered pair.

    Attributes:
        warp: final field on the fixed image's grid: ``moved(x) = moving(x + d(x))``, the affine start included.
        inverse: its inverse on the moving image's grid.
        translated: the moving image in the fixed image's modality, on its own grid, in units of
            ``scale_intensity(fixed)``.
        start: the affine map it began with, fixed to moving space, ``(dim + 1, dim + 1)``, RAS millimetres.
        overlap: fraction of the fixed field of view that the moving image covered after it.
        moving: the moving image as the networks saw it, ``(1, 1, *working)``, in [0, 1].
        fixed: the fixed image as the networks saw it.
        result: all fields of the hierarchy on the working grid, from where the start put the moving image.
        refinement: what refining did, or None.
        grid: the working grid.
        seconds: wall seconds of each stage.
    """

    warp: Warp
    inverse: Warp
    translated: Image
    start: Float[ndarray, "n n"]
    overlap: float
    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    result: Registration
    refinement: Refinement | None
    grid: Grid
    seconds: dict[str, float]


class Prepared(NamedTuple):
    """Two images on the model's grid, what was done to get them there, and the coarse field.

    ``placed`` is the moving image in [0, 1] where the start put it; ``start`` takes a point there to its own place;
    ``agreement`` is the mutual information after the coarse field.
    """

    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    grid: Grid
    placed: Image
    start: Float[ndarray, "n n"]
    overlap: float
    coarse: Flow
    agreement: float


def register_images(moving: Image, fixed: Image, model: Model, settings: Settings = DEFAULTS) -> Registered:
    """Register two images of different modality through all stages.

    Args:
        moving: the image to move; any size, spacing and orientation.
        fixed: the image to move it to.
        model: weights, from :func:`crossmorph.load_model`.
        settings: how.

    Raises:
        InputError: wrong dimension, constant images, fields of view that hardly overlap, or a smoothness for a model
            that knows one only.
    """
    began = time.perf_counter()
    smoothness = _smoothness(model, settings.smoothness)
    prepared = prepare(moving, fixed, model, settings.start, smoothness)
    seconds = {"coarse": time.perf_counter() - began}
    with torch.inference_mode():
        result = model.hierarchy.go_on(prepared.moving, prepared.fixed, prepared.coarse, smoothness)
    seconds["fine"] = time.perf_counter() - began - seconds["coarse"]
    refinement = None
    if settings.refine:
        translated = prepared.moving + result.mask
        refinement = refine(prepared.moving, prepared.fixed, translated, result.final, settings.refine_seconds)
        result = result._replace(final=refinement.final)
        seconds["refinement"] = refinement.seconds
    inverse = resample_warp(_in_world(result.final.inverse, prepared.grid), prepared.placed.affine, moving.shape)
    return Registered(
        warp=_on_fixed(result.final.displacement, prepared, fixed),
        inverse=after_moving(inverse, moving.affine),
        translated=_translated(result.mask, prepared, moving),
        start=prepared.start,
        overlap=prepared.overlap,
        moving=prepared.moving,
        fixed=prepared.fixed,
        result=result,
        refinement=refinement,
        grid=prepared.grid,
        seconds=seconds,
    )


def _smoothness(model: Model, wanted: float | None) -> Tensor | None:
    """What the networks are told. Raises InputError where they cannot be told that."""
    if wanted is None:
        return None
    low, high = model.card.hierarchy.smoothness_range
    if low == high:
        raise InputError(f"smoothness {wanted:g}: model {model.card.name} knows one only; expected none")
    if not 0 <= wanted <= 1:
        raise InputError(f"smoothness {wanted:g}: expected 0 (detailed) to 1 (stiff)")
    return torch.full((1,), wanted, device=next(model.hierarchy.parameters()).device)


def register_start(moving: Image, fixed: Image, model: Model, start: Start = "affine") -> Warp:
    """The start alone, on the fixed image's grid; arguments and errors as :func:`register_images`."""
    prepared = prepare(moving, fixed, model, start)
    return _on_fixed(torch.zeros_like(prepared.coarse.displacement), prepared, fixed)


def register_coarse(moving: Image, fixed: Image, model: Model, start: Start = "affine") -> Warp:
    """The start and the first network, on the fixed image's grid; arguments and errors as :func:`register_images`."""
    prepared = prepare(moving, fixed, model, start)
    return _on_fixed(prepared.coarse.displacement, prepared, fixed)


def prepare(
    moving: Image, fixed: Image, model: Model, start: Start = "affine", smoothness: Tensor | None = None
) -> Prepared:
    """Both images in [0, 1] on the model's grid, coarsely registered from the better of the places they may begin at.

    Arguments and errors as of :func:`register_images`.
    """
    card, hierarchy = model.card, model.hierarchy
    dim = card.hierarchy.dim
    for role, image in (("moving", moving), ("fixed", fixed)):
        if image.dim != dim:
            raise InputError(
                f"the {role} image is {image.dim}-D, shape {image.shape}; model {card.name} registers {dim}-D images"
            )
    source = Image(scale_intensity(moving.data).data, moving.affine, moving.physical)
    target = Image(scale_intensity(fixed.data).data, fixed.affine, fixed.physical)
    grid = working_grid(fixed, card.spacing, max(card.shape), hierarchy.divisor)
    device = next(hierarchy.parameters()).device
    still = torch.from_numpy(onto_grid(target, grid).data)[None, None].to(device)
    best: Prepared | None = None
    # What the affine start found comes first, what was believed last.
    for matrix in reversed(places(source, target, still, grid, hierarchy, start)):
        placed = Image(source.data, np.linalg.inv(matrix) @ moving.affine, moving.physical)
        moved = torch.from_numpy(onto_grid(placed, grid).data)[None, None].to(device)
        with torch.inference_mode():
            coarse = hierarchy.register_coarse(moved, still, smoothness)
            before, after = (float(mi(image, still)) for image in (moved, spatial.warp(moved, coarse.displacement)))
        if best is None or after > best.agreement:
            best = Prepared(moved, still, grid, placed, matrix, fields_overlap(placed, fixed), coarse, after)
        if after > CONVINCING * before:
            break
    assert best is not None
    if best.overlap < LEAST_OVERLAP:
        raise InputError(
            f"the moving image covers only {best.overlap:.0%} of the fixed image's field of view, expected at least "
            f"{LEAST_OVERLAP:.0%}; if their positions in the world are wrong, begin with --init centers"
        )
    return best


def _on_fixed(displacement: Float[Tensor, "1 dim *space"], prepared: Prepared, fixed: Image) -> Warp:
    """A field of the working grid, after the start, as a warp on the fixed image's grid."""
    warp = resample_warp(_in_world(displacement, prepared.grid), fixed.affine, fixed.shape)
    return followed_by(warp, prepared.start)


def _in_world(displacement: Tensor, grid: Grid) -> Warp:
    return from_voxel_displacement(displacement[0].cpu().numpy(), grid.affine)


def _translated(mask: Tensor, prepared: Prepared, moving: Image) -> Image:
    """``T = M + Mask`` at the moving image's own resolution: only the mask comes from the working grid."""
    added = Image(mask[0, 0].cpu().numpy(), prepared.grid.affine, moving.physical)
    data = prepared.placed.data + onto_grid(added, Grid(prepared.placed.affine, moving.shape)).data
    return Image(data, moving.affine, moving.physical, moving.header)
