"""Two images, each on its own grid, brought to the networks: the working grid, the initial affine, the coarse field."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model
from crossmorph.networks.hierarchy import Flow
from crossmorph.registration.initialization import (
    MIN_OVERLAP,
    centred,
    fields_apart,
    initial_affines,
    searched_affine,
)
from crossmorph.registration.pair_similarity import LEAST_RANGE, Pair, PairSimilarity, pair_similarity, seen_on, spread
from crossmorph.registration.settings import Init
from crossmorph.system.memory import check_memory
from crossmorph.transforms.grid import Grid, onto_grid, working_grid
from crossmorph.transforms.warp import fields_overlap

# Squared local correlation of the coarsely registered images from which no other initial affine is tried, and below
# which, from each of them, a search looks for another. Of 533 simulated pairs with two initial affines the second was
# better by more than 0.5 mm for five, four of which correlated less from the first. Of pairs of any contrast that were
# right within 2 mm, 20% did, of the phantom's T2w and T1w none; of those with a wrong affine network's map 89%, and of
# those rotated by more than 45 degrees 98%.
MIN_CORRELATION = 0.36
# The search's affine is used where the coarse network reaches so many times the mutual information from it: of 40
# simulated pairs with more 39 ended nearer to the truth, of ten with less six ended further away.
MIN_GAIN = 1.05


class Prepared(NamedTuple):
    """Two images on the working grid after an initial affine, and the coarse field.

    Attributes:
        pair: both images on the working grid.
        grid: that grid.
        aligned: the moving image in [0, 1] on its own grid, its header moved by the initial affine.
        target: the fixed image in [0, 1] on its own grid.
        initial_affine: fixed to moving space, ``(dim + 1, dim + 1)``, RAS millimetres.
        overlap: fraction of the fixed field of view that the moving image covers after it.
        coarse: the coarse field.
        given: similarity of the images in the position that the registration began with.
        before: similarity before the coarse field.
        after: similarity after it.
    """

    pair: Pair
    grid: Grid
    aligned: Image
    target: Image
    initial_affine: Float[ndarray, "n n"]
    overlap: float
    coarse: Flow
    given: PairSimilarity
    before: PairSimilarity
    after: PairSimilarity


def prepare(
    moving: Image, fixed: Image, model: Model, init: Init = "affine", smoothness: Tensor | None = None
) -> Prepared:
    """Both images in [0, 1] on the working grid, coarsely registered from the best of the initial affines.

    Arguments and errors as of :func:`crossmorph.registration.register_images.register_images`.
    """
    card, hierarchy = model.card, model.hierarchy
    _check_dimensions(moving, fixed, model)
    source, target = moving.scaled(), fixed.scaled()
    grid = working_grid(fixed, card.spacing, max(card.shape), hierarchy.divisor)
    check_memory(grid.shape, moving.shape, fixed.shape)
    still = torch.from_numpy(onto_grid(target, grid).data)[None, None].to(model.device)
    still_seen = seen_on(fixed, grid).to(model.device)
    _check_content(fixed, still, still_seen, grid)

    def laid(matrix: Float[ndarray, "n n"]) -> tuple[Image, Pair]:
        aligned = replace(source, affine=np.linalg.inv(matrix) @ moving.affine)
        moved = torch.from_numpy(onto_grid(aligned, grid).data)[None, None].to(model.device)
        return aligned, Pair(moved, still, seen_on(aligned, grid).to(moved), still_seen)

    matrices = initial_affines(source, target, still, grid, hierarchy, init)
    first = laid(matrices[0])
    given = pair_similarity(first[1])

    def from_affine(matrix: Float[ndarray, "n n"]) -> Prepared:
        aligned, pair = first if matrix is matrices[0] else laid(matrix)
        with torch.inference_mode():
            coarse = hierarchy.register_coarse(pair.moving, still, smoothness)
        found = pair_similarity(pair), pair_similarity(pair, coarse.displacement)
        return Prepared(pair, grid, aligned, target, matrix, fields_overlap(aligned, fixed), coarse, given, *found)

    best = _best(from_affine, matrices)
    if isinstance(init, str) and init == "affine" and not best.after.correlation >= MIN_CORRELATION:
        start = centred(source, target)
        found = searched_affine(source, target, still, grid, hierarchy.divisor, start, around=True)
        other = from_affine(start if found is None else found)
        better = other.after.information > MIN_GAIN * best.after.information
        if better and not fields_apart(other.aligned, fixed):
            best = other
    if not best.after.information > given.information and best.initial_affine is not matrices[0]:
        best = from_affine(matrices[0])
    _check_common(best, fixed, init)
    return best


def _best(from_affine: Callable[[Float[ndarray, "n n"]], Prepared], matrices: list[Float[ndarray, "n n"]]) -> Prepared:
    """The initial affine with the most mutual information after the coarse stage.

    The last one comes first; the others are tried only where the images do not correlate from there.
    """
    tried: list[Prepared] = []
    for matrix in reversed(matrices):
        tried.append(from_affine(matrix))
        if tried[-1].after.correlation >= MIN_CORRELATION:
            break
    return max(tried, key=lambda prepared: prepared.after.information)


def _check_dimensions(moving: Image, fixed: Image, model: Model) -> None:
    card = model.card
    for role, image in (("moving", moving), ("fixed", fixed)):
        if image.dim != card.hierarchy.dim:
            raise InputError(
                f"the {role} image is {image.dim}-D, shape {image.shape}; model {card.name} registers "
                f"{card.hierarchy.dim}-D images"
            )


def _check_content(fixed: Image, still: Tensor, seen: Tensor, grid: Grid) -> None:
    """Refuse a fixed image that the networks receive as a constant one, whatever the file holds."""
    if spread(still, seen) <= LEAST_RANGE:
        raise InputError(
            f"the fixed image, shape {fixed.shape}, is constant at the resolution of the registration, "
            f"{grid.spacing:g} {fixed.unit}; expected an image with structures larger than that"
        )


def _check_common(best: Prepared, fixed: Image, init: Init) -> None:
    """Refuse images that have nothing to compare, and fields of view that hardly overlap where no start was given."""
    if not best.before.shown and not best.after.shown:
        raise InputError(
            f"there is nothing to compare: the moving image covers {best.overlap:.0%} of the fixed image's field of "
            "view, and one of the two is constant there at the resolution of the registration; expected images of the "
            "same anatomy in about the same place (--init centers lays centre on centre)"
        )
    if isinstance(init, str) and init == "affine" and fields_apart(best.aligned, fixed):
        shared = max(best.overlap, fields_overlap(fixed, best.aligned))
        raise InputError(
            f"the fields of view share only {shared:.0%} of the smaller one, expected at least {MIN_OVERLAP:.0%}; if "
            "the images show the same anatomy, give a start: --init FILE, or --init centers"
        )
