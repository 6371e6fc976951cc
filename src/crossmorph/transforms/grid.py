"""The model's own grid: where an image of any size, spacing and orientation meets networks trained on one of each."""

from typing import NamedTuple

import nibabel
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import ndimage

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.transforms.warp import Warp, field_of_view, resample

LARGEST_GRID = 2**23  # voxels; the default model took 1.3 GB for half as many


class Grid(NamedTuple):
    """A lattice in the world: voxel index to RAS millimetres ``(dim + 1, dim + 1)``, and voxels along each axis."""

    affine: Float[ndarray, "dim+1 dim+1"]
    shape: tuple[int, ...]

    @property
    def spacing(self) -> float:
        """Millimetres between neighbouring voxels along the first axis: the grids made here are isotropic."""
        return float(np.linalg.norm(self.affine[:-1, 0]))


def centred_grid(image: Image, spacing: float, shape: tuple[int, ...]) -> Grid:
    """An isotropic grid about the image's centre, with the image's axes in the order right, anterior, superior.

    Args:
        image: lends its centre and its directions, each in the place of the world axis that lies nearest.
        spacing: of the grid, millimetres.
        shape: voxels of the grid along right, anterior (and superior).
    """
    return _grid_about(centre(image), _canonical_directions(image), spacing, shape)


def working_grid(fixed: Image, spacing: float, size: int, divisor: int) -> Grid:
    """The grid that a registration runs on: it covers the fixed image at the model's spacing.

    An image without millimetres (PNG) is taken to show what the model was trained on, so that its longer side spans
    ``size`` voxels of the grid.

    Args:
        fixed: the image to cover.
        spacing: of the model, millimetres.
        size: voxels of the longest side that the model was trained on.
        divisor: every side of the grid is a multiple of this, and at least twice it.

    Raises:
        InputError: the grid would hold more than 2^23 voxels.
    """
    return covering_grid(fixed, working_spacing(fixed, spacing, size), divisor)


def working_spacing(fixed: Image, spacing: float, size: int) -> float:
    """Millimetres of a voxel of the working grid; arguments as of :func:`working_grid`."""
    return spacing if fixed.physical else max(fixed.shape) * fixed.spacing[0] / size


def covering_grid(image: Image, spacing: float, divisor: int) -> Grid:
    """An isotropic grid that covers an image; arguments and errors as of :func:`working_grid`."""
    directions = _canonical_directions(image)
    extent = np.abs(directions.T @ image.affine[:-1, :-1]) @ image.shape
    # A hair is forgiven, so that a 192 mm image at 1.5 mm is 128 voxels and not 144.
    shape = tuple(max(2, int(np.ceil(side / spacing / divisor - 1e-3))) * divisor for side in extent)
    if np.prod(shape, dtype=float) > LARGEST_GRID:
        sides = " x ".join(f"{side:.0f}" for side in extent)
        raise InputError(
            f"the image covers {sides} mm, {' x '.join(map(str, shape))} voxels at the model's {spacing:g} mm; "
            f"expected at most {LARGEST_GRID} voxels: crop it, or correct its spacing"
        )
    return _grid_about(centre(image), directions, spacing, shape)


def onto_grid(image: Image, grid: Grid) -> Image:
    """The image resampled (linear, zero outside) on a grid; averaged first where the grid is coarser than the image."""
    if image.shape == grid.shape and np.abs(image.affine - grid.affine).max() < 1e-6:
        return image
    dim = image.dim
    # Voxels of the image, along each of its axes, between neighbours on the grid.
    ratio = np.linalg.norm(np.linalg.solve(image.affine[:dim, :dim], grid.affine[:dim, :dim]), axis=1)
    # The width that turns a box of one voxel into about a box of `ratio` voxels.
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0) / 12)
    data = ndimage.gaussian_filter(image.data, sigma, mode="nearest") if (sigma > 0.2).any() else image.data
    return resample(Image(data, image.affine, image.physical), Warp.identity(grid))


def evidence_on(image: Image, grid: Grid) -> Bool[ndarray, "*space"]:
    """Where the voxel centres of a grid lie in an image's field of view, in its mask, and not in what is ignored."""
    seen, evidence = field_of_view(image, *grid), image.evidence
    if evidence is None:
        return seen
    shown = Image(evidence.astype(np.uint8), image.affine, image.physical)
    inside: Bool[ndarray, "*space"] = seen & (resample(shown, Warp.identity(grid), "nearest").data > 0)
    return inside


def centre(image: Image) -> Float[ndarray, " dim"]:
    """The middle of the image's field of view, RAS millimetres."""
    middle: ndarray = image.affine[:-1, :-1] @ ((np.array(image.shape) - 1) / 2) + image.affine[:-1, -1]
    return middle


def _canonical_directions(image: Image) -> ndarray:
    """Unit vectors of the image's axes as columns, reordered and turned to lie nearest to right, anterior, superior."""
    dim = image.dim
    directions = image.affine[:dim, :dim] / np.array(image.spacing)
    embedded = np.eye(4)
    embedded[:dim, :dim] = directions
    canonical = np.empty_like(directions)
    for axis, (world, flip) in enumerate(nibabel.orientations.io_orientation(embedded)[:dim]):
        canonical[:, int(world)] = directions[:, axis] * flip
    return canonical


def _grid_about(middle: ndarray, directions: ndarray, spacing: float, shape: tuple[int, ...]) -> Grid:
    dim = len(shape)
    affine = np.eye(dim + 1)
    affine[:dim, :dim] = directions * spacing
    affine[:dim, dim] = middle - affine[:dim, :dim] @ ((np.array(shape) - 1) / 2)
    return Grid(affine, shape)
