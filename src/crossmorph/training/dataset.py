"""Pairs of files in memory: every image once, scaled, on the training grid."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image, scale_intensity
from crossmorph.images.io import read_image
from crossmorph.training.augmentation import AugmentSpec, augment, draw
from crossmorph.training.batch import Samples
from crossmorph.transforms.grid import Grid, centred_grid, onto_grid
from crossmorph.transforms.warp import Warp, resample


class Dataset(NamedTuple):
    """Images of a list of pairs on one grid.

    Attributes:
        moving: distinct moving images, ``(images, 1, *space)``, in [0, 1].
        fixed: distinct fixed images.
        pairs: indices into both, one row a pair.
        moving_labels: label maps of the moving images, or nothing where any is missing.
        fixed_labels: label maps of the fixed images, or nothing.
    """

    moving: Float[Tensor, "moving_images 1 *space"]
    fixed: Float[Tensor, "fixed_images 1 *space"]
    pairs: Int[Tensor, "pairs 2"]
    moving_labels: Int[Tensor, "moving_images 1 *space"] | None
    fixed_labels: Int[Tensor, "fixed_images 1 *space"] | None


def load_dataset(path: Path, spacing: float, shape: tuple[int, ...]) -> Dataset:
    """Read a list of pairs onto grids of one shape and spacing, each about its fixed image's centre.

    Pairs that share a moving image share its tensor only where their fixed images lie in one place; where they do not,
    the moving image is held once for each.

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
    image = read_image(path)
    if image.dim != len(grid.shape):
        raise InputError(f"{path}: {image.dim}-D image, expected {len(grid.shape)}-D for a grid of {grid.shape} voxels")
    scaled = Image(scale_intensity(image.data).data, image.affine, image.physical)
    return torch.from_numpy(onto_grid(scaled, grid).data.astype(np.float32))[None]


def _labels(files: list[tuple[Path | None, Grid]]) -> Tensor | None:
    maps = []
    for path, grid in files:
        if path is None:
            return None
        still = Warp(np.zeros((len(grid.shape), *grid.shape), np.float32), grid.affine)
        labels = resample(read_image(path, labels=True), still, "nearest")
        maps.append(torch.from_numpy(labels.data.astype(np.int64))[None])
    return torch.stack(maps)


@lru_cache(maxsize=2)
def _order(seed: int, stage: int, epoch: int, length: int) -> np.ndarray:
    """The order of the pairs in one epoch; the last two are kept, since a batch may straddle their border."""
    return np.random.default_rng([seed, stage, 0, epoch]).permutation(length)


def batch(data: Dataset, spec: AugmentSpec, seed: int, stage: int, first: int, count: int) -> Samples:
    """Samples ``first`` to ``first + count - 1`` of the endless, shuffled, augmented stream of one stage.

    A sample depends on ``(seed, stage, its number)`` alone: not on the batch it falls in, nor on which process draws
    it, nor on whether the run was interrupted before it.
    """
    length = len(data.pairs)
    samples = []
    for number in range(first, first + count):
        epoch, position = divmod(number, length)
        moving, fixed = data.pairs[_order(seed, stage, epoch, length)[position]]
        parameters = draw(spec, np.random.default_rng([seed, stage, 1, number]))
        samples.append(augment(data.moving[moving], data.fixed[fixed], parameters))
    images = [torch.stack([sample[role] for sample in samples]) for role in (0, 1)]
    return Samples(*images, *images)
