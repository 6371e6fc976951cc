"""A simulated pair to calibrate a model with, and what pairs are drawn for."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from crossmorph.datasets.anatomies import PersonSplit
from crossmorph.images.image import Image
from crossmorph.quality.calibration.other_objects import smooth_texture

# Kinds of pairs that show no anatomy in common, from whatever source.
CANNOT_BE_REGISTERED = ("other level", "object", "two objects", "noise", "pattern")
LESIONS = 0.2  # of the pairs whose true field is known
RADIUS = (5.0, 14.0)  # mm, of a lesion
FEWEST = 200.0  # mm3 of a structure in both images, from which its distance counts
STRUCTURES = 3  # at least, for a distance of structures to say something


class SimulatedPair(NamedTuple):
    """A simulated pair.

    Attributes:
        kind: of the pair; see the module that drew it.
        moving: the moving image.
        fixed: the fixed image.
        truth: the true field on the fixed image's grid, mm; None where none is known.
        tissue: where the fixed image shows tissue.
        lesion: where in it the fixed image has a lesion that the moving image lacks.
        labels: codes of structures in the moving and in the fixed image, 0 elsewhere, of pairs of two people, whose
            true field is not known; else None.
    """

    kind: str
    moving: Image
    fixed: Image
    truth: Float[ndarray, "dim *space"] | None
    tissue: Bool[ndarray, "*space"]
    lesion: Bool[ndarray, "*space"]
    labels: tuple[UInt8[ndarray, "*moving"], UInt8[ndarray, "*space"]] | None = None


class Setting(NamedTuple):
    """What pairs are drawn for.

    Attributes:
        shape: voxels of the model's grid.
        spacing: millimetres of a voxel of that grid.
        split: whose anatomies and scans are drawn.
        anatomies: folder of label maps of people (``crossmorph prepare anatomies``), or None for the template alone.
        scans: folder with scans in the subfolders ``train``, ``validation`` and ``test``, or None.
    """

    shape: tuple[int, ...]
    spacing: float
    split: PersonSplit
    anatomies: Path | None = None
    scans: Path | None = None

    @property
    def dim(self) -> int:
        """2 for slices, 3 for volumes."""
        return len(self.shape)


def chosen(rng: np.random.Generator, kinds: dict[str, float]) -> str:
    """One of some kinds, by their weights."""
    weights = np.array([*kinds.values()])
    return [*kinds][rng.choice(len(kinds), p=weights / weights.sum())]


def structure_distance(
    moved: UInt8[ndarray, "x y z"], fixed: UInt8[ndarray, "x y z"], affine: Float[ndarray, "4 4"]
) -> float:
    """Median over the structures of the distance between their centroids in two label maps of one grid, mm.

    Structures of less than ``FEWEST`` in either map do not count. Infinite where fewer than ``STRUCTURES`` are left.
    """
    voxels = FEWEST / abs(np.linalg.det(affine[:3, :3]))
    shown = [np.bincount(labels.ravel(), minlength=256) >= voxels for labels in (moved, fixed)]
    codes = [int(code) for code in np.flatnonzero(shown[0] & shown[1]) if code]
    if len(codes) < STRUCTURES:
        return math.inf
    centres = [np.array(scipy.ndimage.center_of_mass(labels > 0, labels, codes)) for labels in (moved, fixed)]
    apart = (centres[0] - centres[1]) @ affine[:3, :3].T
    return float(np.median(np.linalg.norm(apart, axis=1)))


def with_lesion(pair: SimulatedPair, rng: np.random.Generator, radius: float) -> SimulatedPair:
    """The pair with a lesion in the fixed image only; the true field is that of the tissue below it.

    Args:
        pair: the pair.
        rng: source of its place, in the tissue, and its brightness.
        radius: millimetres.
    """
    spacing = pair.fixed.spacing[0]
    inner = scipy.ndimage.distance_transform_edt(pair.tissue) * spacing > radius
    places = np.argwhere(inner if inner.any() else pair.tissue)
    centre = places[rng.integers(len(places))].reshape(-1, *[1] * pair.fixed.dim)
    distance = np.linalg.norm(np.indices(pair.fixed.shape) - centre, axis=0) * spacing
    inside = distance < radius * (1 + 0.2 * smooth_texture(rng, pair.fixed.shape, 4.0))
    soft = scipy.ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    data = pair.fixed.data * (1 - soft) + soft * rng.uniform(0.0, 1.0) * float(np.quantile(pair.fixed.data, 0.99))
    fixed = Image(data.astype(np.float32), pair.fixed.affine)
    return pair._replace(fixed=fixed, lesion=inside & pair.tissue)
