"""Pairs of real scans: a scan under a known field and an intensity curve, beside itself.

Anatomy, noise and artefacts are real. The curve is a random one, so that bright tissue may be dark; noise of its own
is added to each image. Pairs with another object or with noise have no true field.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.similarity import foreground
from crossmorph.images.image import Image
from crossmorph.images.io import READABLE_SUFFIXES, read_image
from crossmorph.quality.calibration.other_objects import replaced
from crossmorph.quality.calibration.simulated_pair import CANNOT_BE_REGISTERED, Setting, SimulatedPair, chosen
from crossmorph.simulation.deformation import affine_of
from crossmorph.simulation.drawing import Placement, random_displacement
from crossmorph.transforms.grid import Grid, covering_grid
from crossmorph.transforms.warp import from_voxel_displacement, resample

KINDS = {"scan": 6.0, "object": 0.7, "noise": 0.7, "pattern": 0.4}
FINEST = 2.0  # mm, of the grid of the fixed volume, whatever the scan's
USUAL = Placement(shift=8, rotation=14, scale=(0.88, 1.14))  # of the moving image, voxels of FINEST
STILL = Placement(shift=0, rotation=0, scale=(1, 1))
SIGMA, STRAIN = (8.0, 18.0), (0.0, 0.6)  # mm, and largest displacement as a multiple of it, of the fixed image
NOISE = (0.005, 0.05)  # added to each image, relative to its 99th percentile
KNOTS = (0.0, 0.06, 0.3, 0.55, 0.8, 1.0)  # of the intensity curve; air stays dark
CURVED = 0.6  # of the pairs have an image under a curve
INNER = (0.3, 0.7)  # of an axis, where slices are taken


def draw_scan(setting: Setting, rng: np.random.Generator) -> SimulatedPair:
    """A pair of one scan.

    Raises:
        InputError: there is no scan of the split, or it cannot be read.
    """
    assert setting.scans is not None
    paths = scans_of(setting.scans, setting.split)
    kind = chosen(rng, KINDS)
    scan = read_image(paths[rng.integers(len(paths))]).scaled()
    if scan.dim > setting.dim:
        scan = _slice(scan, rng)
    spacing = max(FINEST if setting.dim == 3 else setting.spacing, min(scan.spacing))
    grid = covering_grid(scan, spacing, 1)
    elastic = random_displacement(rng, grid.shape, STILL, rng.uniform(*SIGMA) / spacing, rng.uniform(*STRAIN))[0]
    warp = from_voxel_displacement(elastic.double().numpy(), grid.affine)
    still = resample(scan, warp)
    matrix = _placement(rng, grid)
    images = [_noisy(rng, data) for data in _curved(rng, scan.data, still.data)]
    moving = Image(images[0], matrix @ scan.affine)
    fixed = Image(images[1], still.affine)
    shown: Bool[ndarray, "*space"] = np.asarray(foreground(torch.from_numpy(still.data)[None, None])[0, 0])
    truth = None
    if kind not in CANNOT_BE_REGISTERED:
        points = _points(grid)
        truth = matrix[:-1, :-1] @ (points + warp.displacement).reshape(setting.dim, -1) + matrix[:-1, -1:]
        truth = truth.reshape(points.shape) - points
    replacing = replaced(rng, kind, [moving.data, fixed.data])
    moving, fixed = (Image(data, image.affine) for data, image in zip(replacing, (moving, fixed), strict=True))
    return SimulatedPair(kind, moving, fixed, truth, shown, np.zeros(shown.shape, bool))


@cache
def scans_of(folder: Path, split: str) -> tuple[Path, ...]:
    """The scans of a split, in a subfolder of that name. Raises InputError where there are none."""
    paths = tuple(path for path in sorted((folder / split).glob("*")) if path.name.lower().endswith(READABLE_SUFFIXES))
    if not paths:
        raise InputError(f"{folder / split}: no scans; expected a folder with subfolders train, validation and test")
    return paths


def _slice(scan: Image, rng: np.random.Generator) -> Image:
    axis = int(rng.integers(3))
    index = round(rng.uniform(*INNER) * (scan.shape[axis] - 1))
    spacing = [size for k, size in enumerate(scan.spacing) if k != axis]
    return Image(np.ascontiguousarray(scan.data.take(index, axis)), np.diag([*spacing, 1.0]))


def _placement(rng: np.random.Generator, grid: Grid) -> Float[ndarray, "n n"]:
    """A random affine map of the world about the middle of a grid."""
    dim = len(grid.shape)
    small = random_displacement(rng, (2,) * dim, USUAL, 1.0, 0.0)[0].double().numpy()
    centred = affine_of(small)
    centred[:dim, dim] = FINEST * small.reshape(dim, -1).mean(1)
    middle = grid.affine[:dim, :dim] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:dim, dim]
    there, back = np.eye(dim + 1), np.eye(dim + 1)
    there[:dim, dim], back[:dim, dim] = -middle, middle
    return back @ centred @ there


def _points(grid: Grid) -> Float[ndarray, "dim *space"]:
    dim = len(grid.shape)
    column = (slice(None), *[None] * dim)
    found: ndarray = np.tensordot(grid.affine[:dim, :dim], np.indices(grid.shape), axes=1)
    return found + grid.affine[:dim, dim][column]


def _curved(rng: np.random.Generator, *images: ndarray) -> list[ndarray]:
    """Images in [0, 1], one of them under a random intensity curve in most pairs."""
    which = rng.integers(2) if rng.random() < CURVED else None
    values = (0.0, *rng.uniform(0.0, 1.0, len(KNOTS) - 1))
    return [np.interp(data, KNOTS, values) if role == which else data for role, data in enumerate(images)]


def _noisy(rng: np.random.Generator, image: ndarray) -> Float[ndarray, "*space"]:
    strength = rng.uniform(*NOISE) * max(float(np.quantile(image, 0.99)), 1e-3)
    return (image + strength * rng.standard_normal(image.shape)).astype(np.float32)
