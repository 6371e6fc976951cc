"""Scores of a registration: overlap, distance of surfaces, intensity error, endpoint error, folding.

Label maps and images are compared voxel by voxel, on one grid of two or three axes; intensities are in [0, 1].
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from numpy import ndarray
from scipy import ndimage

from crossmorph.functional import spatial

# The window's sigma and radius in voxels, and the two constants, of Wang et al. (see :func:`ssim`).
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def dice(moved: Integer[ndarray, "*space"], fixed: Integer[ndarray, "*space"]) -> dict[int, float]:
    """``2 |A n B| / (|A| + |B|)`` of every label of the fixed map, background (0) left out; from 0 to 1."""
    scores = {}
    for label in _labels(fixed):
        ours, theirs = moved == label, fixed == label
        scores[label] = 2 * float(np.sum(ours & theirs)) / float(np.sum(ours) + np.sum(theirs))
    return scores


def mean_dice(moved: Integer[ndarray, "*space"], fixed: Integer[ndarray, "*space"]) -> float:
    """Mean of :func:`dice` over the fixed map's labels; NaN where it has none."""
    values = list(dice(moved, fixed).values())
    return float(np.mean(values)) if values else float("nan")


def hd95_mm(
    moved: Integer[ndarray, "*space"], fixed: Integer[ndarray, "*space"], spacing: tuple[float, ...]
) -> dict[int, float]:
    """The 95th percentile of the distance between two surfaces, the larger of the two directions, per label.

    ``max(P95 {d(a, dB): a in dA}, P95 {d(b, dA): b in dB})``, where the surface ``dA`` is the voxels of a label with a
    neighbour across a face, or the border of the image, outside it. As MONAI's ``compute_hausdorff_distance``.

    Args:
        moved: the moved label map.
        fixed: the fixed label map; its labels are scored, background (0) left out.
        spacing: millimetres of a voxel along each axis, which are taken as orthogonal.

    Returns:
        Millimetres. A label that the moved map lacks gets the diagonal of the field of view, farther than any two
        voxels are, so that losing a structure never improves the score (the BraTS challenges' rule, there 373.13 mm).
    """
    diagonal = float(np.linalg.norm(np.multiply(fixed.shape, spacing)))
    scores = {}
    for label in _labels(fixed):
        ours, theirs = moved == label, fixed == label
        # Distances between surfaces do not change where both are cut out together.
        box = ndimage.find_objects((ours | theirs).astype(np.uint8))[0]
        a, b = (mask & ~ndimage.binary_erosion(mask) for mask in (ours[box], theirs[box]))
        scores[label] = max(_p95_mm(a, b, spacing), _p95_mm(b, a, spacing)) if ours.any() else diagonal
    return scores


def mse_percent(image: Float[ndarray, "*space"], reference: Float[ndarray, "*space"]) -> float:
    """``100 mean((a - b)^2)`` over the whole grid, in percent of the squared intensity range."""
    return 100 * float(np.mean((image.astype(np.float64) - reference) ** 2))


def psnr(image: Float[ndarray, "*space"], reference: Float[ndarray, "*space"]) -> float:
    """Peak signal-to-noise ratio ``-10 log10 mean((a - b)^2)``, dB, for a peak of 1; infinite where both are equal."""
    error = mse_percent(image, reference) / 100
    return -10 * float(np.log10(error)) if error > 0 else float("inf")


def ssim(image: Float[ndarray, "*space"], reference: Float[ndarray, "*space"]) -> float:
    """Mean structural similarity for an intensity range of 1 (Wang et al., IEEE TIP 2004, doi:10.1109/TIP.2003.819861).

    ``(2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2))`` with ``c1 = 0.01^2``, ``c2 = 0.03^2`` and
    moments under a Gaussian window of 11 voxels a side, sigma 1.5, averaged over the windows that lie inside the grid.
    As MONAI's ``SSIMMetric``.

    Returns:
        At most 1; NaN where an axis is shorter than the window.
    """
    if min(image.shape) <= 2 * SSIM_RADIUS:
        return float("nan")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    structure = (2 * covariance + SSIM_K2**2) / (variance_x + variance_y + SSIM_K2**2)
    luminance = (2 * mean_x * mean_y + SSIM_K1**2) / (mean_x**2 + mean_y**2 + SSIM_K1**2)
    return float(np.mean(luminance * structure))


def ncc(image: Float[ndarray, "*space"], reference: Float[ndarray, "*space"], inside: Bool[ndarray, "*space"]) -> float:
    """Pearson's correlation of the intensities of all voxels ``inside``, from -1 to 1; NaN where one is constant."""
    x, y = (values[inside].astype(np.float64) for values in (image, reference))
    if x.size == 0 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def folds_percent(displacement: Float[ndarray, "dim *space"]) -> float:
    """Percentage of the grid cells that fold, see :func:`crossmorph.functional.spatial.folds`.

    Args:
        displacement: voxels, component ``k`` along array axis ``k``.

    Returns:
        0 to 100; NaN for a grid without cells (an axis of one voxel), here and in :func:`min_jacobian`.
    """
    return float(spatial.folds_percent(_tensor(displacement)))


def min_jacobian(displacement: Float[ndarray, "dim *space"]) -> float:
    """The smallest determinant at any corner of any cell, 1 for no change; arguments as :func:`folds_percent`."""
    corners = spatial.strict_jacobian(_tensor(displacement))
    return float(corners.min()) if corners.numel() else float("nan")


def endpoint_error_mm(
    displacement: Float[ndarray, "dim *space"], truth: Float[ndarray, "dim *space"], foreground: Bool[ndarray, "*space"]
) -> float:
    """Mean distance ``|d(x) - d_true(x)|`` over the foreground, in the fields' millimetres; NaN where that is empty."""
    if not foreground.any():
        return float("nan")
    error = spatial.endpoint_error(_tensor(displacement.astype(np.float64)), _tensor(truth.astype(np.float64)))[0]
    return float(error.numpy()[foreground].mean())


def _labels(fixed: ndarray) -> list[int]:
    return [int(label) for label in np.unique(fixed) if label != 0]


def _p95_mm(surface: ndarray, other: ndarray, spacing: tuple[float, ...]) -> float:
    return float(np.percentile(ndimage.distance_transform_edt(~other, spacing)[surface], 95))


def _windowed(image: ndarray) -> ndarray:
    """Means under the Gaussian window, at the voxels where it lies inside the image."""
    inner = (slice(SSIM_RADIUS, -SSIM_RADIUS),) * image.ndim
    return np.asarray(ndimage.gaussian_filter(image, SSIM_SIGMA, radius=SSIM_RADIUS)[inner])


def _tensor(displacement: ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(displacement))[None]
