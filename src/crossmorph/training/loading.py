"""Lists of pairs to images in memory: every image once, with scaled intensities, on the training grid."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.training.dataset import Dataset
from crossmorph.transforms.grid import Grid, centred_grid, onto_grid
from crossmorph.transforms.warp import Warp, resample


def load_dataset(path: Path, spacing: float, shape: tuple[int, ...]) -> Dataset:
    """Read a list of pairs onto grids of one shape and spacing, each about its fixed image's centre.

    Pairs that share a moving image share its tensor only where their fixed images have one grid; otherwise the moving
    image is stored once for each grid.

    Raises:
        InputError: a file of the list cannot be used, or has another number of axes than the grid.
    """
    moving: dict[tuple[Path, bytes], tuple[int, Grid, Pair]] = {}
    fixed: dict[Path, tuple[int, Grid, Pair]] = {}
    rows = []
    for pair in read_pairs(path):
        if pair.fixed not in fixed:
            image = read_image(pair.fixed)
            if image.dim != len(shape):
                raise InputError(
                    f"{pair.fixed}: {image.dim}-D image, expected {len(shape)}-D for a grid of {shape} voxels"
                )
            fixed[pair.fixed] = (len(fixed), centred_grid(image, spacing, shape), pair)
        grid = fixed[pair.fixed][1]
        key = (pair.moving, np.round(grid.affine, 6).tobytes())
        moving.setdefault(key, (len(moving), grid, pair))
        rows.append((moving[key][0], fixed[pair.fixed][0]))
    return Dataset(
        torch.stack([_intensities(pair.moving, grid) for _, grid, pair in moving.values()]),
        torch.stack([_intensities(pair.fixed, grid) for _, grid, pair in fixed.values()]),
        torch.tensor(rows),
        _labels([(pair.moving_labels, grid) for _, grid, pair in moving.values()]),
        _labels([(pair.fixed_labels, grid) for _, grid, pair in fixed.values()]),
    )


def _intensities(path: Path, grid: Grid) -> Tensor:
    return torch.from_numpy(onto_grid(_read(path, grid).scaled(), grid).data.astype(np.float32))[None]


def _read(path: Path, grid: Grid, labels: bool = False) -> Image:
    image = read_image(path, labels=labels)
    if image.dim != len(grid.shape):
        raise InputError(f"{path}: {image.dim}-D image, expected {len(grid.shape)}-D for a grid of {grid.shape} voxels")
    return image


def _labels(files: list[tuple[Path | None, Grid]]) -> Tensor | None:
    maps = []
    for path, grid in files:
        if path is None:
            return None
        still = Warp.identity(grid)
        labels = resample(_read(path, grid, labels=True), still, "nearest")
        maps.append(torch.from_numpy(labels.data.astype(np.int64))[None])
    return torch.stack(maps)
