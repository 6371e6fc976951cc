"""Label maps told from intensities by their voxels."""

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

FEW_VALUES = 32  # whole numbers that no scan is limited to
SOME_VOXELS = 32  # of each value at least: a very small scan has few values too
# Of neighbours within the labels of a parcellation three quarters or more are equal, of a scan's few are.
FLAT = 2 / 3
EMPTY = 2  # values of a scan that fill whole regions: nothing, and where it was cut off or padded
MOST_COUNTED = 2**16  # voxels that the most frequent values are found from


def holds_labels(data: Shaped[ndarray, "*space"]) -> bool:
    """Whether voxels are evidently labels: integers of few different values, or in regions of one value.

    Regions of one value are there if at least ``FLAT`` of the neighbours along the first axis are equal, those left out
    that both have one of the two most frequent values.

    Args:
        data: voxels; floats are never labels.
    """
    if data.dtype.kind not in "iu":
        return False
    values, counts = np.unique(data.reshape(-1)[:: data.size // MOST_COUNTED | 1], return_counts=True)
    one, other = data[:-1], data[1:]
    same = one == other
    counted = np.ones(same.shape, bool)
    for value in values[np.argsort(counts)[-EMPTY:]]:
        counted &= ~same | (one != value)
    most = int(counted.sum())
    if most and int((same & counted).sum()) >= FLAT * most:
        return True
    few = min(FEW_VALUES, data.size // SOME_VOXELS)
    return len(values) <= few and len(np.unique(data)) <= few
