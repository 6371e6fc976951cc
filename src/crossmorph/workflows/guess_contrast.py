"""What an image of a head looks like: skull or none, and which contrast. Guesses by a few rules, and never more.

The rules look at one axial plane. The object is what stands out from the background, its holes filled, and each of its
points has a depth below its surface. From outside to inside a head is bright (scalp), dark (bone) and bright again,
and a brain without skull is not. Inside of the bone, T2w is darker deep (white matter) than near the surface (CSF, grey
matter) and has bright exceptions (CSF); T1w is brighter deep and its exceptions are dark; PDw varies little; FLAIR is
even but for dark CSF.

The thresholds were set on simulated slices of the phantom's validation levels (T1w, T2w, PDw and FLAIR, with 3% and 9%
noise, 20% and 40% bias field, with and without a head). `docs/reference.md` says how often they are right on another
draw of these, and what they make of real templates.
"""

from typing import Literal, NamedTuple

import nibabel
import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float
from numpy import ndarray

from crossmorph.images.image import Image, scale_intensity

Contrast = Literal["T1w", "T2w", "PDw", "FLAIR", "T1w or FLAIR", "CT", "unclear"]

FOREGROUND = 0.15  # of the scaled intensities, after a blur of a millimetre
STEP_MM = 2.0  # of depth
DEEPEST_MM = 40.0  # that layers are looked at: deeper lie bright ventricles
DEEPEST_BONE = 10  # steps below the surface
DARK_BONE = 0.7  # of the darker of what lies outside and inside of it
BONE_MARGIN_MM = 8.0  # below the darkest of the bone the inside begins
SURFACE_MM, RIM_MM, DEEP_MM = 4.0, 12.0, 18.0  # depth at which the rim begins and ends, and the deep part begins
LEAST_VOXELS = 20  # that a median is taken of
AIR_HU, TISSUE_HU = -500.0, 200.0


class Traits(NamedTuple):
    """Numbers of the inside of an object.

    ``skew`` is the third standardised moment, ``variation`` standard deviation by mean, ``deep`` the median of the deep
    part by that of the rim; ``dark`` and ``bright`` are percentiles 2 and 98 by the median.
    """

    skew: float
    variation: float
    deep: float
    dark: float
    bright: float


class Appearance(NamedTuple):
    """The guesses. ``skull`` is None where the image shows no object to judge."""

    skull: bool | None
    contrast: Contrast


def appearance(image: Image) -> Appearance:
    """Guess whether an image of a head shows the skull, and its contrast.

    Args:
        image: of two or three dimensions, in millimetres, finite and of more than one intensity. Of a slice the plane
            is the image; what a slice in another plane than the axial looks like was not tried.
    """
    low, high = (float(value) for value in np.percentile(image.data, (0.5, 99.5)))
    if low < AIR_HU and high > TISSUE_HU:
        return Appearance(None, "CT")
    plane, spacing = axial_plane(image)
    smooth = scipy.ndimage.gaussian_filter(scale_intensity(plane).data, 1 / np.array(spacing))
    inside = _object(smooth)
    depth = scipy.ndimage.distance_transform_edt(inside, sampling=spacing)
    if (depth > DEEP_MM).sum() < LEAST_VOXELS:
        return Appearance(None, "unclear")
    bone = _bone(smooth, depth)
    depth = depth if bone is None else depth - bone - BONE_MARGIN_MM
    traits = _traits(smooth, depth)
    return Appearance(bone is not None, "unclear" if traits is None else _contrast(traits))


def axial_plane(image: Image) -> tuple[Float[ndarray, "x y"], tuple[float, float]]:
    """The plane across a volume's axis nearest to superior, through its centre of intensity, and its spacing in mm."""
    if image.dim == 2:
        return np.asarray(image.data, np.float32), (image.spacing[0], image.spacing[1])
    axis = int(np.argmax(nibabel.io_orientation(image.affine)[:, 0] == 2))
    others = tuple(other for other in range(3) if other != axis)
    weight = np.asarray(image.data, np.float64).sum(axis=others)
    weight = weight - weight.min()
    index = round(float(weight @ np.arange(len(weight)) / weight.sum())) if weight.sum() > 0 else len(weight) // 2
    plane = np.take(image.data, index, axis=axis).astype(np.float32)
    if plane.min() == plane.max():
        plane = np.asarray(image.data.max(axis=axis), np.float32)
    return plane, (image.spacing[others[0]], image.spacing[others[1]])


def _object(smooth: Float[ndarray, "x y"]) -> Bool[ndarray, "x y"]:
    """The largest connected part that stands out, without holes."""
    parts, number = scipy.ndimage.label(smooth > FOREGROUND)
    if number == 0:
        return np.zeros(smooth.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    filled: ndarray = scipy.ndimage.binary_fill_holes(parts == sizes.argmax())
    return filled


def _bone(smooth: Float[ndarray, "x y"], depth: Float[ndarray, "x y"]) -> float | None:
    """Depth of the far side of the darkest layer between brighter ones, mm; None without such a layer."""
    layers = [smooth[(depth > mm) & (depth <= mm + STEP_MM)] for mm in np.arange(0, DEEPEST_MM, STEP_MM)]
    medians = [float(np.median(layer)) for layer in layers if layer.size > LEAST_VOXELS]
    contrasts = [
        (medians[k] / min(max(medians[:k]), max(medians[k + 1 :])), k)
        for k in range(1, min(len(medians) - 1, DEEPEST_BONE))
    ]
    darkness, layer = min(contrasts, default=(1.0, 0))
    return (layer + 1) * STEP_MM if darkness < DARK_BONE else None


def _traits(smooth: Float[ndarray, "x y"], depth: Float[ndarray, "x y"]) -> Traits | None:
    inner = smooth[depth > SURFACE_MM]
    rim, deep = smooth[(depth > SURFACE_MM) & (depth <= RIM_MM)], smooth[depth > DEEP_MM]
    if min(rim.size, deep.size) < LEAST_VOXELS or inner.std() == 0:
        return None
    dark, middle, bright = (float(value) for value in np.percentile(inner, (2, 50, 98)))
    centred = inner - inner.mean()
    return Traits(
        skew=float((centred**3).mean() / inner.std() ** 3),
        variation=float(inner.std() / inner.mean()),
        deep=float(np.median(deep) / np.median(rim)),
        dark=dark / middle,
        bright=bright / middle,
    )


def _contrast(traits: Traits) -> Contrast:
    if traits.variation < 0.13 and traits.dark > 0.76 and traits.bright < 1.35:
        return "PDw"
    if traits.skew > 0.5 and traits.bright > 1.6 and traits.deep < 1.05:
        return "T2w"
    if traits.skew < 0 and traits.variation < 0.24 and traits.bright < 1.45:
        if traits.deep > 1.06:
            return "T1w"
        if traits.deep > 0.95:
            return "FLAIR" if traits.skew < -1.5 else "T1w or FLAIR"
    return "unclear"
