"""The average of a group's images in the middle of the group, how sharp it is, and its grid."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import ndimage

from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.system.progress import tracked
from crossmorph.transforms.composition import Step, as_warp
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import followed_by, linear_part, resample, transform_points

BLUR = 1.0  # voxels of the template, of what sharpening takes off
BINS = 64


class Average(NamedTuple):
    """A group's average.

    Attributes:
        image: the mean of the images, each in [0, 1].
        variation: mean over the foreground of the standard deviation between the images.
        mean_deformation: mean length there of the mean of the deformations, millimetres.
    """

    image: Image
    variation: float
    mean_deformation: float


class Sharpness(NamedTuple):
    """How sharp an average is.

    Attributes:
        entropy: of the histogram of its intensities in 64 bins, bits; a blurred edge adds intensities that no tissue
            has.
        gradient: mean length of the gradient over the foreground, of the mean intensity there, per millimetre.
    """

    entropy: float
    gradient: float


def group_grid(images: Sequence[Grid], matrices: Sequence[Float[ndarray, "n n"]], spacing: float | None) -> Grid:
    """An isotropic grid of a group's middle space, along its axes, that shows what most of the images show.

    Args:
        images: the grids of the group.
        matrices: from the middle space to each image's.
        spacing: millimetres; None is the median of the images' voxel sizes (the cube root of their volumes).
    """
    lows, highs, sizes = [], [], []
    for image, matrix in zip(images, matrices, strict=True):
        corners = np.array(np.meshgrid(*[(-0.5, side - 0.5) for side in image.shape])).reshape(len(image.shape), -1)
        ends = transform_points(np.linalg.inv(matrix) @ image.affine, corners)
        lows.append(ends.min(1))
        highs.append(ends.max(1))
        sizes.append(abs(np.linalg.det(linear_part(image.affine))) ** (1 / len(image.shape)))
    size = spacing or round(float(np.median(sizes)), 2)
    low, high = np.median(lows, axis=0), np.median(highs, axis=0)
    affine = np.diag([size] * len(low) + [1.0])
    affine[:-1, -1] = low + size / 2
    return Grid(affine, tuple(int(side) for side in np.maximum(2, np.ceil((high - low) / size - 1e-6))))


def average(
    images: Sequence[Path], matrices: Sequence[Float[ndarray, "n n"]], steps: Iterator[list[Step]], grid: Grid
) -> Average:
    """The mean of images on a grid, each scaled to [0, 1] and sampled once.

    Args:
        images: files.
        matrices: ``A_k``, from the middle space to each image's.
        steps: of each image, from the middle space to it: ``w_k``, whose deformation is ``A_k^-1 w_k``.
        grid: of the middle space.
    """
    total, squares = np.zeros(grid.shape), np.zeros(grid.shape)
    deformation = np.zeros((len(grid.shape), *grid.shape))
    for path, matrix, each in zip(tracked(images, "averaging"), matrices, steps, strict=True):
        warp = as_warp(each, grid.affine, grid.shape)
        moved = resample(read_image(path).scaled(), warp).data
        total += moved
        squares += np.square(moved, dtype=np.float64)
        deformation += followed_by(warp, np.linalg.inv(matrix)).displacement
    mean, count = total / len(images), len(images)
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    image = Image(mean.astype(np.float32), grid.affine)
    shown, length = foreground(image), np.linalg.norm(deformation / count, axis=0)
    return Average(image, float(deviation[shown].mean()), float(length[shown].mean()))


def sharpened(image: Image, amount: float) -> Image:
    """An unsharp mask, ``T + amount (T - G T)`` with a Gaussian ``G``, within the intensities that ``T`` had."""
    data = image.data.astype(np.float64)
    data += amount * (data - ndimage.gaussian_filter(data, BLUR, mode="nearest"))
    return Image(data.clip(image.data.min(), image.data.max()).astype(np.float32), image.affine)


def sharpness(image: Image) -> Sharpness:
    """How sharp an average is; intensities are taken from 0 to 1."""
    counts, _ = np.histogram(image.data.clip(0, 1), BINS, (0, 1))
    part = counts[counts > 0] / counts.sum()
    shown = foreground(image)
    slopes = np.gradient(image.data.astype(np.float64), *image.spacing)
    gradient = np.linalg.norm(slopes, axis=0)[shown].mean() / image.data[shown].mean()
    return Sharpness(float(-(part * np.log2(part)).sum()), float(gradient))


def foreground(image: Image) -> Bool[ndarray, "*space"]:
    """Where the local mean intensity is above half of the mean of the image."""
    around = ndimage.uniform_filter(image.data.astype(np.float64), 5, mode="constant")
    found: ndarray = around > 0.5 * image.data.mean(dtype=np.float64)
    return found
