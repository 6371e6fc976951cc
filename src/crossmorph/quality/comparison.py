"""Which of two transforms of one pair is better, by the expected error of each at every voxel.

The difference is averaged over the foreground of the fixed image. Neighbouring voxels err together, so the interval is
a bootstrap over blocks: cubes of ``BLOCK`` voxels are drawn with replacement, each with all its voxels. It says whether
the difference is the same all over the image, and nothing about errors that the two expected errors have in common.
"""

from typing import Literal, NamedTuple

import numpy as np

from crossmorph.errors import InputError
from crossmorph.quality.given_transform import Examined

BLOCK = 8  # voxels of the working grid a side: a field that is off is off over a centimetre and more
DRAWS, SEED = 2000, 0
COVERED = 95.0  # percent of the draws within the interval


class Comparison(NamedTuple):
    """Two transforms, the first and the other.

    Attributes:
        better: ``first``, ``other``, or ``neither`` where the interval contains 0.
        difference: mean over the foreground of the expected error of the other minus that of the first; above 0 where
            the first is better.
        low: lower end of its 95% interval.
        high: upper end.
        reliable: whether the registration behind each expected error passes its own checks.
        unit: of the lengths.
    """

    better: Literal["first", "other", "neither"]
    difference: float
    low: float
    high: float
    reliable: bool
    unit: str


def compare(first: Examined, other: Examined) -> Comparison:
    """Compare two transforms of the same pair by the same model.

    Raises:
        InputError: the model has no calibration.
    """
    if first.error is None or other.error is None:
        raise InputError(
            f"model {first.own.model.card.name} has no calibration, so that transforms cannot be compared; expected a "
            "model that has one (crossmorph calibrate)"
        )
    difference = ((other.error - first.error) * first.own.grid.spacing).double().cpu().numpy()
    inside = first.foreground.cpu().numpy()
    index = np.argwhere(inside) // BLOCK
    _, block = np.unique(index, axis=0, return_inverse=True)
    sizes = np.bincount(block.ravel())
    sums = np.bincount(block.ravel(), weights=difference[inside])
    drawn = np.random.default_rng(SEED).integers(len(sizes), size=(DRAWS, len(sizes)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = (float(value) for value in np.percentile(means, (50 - COVERED / 2, 50 + COVERED / 2)))
    own = [check.level for each in (first, other) for check in each.checks if check.name == "own registration"]
    return Comparison(
        better="first" if low > 0 else "other" if high < 0 else "neither",
        difference=float(sums.sum() / sizes.sum()),
        low=low,
        high=high,
        reliable=all(level == "passed" for level in own),
        unit=first.measures.unit,
    )
