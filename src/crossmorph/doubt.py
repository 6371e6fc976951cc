"""A map of doubt: how far the field is expected to be wrong, voxel by voxel.

    log e(p) = w . (log order(p), log shift(p), log correlation(p), log residual(p), log pair) + c

``order``, ``shift``, ``correlation`` and ``residual`` are the maps of :mod:`crossmorph.evidence`, averaged over a few
voxels; ``pair`` is the expected error of the pair as a whole. The weights are least squares on simulated pairs with
true fields, some of them with a lesion in one image only, and ``c`` is such that the mean of e over the voxels of
training pairs is the mean of their errors, both counted as ``MOST`` voxels at most (``benchmarks/calibration.py``).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.calibration import Calibration, calibration_of, foretold
from crossmorph.errors import InputError
from crossmorph.evidence import NEAR, Evidence, gather
from crossmorph.grid import Grid, onto_grid
from crossmorph.image import Image
from crossmorph.pipeline import Registered
from crossmorph.quality import LEAST_NUMBER, logarithms, measure_plain
from crossmorph.similarity import box_sum

MOST = 6.0  # voxels: the largest error told; what is wrong by more is wrong altogether


def doubt(registered: Registered, moving: Image, fixed: Image, evidence: Evidence | None = None) -> Image:
    """The expected error on the fixed image's grid.

    Args:
        registered: what came out.
        moving: the moving image as it was given.
        fixed: the fixed image as it was given; its grid and header are the map's.
        evidence: what :func:`crossmorph.evidence.gather` found, where it is known already; else it is gathered.

    Returns:
        Millimetres (pixels where the fixed image has none), float32, at most ``MOST`` voxels of the working grid; 0
        outside that grid, which covers the fixed image.

    Raises:
        InputError: the model was not calibrated.
    """
    calibration = calibration_of(registered.model)
    if calibration is None:
        raise InputError(
            f"model {registered.model.card.name} was never calibrated, so that nothing is known of its errors; "
            "expected one that was (benchmarks/calibration.py)"
        )
    evidence = evidence or gather(registered)
    numbers = measure_plain(registered, moving, evidence)
    voxels = expected_error(evidence, logarithms(numbers), calibration)
    on_grid = Image((numbers["working_spacing"] * voxels).cpu().numpy(), registered.grid.affine, fixed.physical)
    resampled = onto_grid(on_grid, Grid(fixed.affine, fixed.shape))
    return Image(resampled.data, fixed.affine, fixed.physical, fixed.header)


def expected_error(
    evidence: Evidence, pair: Float[Tensor, " numbers"], calibration: Calibration
) -> Float[Tensor, "*space"]:
    """Of every voxel of the working grid, in its voxels; ``pair`` as of :func:`crossmorph.quality.logarithms`."""
    maps = local_logarithms(evidence, float(foretold(calibration.error, pair)))
    return foretold(calibration.doubt.to(maps), maps).clamp_max(MOST)


def local_logarithms(evidence: Evidence, pair: float) -> Float[Tensor, "*space maps"]:
    """Logarithms of what foretells the error of a voxel; see the module.

    Args:
        evidence: the maps.
        pair: expected error of the pair as a whole, voxels of the working grid.
    """
    maps = torch.stack([evidence.swapped, evidence.shifted, evidence.correlation, evidence.residual])[:, None]
    local = box_sum(maps, NEAR) / box_sum(torch.ones_like(maps[:1]), NEAR)
    whole = torch.full_like(local[:1], min(pair, MOST))
    return (torch.cat([local, whole])[:, 0].clamp_min(0) + LEAST_NUMBER).log().movedim(0, -1)
