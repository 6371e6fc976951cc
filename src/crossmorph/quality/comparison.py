"""Which of two transforms of one pair is better, by how far crossmorph's own registration moves the image from each.

That registration errs too, but much alike from both, so its own expected error does not enter. The difference of the
remaining displacements is averaged over the foreground of the fixed image. Neighbouring voxels err together, so the
interval is a bootstrap over blocks: cubes of ``BLOCK`` voxels are drawn with replacement, each with all its voxels. It
says whether one transform is better all over the image, and nothing about errors that the two registrations share.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK = 8  # voxels of the working grid a side: a field that is off is off over a centimetre and more
DRAWS, SEED = 2000, 0
COVERED = 95.0  # percent of the draws within the interval


class Comparison(NamedTuple):
    """Two transforms, the first and the other.

    Attributes:
        better: ``first``, ``other``, or ``neither`` where the interval contains 0.
        difference: mean over the foreground of the remaining displacement of the other minus that of the first; above 0
            where the first is better.
        low: lower end of its 95% interval.
        high: upper end.
    """

    better: Literal["first", "other", "neither"]
    difference: float
    low: float
    high: float


def compare(
    first: Float[Tensor, "*space"], other: Float[Tensor, "*space"], foreground: Bool[Tensor, "*space"]
) -> Comparison:
    """Compare two maps of the remaining displacement, in one unit, over the foreground."""
    inside = foreground.cpu().numpy()
    difference = (other - first).double().cpu().numpy()[inside]
    _, block = np.unique(np.argwhere(inside) // BLOCK, axis=0, return_inverse=True)
    sizes, sums = np.bincount(block.ravel()), np.bincount(block.ravel(), weights=difference)
    drawn = np.random.default_rng(SEED).integers(len(sizes), size=(DRAWS, len(sizes)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = (float(value) for value in np.percentile(means, (50 - COVERED / 2, 50 + COVERED / 2)))
    better: Literal["first", "other", "neither"] = "first" if low > 0 else "other" if high < 0 else "neither"
    return Comparison(better, float(difference.mean()), low, high)
