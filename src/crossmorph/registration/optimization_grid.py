"""Where a volume is refined: grids in millimetres, finer than the networks', about what both images show."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.images.image import Image
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import from_voxel_displacement, resample_warp, voxel_displacement

FIELD = 2.0  # millimetres between the field's voxels
MARGIN = 8  # of these around what both images show: two control points of 8 mm, so that all of it can move
SHOWN = 0.05  # of the range of intensities, from which on an image shows something


class Window(NamedTuple):
    """The part of the world that is looked at: ``grid``, whose first voxel is voxel ``first`` of the field's grid."""

    grid: Grid
    first: tuple[int, ...]


def field_spacing(*images: Image) -> float:
    """``FIELD`` millimetres, or the side of a cube as large as a voxel of the coarsest image, if that is more."""
    return max(FIELD, *(float(np.prod(image.spacing)) ** (1 / 3) for image in images))


def field_grid(working: Grid, spacing: float) -> Grid:
    """So many millimetres apart over the extent of the networks' grid and about its centre."""
    ratio = float(np.linalg.norm(working.affine[:3, 0])) / spacing
    shape = tuple(math.ceil(side * ratio - 1e-3) for side in working.shape)
    affine = working.affine.copy()
    affine[:3, :3] /= ratio
    middle = working.affine[:3, :3] @ ((np.array(working.shape) - 1) / 2) + working.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(affine, shape)


def seen_window(moving: Tensor, fixed: Tensor, displacement: Tensor, working: Grid, grid: Grid) -> Window:
    """The box around what both images show after the networks' field, with a margin; it may reach beyond the grid."""
    both = (torch.minimum(spatial.warp(moving, displacement), fixed)[0, 0] > SHOWN).cpu().numpy()
    places = np.argwhere(both) if both.any() else np.argwhere(np.ones_like(both))
    corners = np.stack([places.min(0) - 0.5, places.max(0) + 0.5], axis=1)
    to_field = np.linalg.inv(grid.affine) @ working.affine
    inside = to_field[:3, :3] @ corners + to_field[:3, 3:]
    first = np.floor(inside[:, 0] - MARGIN).astype(int)
    sides = np.ceil((inside[:, 1] + MARGIN - first) / 2).astype(int) * 2
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return Window(Grid(affine, tuple(map(int, sides))), tuple(map(int, first)))


def inner(window: Window, trim: int) -> Window:
    """The window without so many voxels at each end of each axis."""
    affine = window.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, float(trim))
    grid = Grid(affine, tuple(side - 2 * trim for side in window.grid.shape))
    return Window(grid, tuple(first + trim for first in window.first))


def finer(grid: Grid, ratio: int) -> Grid:
    """The same extent in voxels so many times smaller."""
    affine = grid.affine.copy()
    affine[:3, :3] /= ratio
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, (ratio - 1) / 2)
    return Grid(affine, tuple(side * ratio for side in grid.shape))


def onto(image: Image, grid: Grid) -> Float[Tensor, "x y z"]:
    """As :func:`crossmorph.transforms.grid.onto_grid`, in single precision, of the part that the grid covers alone."""
    matrix = np.linalg.inv(image.affine) @ grid.affine
    ratio = np.linalg.norm(matrix[:3, :3], axis=1)
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0) / 12)
    ends = np.stack(np.meshgrid(*[[0, side - 1] for side in grid.shape], indexing="ij")).reshape(3, -1)
    reached = matrix[:3, :3] @ ends + matrix[:3, 3:]
    low = np.clip(np.floor(reached.min(1)) - 4, 0, np.array(image.shape) - 1).astype(int)
    high = np.clip(np.ceil(reached.max(1)) + 5, low + 1, image.shape).astype(int)
    part = image.data[tuple(slice(*ends) for ends in zip(low, high, strict=True))].astype(np.float32)
    if (sigma > 0.2).any():
        part = ndimage.gaussian_filter(part, sigma, mode="nearest")
    matrix[:3, 3] -= low
    return spatial.sample(torch.from_numpy(part)[None, None], _lattice(matrix, grid.shape), outside="zero")[0, 0]


def _lattice(matrix: Float[ndarray, "4 4"], shape: tuple[int, ...]) -> Float[Tensor, "1 3 *space"]:
    """Where an affine map takes the voxels of a grid."""
    axes = [torch.from_numpy(np.outer(matrix[:3, axis], np.arange(side))).float() for axis, side in enumerate(shape)]
    shift = torch.from_numpy(matrix[:3, 3]).float().view(3, 1, 1, 1)
    x, y, z = axes
    return (x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :] + shift)[None]


def between(displacement: Float[Tensor, "1 3 *space"], source: Grid, target: Grid) -> Float[Tensor, "1 3 *other"]:
    """A field of one grid, in its voxels, on another grid, in that one's."""
    warp = resample_warp(from_voxel_displacement(displacement[0].cpu().numpy(), source.affine), *target)
    return torch.from_numpy(np.ascontiguousarray(voxel_displacement(warp), np.float32))[None]


def cut(field: Float[Tensor, "1 3 *space"], window: Window) -> Float[Tensor, "1 3 *window"]:
    """The window of a field, its edge values held beyond its own grid."""
    for axis, (first, side) in enumerate(zip(window.first, window.grid.shape, strict=True), start=2):
        places = torch.arange(first, first + side).clamp(0, field.shape[axis] - 1)
        field = field.index_select(axis, places)
    return field


def embedded(field: Float[Tensor, "1 3 *window"], window: Window, grid: Grid) -> Float[Tensor, "1 3 *space"]:
    """A field of the window on the whole grid, no displacement outside."""
    wide = field.new_zeros(1, 3, *grid.shape)
    place = wide
    for axis, (first, side) in enumerate(zip(window.first, window.grid.shape, strict=True), start=2):
        begin, end = max(first, 0), min(first + side, grid.shape[axis - 2])
        place = place.narrow(axis, begin, end - begin)
        field = field.narrow(axis, begin - first, end - begin)
    place.copy_(field)
    return wide
