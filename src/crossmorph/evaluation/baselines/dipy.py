"""DIPY: affine by mutual information, then SyN by squared local correlation, which is suited to both contrasts.

The affine stage goes from centres of mass through a translation and a rigid to an affine map, at 1/4, 1/2 and full
resolution (32 bins, all voxels). SyN (Avants et al., Med. Image Anal. 2008, doi:10.1016/j.media.2007.06.004) takes up
to 100, 100 and 50 iterations at the same, correlates over 5 voxels a side and smooths each update by 10 voxels.

Chosen by mean Dice on the first six validation pairs of the phantom, where the affine stage alone has .672: .843; .843
for smoothing by 8, .826 by 6; with 9 voxels a side .811 by 8 and .779 by 6, with 13 .576 by 6. DIPY's metric for two
modalities, EM, ties with demons' updates (.842 smoothed by 10, .834 by 6, .827 by 4; twice the iterations .834) and
falls below the affine stage with its default, Gauss-Newton updates (.251 and .328 for a smoothness of 1 and 20). It is
not used because DIPY 1.12.1 adds a gradient in voxels to one in millimetres there (``EMMetric``, ``double_gradient``),
which drives images apart on a flipped grid; without it EM has .815 smoothed by 10 and .827 by 14.
"""

import logging
import time
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.evaluation.baselines.common import Timed, require
from crossmorph.images.image import Image, scale_intensity
from crossmorph.transforms.warp import Warp

BINS = 32
AFFINE: dict[str, Any] = {"level_iters": [1000, 500, 100], "sigmas": [3.0, 1.0, 0.0], "factors": [4, 2, 1]}
METRIC: dict[str, Any] = {"sigma_diff": 10.0, "radius": 2}
SYN: dict[str, Any] = {"level_iters": [100, 100, 50]}


class Loaded(NamedTuple):
    """DIPY's modules of registration."""

    affine: ModuleType
    transforms: ModuleType
    metrics: ModuleType
    syn: ModuleType


def register(moving: Image, fixed: Image) -> Timed:
    """Register with DIPY, which always works on one thread and draws no random numbers.

    Args:
        moving: 2-D or 3-D, any intensities; both images are scaled as by crossmorph, since DIPY does not scale.
        fixed: of the same dimension, on its own grid.

    Returns:
        One field on the fixed grid, affine included: applied to the moving image it gives what DIPY's own map does.
        The seconds hold both stages, but no moved image.

    Raises:
        InputError: dipy is not installed.
    """
    loaded = load()
    ours, theirs = (scale_intensity(image.data).data.astype(np.float64) for image in (moving, fixed))
    grids = {"static_grid2world": fixed.affine, "moving_grid2world": moving.affine}
    began = time.perf_counter()
    affine = _affine(loaded, ours, theirs, grids)
    metric = loaded.metrics.CCMetric(fixed.dim, **METRIC)
    syn = loaded.syn.SymmetricDiffeomorphicRegistration(metric, **SYN)
    mapping = syn.optimize(theirs, ours, prealign=affine, **grids)
    seconds = time.perf_counter() - began
    return Timed(_to_warp(mapping.get_forward_field(), affine, fixed), seconds)


@cache
def load() -> Loaded:
    """Import dipy.

    Raises:
        InputError: it is not installed.
    """
    names = ("imaffine", "transforms", "metrics", "imwarp")
    loaded = Loaded(*(require(f"dipy.align.{name}", "dipy") for name in names))
    logging.getLogger("dipy").setLevel(logging.WARNING)  # it logs the start of each stage
    return loaded


def _affine(loaded: Loaded, moving: ndarray, fixed: ndarray, grids: dict[str, ndarray]) -> Float[ndarray, "n n"]:
    """From the fixed to the moving world, RAS millimetres, by stages of more and more freedom."""
    metric = loaded.affine.MutualInformationMetric(nbins=BINS)
    method = loaded.affine.AffineRegistration(metric=metric, verbosity=0, **AFFINE)
    start: Any = "mass"
    for kind in ("Translation", "Rigid", "Affine"):
        transform = getattr(loaded.transforms, f"{kind}Transform{fixed.ndim}D")()
        start = method.optimize(fixed, moving, transform, None, starting_affine=start, **grids).affine
    return start


def _to_warp(field: Float[ndarray, "*space dim"], affine: Float[ndarray, "n n"], fixed: Image) -> Warp:
    """A point of the fixed world goes through the field first, then through the affine map."""
    flat = np.indices(fixed.shape, np.float64).reshape(fixed.dim, -1)
    points = fixed.affine[:-1, :-1] @ flat + fixed.affine[:-1, -1:]
    displaced = points + np.moveaxis(field, -1, 0).reshape(fixed.dim, -1)
    moved = affine[:-1, :-1] @ displaced + affine[:-1, -1:]
    return Warp((moved - points).reshape(fixed.dim, *fixed.shape), fixed.affine)
