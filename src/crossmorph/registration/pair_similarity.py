"""Similarity of two images where both show something: voxels outside either field of view or mask do not count.

The moving image is 0 outside its field of view. Counted as intensities, these zeros make the edge of the field of view
an edge of the anatomy, and a map that moves the image out of sight a good one.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import BINS, mi, windows_correlation
from crossmorph.images.image import Image
from crossmorph.transforms.grid import Grid, evidence_on
from crossmorph.transforms.warp import Warp, resample

# Of an image in [0, 1], at the working resolution: with less range it lies in one bin of the histogram.
LEAST_RANGE = 1 / BINS
TISSUE = 0.1  # of an image in [0, 1]: the mean of 5 voxels a side where something is shown; noise of 7% has .09 in air
WHOLLY = 0.999  # of the voxels that an interpolated value comes from: inside the field of view


class Pair(NamedTuple):
    """Two images in [0, 1] on the working grid, and where they may be looked at, see :func:`seen_on`: 1, else 0."""

    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    moving_seen: Float[Tensor, "1 1 *space"]
    fixed_seen: Bool[Tensor, "1 1 *space"]


class PairSimilarity(NamedTuple):
    """How well a pair agrees under a field.

    Attributes:
        information: mutual information of what both images show, in nats, times the part of the fixed field of view
            that it is, so that a field gains nothing by moving the image out of sight.
        correlation: squared correlation of local windows that both images fill.
        shown: whether neither image is constant there.
    """

    information: float
    correlation: float
    shown: bool


@torch.inference_mode()
def pair_similarity(pair: Pair, displacement: Float[Tensor, "1 dim *space"] | None = None) -> PairSimilarity:
    """The similarity of a pair under a field of the working grid, or as it lies."""
    moved, where = moved_and_common(pair, displacement)
    part = where.sum() / pair.fixed_seen.sum().clamp_min(1)
    shown = bool(where.any()) and all(spread(image, where) > LEAST_RANGE for image in (moved, pair.fixed))
    correlation = windows_correlation(moved, pair.fixed, where=where)
    return PairSimilarity(float(part * mi(moved, pair.fixed, where)), float(correlation), shown)


def moved_and_common(
    pair: Pair, displacement: Float[Tensor, "1 dim *space"] | None
) -> tuple[Float[Tensor, "1 1 *space"], Bool[Tensor, "1 1 *space"]]:
    """The moving image under a field of the working grid, or as it lies, and where both may be looked at then."""
    moved, seen = pair.moving, pair.moving_seen
    if displacement is not None:
        moved, seen = spatial.warp(torch.cat([moved, seen], dim=1), displacement, outside="zero").split(1, dim=1)
    return moved, (seen > WHOLLY) & pair.fixed_seen


def seen_on(image: Image, grid: Grid) -> Bool[Tensor, "1 1 *space"]:
    """:func:`crossmorph.transforms.grid.evidence_on` as a tensor."""
    return torch.from_numpy(evidence_on(image, grid))[None, None]


def is_cut(image: Image) -> bool:
    """Whether windows at its edge, or at that of its mask, hold only part of what an image in [0, 1] shows there."""
    faces = (image.data.take(end, axis) for axis in range(image.dim) for end in (0, -1))
    return image.evidence is not None or any(ndimage.uniform_filter(face, 5).max() > TISSUE for face in faces)


def ignored_on(image: Image, grid: Grid) -> Bool[Tensor, "1 1 *space"] | None:
    """What is ignored of an image, at the voxels of a grid; None where that is nothing."""
    if image.ignored is None:
        return None
    ignored = Image(image.ignored.astype(np.uint8), image.affine, image.physical)
    return torch.from_numpy(resample(ignored, Warp.identity(grid), "nearest").data > 0)[None, None]


def spread(image: Float[Tensor, "1 1 *space"], where: Bool[Tensor, "1 1 *space"]) -> float:
    """The largest less the smallest intensity of some voxels; 0 where there are none."""
    values = image[where]
    return float(values.max() - values.min()) if values.numel() else 0.0
