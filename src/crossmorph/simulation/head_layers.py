"""A head around a slice of the brain: fluid, skull with marrow, muscle, fat and skin, each a band of its own thickness.

The bands follow the distance to the inside of the skull, which is the brain's outline with its fissures bridged. Their
thickness varies smoothly around the head, with chance and with what is known of anatomy: the skull is thickest in front
and behind, and the temporal muscle lies beside the brain, in front of the ears, and thins out upwards. Bone gives no
signal; marrow is fat between its trabeculae.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

FINE = 3  # samples per voxel and axis, from which the parts of a voxel are counted
BRIDGED = 12.0  # mm; fissures of the brain's outline up to twice as wide lie inside the skull
RIM = 1.5  # mm of fluid between brain and skull, at least
SKULL = (3.0, 7.0)  # mm
TABLES = 0.3  # part of the skull's thickness that each of its two compact tables takes
MARROW = 0.6  # part of the space between the tables that is fat
FAT = (2.5, 5.0)  # mm
SKIN = 2.0  # mm
MUSCLE = 9.0  # mm; the temporal muscle where it is thickest
MUSCLE_TOP = 36.0  # mm; level at which it ends
MUSCLE_BELLY = -15.0  # mm; level below which it is thickest


def surround(
    brain: Float[np.ndarray, "3 x y"], spacing: float, z_mm: float, rng: np.random.Generator
) -> Float[np.ndarray, "5 x y"]:
    """Put a head around an axial slice of the brain.

    Args:
        brain: Fractions of CSF, grey and white matter; axes to the right and to the front. There must be room around
            it: 25 mm are enough.
        spacing: Of the voxels, mm.
        z_mm: Level of the slice, mm above the anterior commissure.
        rng: Source of the thicknesses.

    Returns:
        Fractions of `simulation.HEAD_TISSUES`: CSF (now up to the skull), grey and white matter as they were, fat and
        muscle, of which the skin is made, as in BrainWeb's class "muscle/skin". What is left to 1 is bone or air.
    """
    outside = _distance_to_skull(brain.sum(0), spacing)
    skull, muscle, fat = _thicknesses(outside, z_mm, rng)
    under_fat = skull + muscle
    depth_in_skull = outside / skull
    in_marrow = (depth_in_skull > TABLES) & (depth_in_skull <= 1 - TABLES)
    in_muscle = (outside > skull) & (outside <= under_fat)
    in_fat = (outside > under_fat) & (outside <= under_fat + fat)
    in_skin = (outside > under_fat + fat) & (outside <= under_fat + fat + SKIN)
    csf = brain[0] + np.maximum(_part_of_voxel(outside <= 0) - brain.sum(0), 0)
    all_fat = _part_of_voxel(in_fat) + MARROW * _part_of_voxel(in_marrow)
    return np.stack([csf, *brain[1:], all_fat, _part_of_voxel(in_muscle | in_skin)])


def _distance_to_skull(occupied: np.ndarray, spacing: float) -> Float[np.ndarray, "fine_x fine_y"]:
    """Signed distance (mm) to the inside of the skull, positive outside it, on a grid `FINE` times as fine."""
    fine = spacing / FINE
    # Samples at the centres of the parts of a voxel.
    where = [(np.arange(size * FINE) + 0.5) / FINE - 0.5 for size in occupied.shape]
    brain = scipy.ndimage.map_coordinates(occupied, np.meshgrid(*where, indexing="ij"), order=1, mode="nearest") > 0.5
    grown = _signed_distance(brain, fine) <= BRIDGED
    bridged = scipy.ndimage.binary_fill_holes(_signed_distance(grown, fine) <= -BRIDGED)
    return scipy.ndimage.gaussian_filter(_signed_distance(bridged | brain, fine), 3.0 / fine) - RIM


def _signed_distance(inside: Bool[np.ndarray, "x y"], spacing: float) -> Float[np.ndarray, "x y"]:
    outwards, inwards = (scipy.ndimage.distance_transform_edt(part, sampling=spacing) for part in (~inside, inside))
    return np.asarray(outwards - inwards)


def _thicknesses(
    outside: np.ndarray, z_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thickness (mm) of skull, temporal muscle and fat in the direction of each sample of the fine grid."""
    x, y = np.indices(outside.shape, sparse=True)
    centre_x, centre_y = (axis.mean() for axis in np.nonzero(outside <= 0))
    angle = np.arctan2(y - centre_y, x - centre_x)  # 0 to the right, pi / 2 to the front
    middle, half = np.mean(SKULL), np.ptp(SKULL) / 2
    skull = middle + half * np.clip(-0.6 * np.cos(2 * angle) + 0.4 * _ripple(angle, rng), -1, 1)
    to_side = np.arctan2(y - centre_y, np.abs(x - centre_x))
    height = np.clip((MUSCLE_TOP - z_mm) / (MUSCLE_TOP - MUSCLE_BELLY), 0, 1)
    muscle = MUSCLE * height * np.exp(-(((to_side - np.deg2rad(25)) / np.deg2rad(22)) ** 2))
    fat = np.mean(FAT) + np.ptp(FAT) / 2 * _ripple(angle, rng)
    return skull, muscle, fat


def _ripple(angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random function around the head, of three waves at most, between -1 and 1."""
    weights = rng.dirichlet(np.ones(3))
    phases = rng.uniform(0, 2 * np.pi, 3)
    waves = [np.cos(k * angle + phase) for k, phase in enumerate(phases, start=1)]
    return np.tensordot(weights, waves, axes=1)


def _part_of_voxel(samples: Bool[np.ndarray, "fine_x fine_y"]) -> Float[np.ndarray, "x y"]:
    x, y = (size // FINE for size in samples.shape)
    return np.asarray(samples.reshape(x, FINE, y, FINE).mean((1, 3)))
