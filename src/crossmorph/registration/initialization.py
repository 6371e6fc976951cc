"""Where the moving image lies when the hierarchy first sees it: where its header says, centred, or affinely moved."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.networks.affine import Affine
from crossmorph.networks.hierarchy import Hierarchy
from crossmorph.registration.affine_search import search_affine
from crossmorph.transforms.affine_files import read_affine_transform
from crossmorph.transforms.grid import Grid, centre, covering_grid, onto_grid
from crossmorph.transforms.warp import fields_overlap

Start = str | Float[ndarray, "n n"]
NAMED_STARTS = ("affine", "centers", "none")
LEAST_OVERLAP = 0.25  # of the fixed field of view; below it there is little to compare


def read_start(name: str, moving: Image, fixed: Image) -> Start:
    """One of the three words as it is, and anything else as the file of an affine transform.

    Raises:
        InputError: no such file, or not an affine transform; see
            :func:`crossmorph.transforms.affine_files.read_affine_transform`.
    """
    if name in NAMED_STARTS:
        return name
    if not Path(name).exists():
        raise InputError(f"--init {name}: no such file; expected {', '.join(NAMED_STARTS)} or an affine transform")
    return read_affine_transform(name, moving, fixed)


def places(
    moving: Image, fixed: Image, target: Tensor, grid: Grid, hierarchy: Hierarchy, start: Start
) -> list[Float[ndarray, "n n"]]:
    """The affine maps that the registration may begin with, ``fixed space -> moving space`` in RAS millimetres.

    ``none`` is the identity: the images' positions in the world are believed. ``centers`` is the shift that lays centre
    on centre. ``affine`` is either (the positions, unless the images hardly overlap) and, beside it, where the
    affine network, or without one the search (:func:`search_affine`), moves on to from there, if it does.

    Args:
        moving: scaled to [0, 1].
        fixed: likewise.
        target: the fixed image on the working grid, ``(1, 1, *working)``.
        grid: that grid.
        hierarchy: whose affine start to use.
        start: which of the three, or the map itself, which is believed.

    Raises:
        InputError: none of these.

    Returns:
        One or two maps, ``(dim + 1, dim + 1)``.
    """
    if not isinstance(start, str):
        return [start]
    if start not in NAMED_STARTS:
        raise InputError(f"start {start!r}: expected {', '.join(NAMED_STARTS)} or a matrix")
    matrix = np.eye(fixed.dim + 1)
    far = start == "affine" and fields_overlap(moving, fixed) < LEAST_OVERLAP
    if start == "centers" or far:
        matrix[:-1, -1] = centre(moving) - centre(fixed)
    if start != "affine":
        return [matrix]
    method = search_affine if hierarchy.affine is None else hierarchy.register_affine
    found = _led_on(moving, target, grid, hierarchy, matrix, method)
    return [matrix] if found is None else [matrix, found]


def searched_place(
    moving: Image, fixed: Image, target: Tensor, grid: Grid, hierarchy: Hierarchy
) -> Float[ndarray, "n n"]:
    """Where a search leads that asks no network and turns slices all the way around: slow, and hardly ever lost.

    Arguments as of :func:`places`, where the fields of view are laid centre on centre to begin with.
    """
    matrix = np.eye(fixed.dim + 1)
    matrix[:-1, -1] = centre(moving) - centre(fixed)

    def search(there: Tensor, here: Tensor, start: Affine) -> Affine:
        return search_affine(there, here, start, around=True)

    found = _led_on(moving, target, grid, hierarchy, matrix, search)
    return matrix if found is None else found


def _led_on(
    moving: Image,
    target: Tensor,
    grid: Grid,
    hierarchy: Hierarchy,
    matrix: Float[ndarray, "n n"],
    method: Callable[[Tensor, Tensor, Affine], Affine],
) -> Float[ndarray, "n n"] | None:
    """Where an affine method ``(moving, fixed, start)`` leads from a place, or None where it stays."""
    # Both images in voxels of one size, each on a grid that shows all of it.
    spacing = float(np.linalg.norm(grid.affine[:-1, 0]))
    there = covering_grid(moving, spacing, hierarchy.divisor)
    source = torch.from_numpy(onto_grid(moving, there).data)[None, None].to(target)
    begin = _about_centres(np.linalg.inv(there.affine) @ matrix @ grid.affine, grid, there, target)
    with torch.inference_mode():
        found = method(source, target, begin)
    if torch.equal(found.matrix, begin.matrix) and torch.equal(found.shift, begin.shift):
        return None
    return np.asarray(there.affine @ _from_centres(found, grid, there) @ np.linalg.inv(grid.affine))


def _about_centres(voxels: Float[ndarray, "n n"], fixed: Grid, moving: Grid, like: Tensor) -> Affine:
    """A homogeneous map of voxel indices as one about the two grids' centres."""
    middles = [(np.array(grid.shape) - 1) / 2 for grid in (fixed, moving)]
    shift = voxels[:-1, :-1] @ middles[0] + voxels[:-1, -1] - middles[1]
    return Affine(*(torch.from_numpy(np.ascontiguousarray(part))[None].to(like) for part in (voxels[:-1, :-1], shift)))


def _from_centres(affine: Affine, fixed: Grid, moving: Grid) -> Float[ndarray, "n n"]:
    """The inverse of :func:`_about_centres`."""
    matrix, shift = (part[0].double().cpu().numpy() for part in affine)
    middles = [(np.array(grid.shape) - 1) / 2 for grid in (fixed, moving)]
    voxels = np.eye(len(shift) + 1)
    voxels[:-1, :-1] = matrix
    voxels[:-1, -1] = middles[1] + shift - matrix @ middles[0]
    return voxels
