"""Rigid, similarity and affine registration: a search at low resolution, then optimisation from near by.

No network takes part, so that any images can be registered, of two or three dimensions and any anatomy.
"""

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.similarity import BINS
from crossmorph.images.image import Image
from crossmorph.registration.initialization import MIN_OVERLAP, centred, fields_apart, searched_affine
from crossmorph.registration.linear_optimization import LEVELS, Reached, optimise_linear
from crossmorph.registration.pair_similarity import seen_on
from crossmorph.registration.settings import NAMED_INITS, Freedom, Init
from crossmorph.system.progress import stage
from crossmorph.transforms.grid import Grid, covering_grid, onto_grid
from crossmorph.transforms.warp import Warp, fields_overlap, followed_by

SEARCHED = 80  # voxels along the longest side of either field of view, on the grids that the search averages from


class Linear(NamedTuple):
    """Two images, registered by a linear map.

    Attributes:
        matrix: fixed to moving space, ``(dim + 1, dim + 1)``, RAS millimetres.
        start: the map that the optimisation began with, likewise.
        similarity: mutual information in nats, see :mod:`crossmorph.registration.linear_optimization`.
        seconds: wall seconds of the search and of the optimisation.
    """

    matrix: Float[ndarray, "n n"]
    start: Float[ndarray, "n n"]
    similarity: float
    seconds: dict[str, float]


class RegisteredLinear(NamedTuple):
    """A pair registered by a linear map, with all that its outputs need.

    Attributes:
        warp: the map as a field on the fixed image's grid.
        inverse: its inverse on the moving image's grid.
        translated: the moving image in the fixed image's modality, on its own grid, in units of
            ``scale_intensity(fixed)``: each intensity became the mean of the fixed image where the moved one has it.
        matrix: as of :class:`Linear`.
        freedom: what the map could change.
        overlap: fraction of the fixed field of view that the moving image covers.
        seconds: wall seconds by stage.
    """

    warp: Warp
    inverse: Warp
    translated: Image
    matrix: Float[ndarray, "n n"]
    freedom: Freedom
    overlap: float
    seconds: dict[str, float]


def register_images_linear(moving: Image, fixed: Image, freedom: Freedom, init: Init = "affine") -> RegisteredLinear:
    """Register two images by a linear map, and make what is written of it.

    Arguments and errors as of :func:`register_linear`.
    """
    found = register_linear(moving, fixed, freedom, init)
    matrix = found.matrix
    laid = replace(moving, affine=np.linalg.inv(matrix) @ moving.affine)
    return RegisteredLinear(
        warp=followed_by(Warp.identity(fixed), matrix),
        inverse=followed_by(Warp.identity(moving), np.linalg.inv(matrix)),
        translated=_translated(moving, fixed, laid),
        matrix=matrix,
        freedom=freedom,
        overlap=fields_overlap(laid, fixed),
        seconds=found.seconds,
    )


def register_linear(moving: Image, fixed: Image, freedom: Freedom = "rigid", init: Init = "affine") -> Linear:
    """Register two images by a rigid, similarity or affine map.

    Args:
        moving: the image to move; any size, spacing and orientation.
        fixed: the image to move it to, of the same dimension.
        freedom: ``rigid`` (rotation and shift), ``similarity`` (one change of size more) or ``affine``.
        init: where to begin: ``affine`` searches; from ``centers``, ``none`` or a matrix the nearest optimum is taken,
            and what the matrix scales or shears stays.

    Raises:
        InputError: images of different dimension, constant ones, an unknown ``init``, or fields of view that hardly
            overlap, at the end of a search or where another optimisation was to begin.
    """
    if moving.dim != fixed.dim:
        raise InputError(
            f"the moving image is {moving.dim}-D, shape {moving.shape}, and the fixed image {fixed.dim}-D, shape "
            f"{fixed.shape}; expected the same"
        )
    began = time.perf_counter()
    source, target = moving.scaled(), fixed.scaled()
    stage("search" if isinstance(init, str) and init == "affine" else "optimisation")
    starts = _starts(source, target, freedom, init)
    searched = time.perf_counter()
    for start in starts:
        _check_apart(source, target, start, init)
    stage("optimisation")
    found = _best(source, target, starts, freedom)
    seconds = {"search": searched - began, "optimisation": time.perf_counter() - searched}
    return Linear(found[1].matrix, found[0], found[1].similarity, seconds)


def _starts(source: Image, target: Image, freedom: Freedom, init: Init) -> list[Float[ndarray, "n n"]]:
    """Where to begin: one map, or where one is searched for, the given position too, unless that shows nothing."""
    if isinstance(init, tuple):
        raise InputError("init is a warp; expected a matrix here, or crossmorph.register, which goes on from warps")
    if not isinstance(init, str):
        return [init]
    if init not in NAMED_INITS:
        raise InputError(f"init {init!r}: expected {', '.join(NAMED_INITS)} or a matrix")
    identity = np.eye(target.dim + 1)
    if init != "affine":
        return [identity if init == "none" else centred(source, target)]
    apart = fields_apart(source, target)
    matrix = centred(source, target) if apart else identity
    grid = search_grid(source, target)
    still = torch.from_numpy(onto_grid(target, grid).data)[None, None]
    found = searched_affine(source, target, still, grid, 1, matrix, freedom=freedom)
    if found is None:
        return [matrix]
    return [found] if apart else [matrix, found]


def _best(
    source: Image, target: Image, starts: list[Float[ndarray, "n n"]], freedom: Freedom
) -> tuple[Float[ndarray, "n n"], Reached]:
    """The start from which the first levels reach the most, and the map that all levels reach from there."""
    start, rough = starts[0], starts[0]
    if len(starts) > 1:
        tried = [(start, optimise_linear(source, target, start, freedom, LEVELS[:1])) for start in starts]
        start, reached = max(tried, key=lambda each: each[1].similarity)
        rough = reached.matrix
    return start, optimise_linear(source, target, rough, freedom, LEVELS[len(starts) > 1 :])


def _check_apart(source: Image, target: Image, start: Float[ndarray, "n n"], init: Init) -> None:
    """Refuse a search that ends with fields of view that hardly overlap."""
    moved = replace(source, affine=np.linalg.inv(start) @ source.affine)
    if isinstance(init, str) and init == "affine" and fields_apart(moved, target):
        raise InputError(
            f"the fields of view share less than {MIN_OVERLAP:.0%} of the smaller one; if the images show the same "
            "anatomy, give a start: --init FILE, or --init centers"
        )


def search_grid(moving: Image, fixed: Image) -> Grid:
    """The grid over the fixed image that is searched on."""
    spacing = max(float((np.array(image.shape) * image.spacing).max()) for image in (moving, fixed)) / SEARCHED
    return covering_grid(fixed, spacing, 1)


def _translated(moving: Image, fixed: Image, laid: Image) -> Image:
    """``T = E[F | M]``: of every bin of the moved image's intensities the mean of the fixed image there."""
    grid = search_grid(moving, fixed)
    still, moved = (onto_grid(image.scaled(), grid).data.ravel() for image in (fixed, laid))
    both = (seen_on(laid, grid) & seen_on(fixed, grid)).numpy().ravel()
    bins = np.minimum((moved[both] * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    means = np.bincount(bins, still[both], BINS)[counts > 0] / counts[counts > 0]
    middles = (np.flatnonzero(counts) + 0.5) / BINS
    data = np.interp(moving.scaled(filled=False).data, middles, means).astype(np.float32)
    return Image(data, moving.affine, moving.physical, moving.header)
