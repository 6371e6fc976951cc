"""Averages of transforms."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import linalg

from crossmorph.transforms.warp import Warp

STEPS, ENOUGH = 50, 1e-10  # of the mean of affine maps, and the size of a step that ends it


def centring_affine(matrices: Sequence[Float[ndarray, "n n"]]) -> Float[ndarray, "n n"]:
    """The map ``M`` from a middle space with which ``A_k M`` have no mean: ``sum_k log(A_k M) = 0``.

    ``M^-1`` is the group mean of ``A_k^-1`` (Pennec and Arsigny, doi:10.1007/978-1-4471-5301-6_7): the middle space
    does not depend on which space the ``A_k`` come from, and volumes in it are the geometric mean of the images'.

    Args:
        matrices: ``A_k``, from one space to each image's, ``(dim + 1, dim + 1)``; rotations of less than half a turn
            from each other.
    """
    middle: ndarray = np.linalg.inv(matrices[0])
    for _ in range(STEPS):
        step = np.mean([np.real(linalg.logm(matrix @ middle)) for matrix in matrices], axis=0)
        middle = middle @ linalg.expm(-step)
        if np.abs(step).max() < ENOUGH:
            break
    middle[-1] = np.eye(len(middle))[-1]
    return middle


def mean_warp(warps: Iterable[Warp]) -> Warp:
    """The mean ``x -> x + mean_k d_k(x)`` of warps on one grid, in float64; one at a time in memory."""
    total, count, affine = None, 0, None
    for warp in warps:
        total = warp.displacement.astype(np.float64) if total is None else total + warp.displacement
        affine, count = warp.affine, count + 1
    if total is None or affine is None:
        raise ValueError("expected at least one warp")
    return Warp(total / count, affine)
