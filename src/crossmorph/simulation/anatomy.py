"""The anatomy behind every simulation: tissue maps of the ICBM 2009a symmetric template, which ship inside `nilearn`.

Nothing is downloaded. Fractions of CSF, grey and white matter, on the grid of a slice or of the whole brain, in the
template's RAS millimetres.
"""

import warnings
from functools import cache

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from crossmorph.errors import InputError
from crossmorph.system.environment import require_extra

SHAPE = (128, 128)  # of a slice
SPACING = 1.5  # of a slice, mm
CENTRE = (0.0, -17.0, 5.0)  # of the brain, RAS mm
# Axial levels (mm) where the brain covers more than 120 cm2, from the temporal lobes to the centrum semiovale.
LEVELS = tuple(float(z) for z in np.arange(-30.0, 54.1, SPACING))
HEAD_BOTTOM = -15.0  # mm; below lie orbits and the base of the skull, which bands around the brain do not describe


@cache
def tissue_maps() -> tuple[Float[np.ndarray, "tissue x y z"], Float[np.ndarray, "4 4"]]:
    """CSF, grey and white matter at 1 mm, and the affine, voxel to RAS millimetres."""
    require_extra("simulate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's notices about its own future defaults
        from nilearn import datasets

        grey, white, mask = (
            load(resolution=1)
            for load in (
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
                datasets.load_mni152_brain_mask,
            )
        )
    gm, wm = grey.get_fdata(dtype=np.float32), white.get_fdata(dtype=np.float32)
    csf = np.clip((np.asarray(mask.dataobj) > 0) - gm - wm, 0, 1)
    maps = np.stack([csf, gm, wm])
    maps /= np.maximum(maps.sum(0), 1)
    return maps, grey.affine


@cache
def _blurred_maps(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """The maps as voxels of ``spacing`` see them (full width at half maximum, the maps' 1 mm in quadrature)."""
    maps, affine = tissue_maps()
    sigma = np.sqrt(max(spacing**2 - 1, 0)) / np.sqrt(8 * np.log(2))
    return np.stack([scipy.ndimage.gaussian_filter(tissue, sigma) for tissue in maps]), affine


def slice_affine(z_mm: float, shape: tuple[int, int] = SHAPE, spacing: float = SPACING) -> Float[np.ndarray, "4 4"]:
    """Voxel to RAS millimetres of the slice at a level; its centre is the centre of the brain, x = 0, y = -17 mm."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (*(CENTRE[axis] - (shape[axis] - 1) / 2 * spacing for axis in (0, 1)), z_mm)
    return affine


def volume_affine(shape: tuple[int, ...], spacing: float) -> Float[np.ndarray, "4 4"]:
    """Voxel to RAS millimetres of an isotropic grid about the centre of the brain."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.array(CENTRE) - (np.array(shape) - 1) / 2 * spacing
    return affine


@cache
def tissue_slice(
    z_mm: float, shape: tuple[int, int] = SHAPE, spacing: float = SPACING
) -> Float[np.ndarray, "tissue x y"]:
    """The tissue fractions (CSF, grey matter, white matter) of the template at one axial level.

    Args:
        z_mm: The level in the template's RAS millimetres, -70 to 80.
        shape: Of the grid about the centre of the brain.
        spacing: Of its voxels, mm.

    Returns:
        Fractions on the grid of `slice_affine`, read-only; what is left to 1 is background.

    Raises:
        InputError: If there is no brain at this level.
    """
    fractions = _sampled((*shape, 1), spacing, slice_affine(z_mm, shape, spacing))[..., 0]
    if fractions.sum(0).max() < 0.5:
        raise InputError(f"level z = {z_mm} mm: no brain there; expected a level between -70 and 80 mm")
    fractions.flags.writeable = False
    return fractions


def tissue_volume(shape: tuple[int, ...], spacing: float) -> Float[np.ndarray, "tissue x y z"]:
    """The tissue fractions of the whole brain on the grid of `volume_affine`."""
    return _sampled(shape, spacing, volume_affine(shape, spacing))


def _sampled(shape: tuple[int, ...], spacing: float, affine: np.ndarray) -> np.ndarray:
    """The maps on a grid, as its voxels see them; linear, 0 outside."""
    maps, maps_affine = _blurred_maps(spacing)
    to_maps = np.linalg.inv(maps_affine) @ affine
    where = np.tensordot(to_maps[:3, :3], np.indices(shape), axes=1) + to_maps[:3, 3].reshape(-1, 1, 1, 1)
    return np.stack([scipy.ndimage.map_coordinates(tissue, where, order=1) for tissue in maps])


def split_levels(split: str) -> tuple[float, ...]:
    """The axial levels (mm) of a split of a data set. Training, validation and test share none.

    All other splits are at the test levels; that of whole heads, ``heads``, at those from ``HEAD_BOTTOM`` up.
    """
    tenths = {"train": (0, 1, 3, 4, 5, 6, 8), "validation": (9,)}.get(split, (2, 7))
    bottom = HEAD_BOTTOM if split == "heads" else LEVELS[0]
    return tuple(z for k, z in enumerate(LEVELS) if k % 10 in tenths and z >= bottom)
