"""The initial affine: where the moving image lies when the hierarchy first sees it."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.networks.affine import Affine
from crossmorph.networks.hierarchy import Hierarchy
from crossmorph.registration.affine_search import View, search_affine
from crossmorph.registration.settings import NAMED_INITS, Freedom, Init
from crossmorph.transforms.grid import Grid, centre, covering_grid, evidence_on, onto_grid
from crossmorph.transforms.warp import fields_overlap

Method = Callable[[View, View, Affine], Affine]  # moving, fixed and a map to a better one
MIN_OVERLAP = 0.25  # of the smaller field of view; below it there is little to compare


def fields_apart(moving: Image, fixed: Image) -> bool:
    """Whether even the smaller of two fields of view is hardly covered by the other one."""
    return fields_overlap(moving, fixed) < MIN_OVERLAP and fields_overlap(fixed, moving) < MIN_OVERLAP


def initial_affines(
    moving: Image, fixed: Image, target: Tensor, grid: Grid, hierarchy: Hierarchy, init: Init
) -> list[Float[ndarray, "n n"]]:
    """The affine maps that the registration may begin with, ``fixed space -> moving space`` in RAS millimetres.

    ``none`` is the identity: the images' positions in the world. ``centers`` is the shift that lays centre on centre.
    ``affine`` is either (the positions, unless the fields of view hardly overlap) and, beside it, what the affine
    network, or without one the search (:func:`search_affine`), finds from there, if it finds another.

    Args:
        moving: scaled to [0, 1].
        fixed: likewise.
        target: the fixed image on the working grid, ``(1, 1, *working)``.
        grid: that grid.
        hierarchy: whose affine network to use.
        init: one of the three names, or the map itself.

    Raises:
        InputError: none of these.

    Returns:
        One or two maps, ``(dim + 1, dim + 1)``.
    """
    if isinstance(init, tuple):
        raise InputError("init is a warp; expected a matrix here, or crossmorph.register, which goes on from warps")
    if not isinstance(init, str):
        return [init]
    if init not in NAMED_INITS:
        raise InputError(f"init {init!r}: expected {', '.join(NAMED_INITS)} or a matrix")
    apart = init == "affine" and fields_apart(moving, fixed)
    matrix = centred(moving, fixed) if init == "centers" or apart else np.eye(fixed.dim + 1)
    if init != "affine":
        return [matrix]
    if hierarchy.affine is None:
        found = searched_affine(moving, fixed, target, grid, hierarchy.divisor, matrix)
    else:
        found = _improved(moving, fixed, target, grid, hierarchy.divisor, matrix, _by_network(hierarchy))
    return [matrix] if found is None else [matrix, found]


def searched_affine(
    moving: Image,
    fixed: Image,
    target: Tensor,
    grid: Grid,
    divisor: int,
    matrix: Float[ndarray, "n n"],
    around: bool = False,
    freedom: Freedom = "affine",
) -> Float[ndarray, "n n"] | None:
    """The affine map that a search, without a network, finds from a given one, or None where none is better.

    It is slow and hardly ever fails. ``divisor``: of the sides of the moving image's grid. ``around``: whether slices
    are rotated by any angle. ``freedom``: what may change. Other arguments as of :func:`initial_affines`.
    """
    one_scale = moving.physical and fixed.physical
    search = partial(search_affine, around=around, one_scale=one_scale, freedom=freedom)
    return _improved(moving, fixed, target, grid, divisor, matrix, search)


def centred(moving: Image, fixed: Image) -> Float[ndarray, "n n"]:
    """The shift that lays the fields of view centre on centre, fixed to moving space."""
    matrix = np.eye(fixed.dim + 1)
    matrix[:-1, -1] = centre(moving) - centre(fixed)
    return matrix


def _by_network(hierarchy: Hierarchy) -> Method:
    def method(moving: View, fixed: View, start: Affine) -> Affine:
        return hierarchy.register_affine(moving.image, fixed.image, start)

    return method


def _improved(
    moving: Image,
    fixed: Image,
    target: Tensor,
    grid: Grid,
    divisor: int,
    matrix: Float[ndarray, "n n"],
    method: Method,
) -> Float[ndarray, "n n"] | None:
    """What an affine method makes of a map, or None where it keeps it."""
    # Both images in voxels of one size, each on a grid that shows all of it.
    there = covering_grid(moving, grid.spacing, divisor)
    source = torch.from_numpy(onto_grid(moving, there).data)[None, None].to(target)
    begin = _about_centres(np.linalg.inv(there.affine) @ matrix @ grid.affine, grid, there, target)
    with torch.inference_mode():
        found = method(_view(source, moving, there), _view(target, fixed, grid), begin)
    if torch.equal(found.matrix, begin.matrix) and torch.equal(found.shift, begin.shift):
        return None
    return np.asarray(there.affine @ _from_centres(found, grid, there) @ np.linalg.inv(grid.affine))


def _view(voxels: Tensor, image: Image, grid: Grid) -> View:
    """An image on the grid that covers it, whose axes are the image's in another order."""
    extent = np.abs(np.linalg.inv(grid.affine[:-1, :-1]) @ image.affine[:-1, :-1]) @ image.shape
    mask = None if image.evidence is None else torch.from_numpy(evidence_on(image, grid))[None, None].to(voxels)
    return View(voxels, torch.from_numpy(extent / 2).to(voxels), mask)


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
