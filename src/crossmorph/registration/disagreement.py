"""Where two registered images disagree: anatomy that only one of them shows, as a lesion or what surgery left.

The fixed image is compared with the translation of the moved one. Fitted as for output, a translation follows a lesion;
here it is fitted in a wider window, and again without the voxels that it did not explain. Where what is left is large
and of one sign all through a small ball, the images show something else.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from crossmorph.functional.similarity import local_mean
from crossmorph.images.image import Image
from crossmorph.networks.hierarchy import Flow, Registration
from crossmorph.registration.pair_similarity import Pair
from crossmorph.registration.translation import fit_weights, moved_pictures
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import Warp, resample

WINDOW = {2: 20.0, 3: 8.0}  # standard deviation of the fit's window, voxels
FITS = 4
OUTLYING = 3.0  # times the median difference: left out of the next fit
LEAST = 0.01  # of the range of intensities: the median difference counts as at least that
SHOWN = 0.1  # of the range: the moved image shows something
NOISE = 0.7  # standard deviation of the smoothing against noise, voxels
THICK = 2  # radius of the ball that a region holds, voxels
# A region is made by differences of so much of the range, and so many times the third quartile, which a lesion of a
# quarter of what is shown leaves as it is. Of simulated pairs without a lesion a third has larger ones: what is ignored
# without need costs little, a lesion that is not costs much (docs/howto/lesion.md).
LARGE, TIMES = 0.12, {2: 5.0, 3: 8.0}
GROWN = 0.5  # of that: belongs to a region
AROUND = 1  # voxels around a region, whose edge the ball does not reach


def with_disagreement(fixed: Image, pair: Pair, result: Registration, grid: Grid) -> Image | None:
    """The fixed image with what the two show differently after a registration ignored as well; None where nothing is.

    It is ignored there whichever image has the lesion: the next registration sees there what the moving image shows.

    Args:
        fixed: the fixed image.
        pair: both images on the working grid.
        result: the fields of the registration, there.
        grid: that grid.
    """
    found = disagreement(unexplained(pair, result.drawn, result.final))
    if not found.any():
        return None
    region = Image(found.astype(np.uint8), grid.affine, fixed.physical)
    here = resample(region, Warp.identity(fixed), "nearest").data > 0
    return replace(fixed, ignored=here if fixed.ignored is None else fixed.ignored | here)


@torch.inference_mode()
def unexplained(pair: Pair, drawn: Float[Tensor, "1 channels *space"], final: Flow) -> Float[ndarray, "*space"]:
    """How far the fixed image is from the moved image's translation, all through a ball about or beside each voxel.

    Args:
        pair: both images on the working grid.
        drawn: the translation channels of the moving image.
        final: the final field and its inverse.

    Returns:
        Differences of one sign, opened by the ball (their least value in a ball, the largest of all balls that hold
        the voxel), so that edges that lie a voxel off leave nothing; 0 where either image may not be looked at or the
        moved one shows nothing.
    """
    curve, pictures, seen = moved_pictures(pair, drawn, final)
    shown = seen & (pictures[:, 1 : curve.shape[1]].sum(1, keepdim=True) > SHOWN)
    if not shown.any():
        return np.zeros(pair.fixed.shape[2:], np.float32)
    counted, difference = seen, torch.zeros_like(pair.fixed)
    for _ in range(FITS):
        weights = fit_weights(pictures, pair.fixed, counted, WINDOW[seen.ndim - 2])
        difference = (pair.fixed - (weights * pictures).sum(1, keepdim=True)) * shown
        mean = local_mean(difference).abs()
        counted = seen & (mean < OUTLYING * mean[shown].median().clamp_min(LEAST))
    smooth = ndimage.gaussian_filter(difference[0, 0].cpu().numpy(), NOISE)
    place = np.indices((2 * THICK + 1,) * smooth.ndim) - THICK
    ball = (place**2).sum(0) <= THICK**2
    opened = [ndimage.grey_opening(np.maximum(sign * smooth, 0), footprint=ball) for sign in (1, -1)]
    found: Float[ndarray, "*space"] = np.maximum(*opened) * shown[0, 0].cpu().numpy()
    return found


def disagreement(difference: Float[ndarray, "*space"]) -> Bool[ndarray, "*space"]:
    """The regions of large differences, a little wider than they are; see :func:`unexplained`."""
    counted = difference[difference > 0]
    if not counted.size:
        return np.zeros(difference.shape, bool)
    large = max(LARGE, TIMES[difference.ndim] * float(np.quantile(counted, 0.75)))
    labels, _ = ndimage.label(difference > GROWN * large)
    chosen = np.unique(labels[difference > large])
    found: Bool[ndarray, "*space"] = np.isin(labels, chosen[chosen > 0])
    return ndimage.binary_dilation(found, iterations=AROUND) if found.any() else found
