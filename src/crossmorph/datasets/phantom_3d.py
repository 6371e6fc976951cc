"""The phantom in 3-D: simulated brains in several modalities whose true deformations are known.

There is one anatomy, the tissue maps of the ICBM 2009a symmetric template (`crossmorph.simulation.anatomy`). Training
pairs, which `crossmorph.training.synthesis` draws without end, validation and test pairs all show that brain, under
deformations, contrasts, bias fields and noise from different random numbers; in 2-D they show different slices. So
scores on these volumes measure how well a method recovers a new deformation of a brain that it may have been trained
on: they compare methods, and do not predict the accuracy on other brains.

An array is (x, y, z), right, anterior, superior, about the centre of the brain.
"""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from crossmorph.datasets.pairs import Pair, write_pairs
from crossmorph.datasets.sampling import generator
from crossmorph.datasets.test_splits import CONTRAST_LISTS
from crossmorph.datasets.writing import check_numbers, new_dataset, write_field, write_intensities, write_labels
from crossmorph.errors import InputError
from crossmorph.simulation.anatomy import SPACING as SLICE_SPACING
from crossmorph.simulation.anatomy import tissue_volume, volume_affine
from crossmorph.simulation.deformation import SMOOTH, Difficulty, random_deformation, true_field, warp_fractions
from crossmorph.simulation.mri import CONTRASTS, TISSUES, Contrast, simulate, tissue_labels
from crossmorph.system.progress import tracked, working

VolumeSplit = Literal["validation", "test", "contrasts"]

EXTENT = (192, 224, 192)  # mm: large enough for a brain of 145 x 181 x 155 mm, shifted, rotated and scaled
SPACINGS = (1.0, 8.0)  # mm: from that of the tissue maps to a gyrus of one or two voxels
TEST_CONTRASTS: tuple[Contrast, Contrast] = ("t2", "t1")  # moving and fixed
OTHER_CONTRASTS = tuple(contrasts for contrasts in CONTRAST_LISTS if contrasts != TEST_CONTRASTS)


class _Anatomy(NamedTuple):
    """Tissue fractions on a grid of the affine, and how far and how noisy images of them are."""

    fractions: np.ndarray
    affine: np.ndarray
    difficulty: Difficulty


def volume_difficulty(spacing: float) -> Difficulty:
    """How far apart and how noisy pairs of volumes are: `SMOOTH`, the same in millimetres, in voxels of the volumes.

    Up to 9 mm of shift, 10% of scaling and 10 degrees of rotation along and about each axis, and an elastic part of
    18 mm standard deviation whose largest displacement is 5.25 to 10.5 mm. So volumes differ from slices in the third
    axis only, and their results can be compared. A limit of this model: the cortices of two people differ from one
    gyrus to the next, about a centimetre, and a smooth deformation of one brain does not show that.

    Args:
        spacing: Millimetres of a voxel.
    """
    voxels = SLICE_SPACING / spacing  # of a volume, in one of a slice
    low, high = SMOOTH.elastic_amplitude
    return replace(
        SMOOTH,
        shift=SMOOTH.shift * voxels,
        elastic_sigma=SMOOTH.elastic_sigma * voxels,
        elastic_amplitude=(low * voxels, high * voxels),
    )


def prepare_volumes(
    output: Path, seed: int = 0, validation: int = 6, test: int = 10, contrasts: int = 9, spacing: float = 2.0
) -> dict[str, Path]:
    """Write a data set of simulated brains: pairs with labels and true fields, no training images.

    The folder holds `validation` and `test`, T2w (moving) to T1w (fixed), and `contrasts`, the anatomies of the test
    pairs once more, whose contrasts cycle through `OTHER_CONTRASTS`; each with a `pairs.csv` as the 2-D phantom's, and
    a `dataset.json` with all settings. The same arguments give the same bytes; an image depends on the seed,
    the spacing, its split and its number only.

    Args:
        output: The folder to write; it must not exist, or be empty. It appears complete.
        seed: Seed of everything random, at least 0.
        validation: Validation pairs.
        test: Test pairs.
        contrasts: Pairs of other contrasts.
        spacing: Millimetres of a voxel, 1 to 8; the grid covers 192 x 224 x 192 mm, 96 x 112 x 96 voxels of 2 mm.

    Returns:
        The path of each `pairs.csv` by name of the split.

    Raises:
        InputError: If the folder is not empty or cannot be written, or a number is out of range.
    """
    counts: dict[VolumeSplit, int] = {"validation": validation, "test": test, "contrasts": contrasts}
    output = Path(output)
    check_numbers(seed, counts.items())
    if not SPACINGS[0] <= spacing <= SPACINGS[1]:
        raise InputError(f"spacing = {spacing} mm; expected {SPACINGS[0]:g} to {SPACINGS[1]:g} mm")
    width, depth, height = (round(length / spacing) for length in EXTENT)
    shape = (width, depth, height)
    with new_dataset(output) as folder:
        with working("reading the tissue maps"):
            fractions = tissue_volume(shape, spacing)
        anatomy = _Anatomy(fractions, volume_affine(shape, spacing), volume_difficulty(spacing))
        for split, count in counts.items():
            (folder / split).mkdir()
            pairs = [_write_pair(folder / split, split, index, anatomy, seed) for index in tracked(range(count), split)]
            write_pairs(folder / split / "pairs.csv", pairs)
        description = json.dumps(_describe(seed, counts, shape, spacing), indent=2) + "\n"
        (folder / "dataset.json").write_text(description, encoding="utf-8")
    return {split: output / split / "pairs.csv" for split in counts}


def _write_pair(folder: Path, split: VolumeSplit, index: int, anatomy: _Anatomy, seed: int) -> Pair:
    """Write the images, labels and true field of one pair."""
    moving, fixed = OTHER_CONTRASTS[index % len(OTHER_CONTRASTS)] if split == "contrasts" else TEST_CONTRASTS
    u_moving = _write_anatomy(folder, split, index, "moving", (moving, fixed), anatomy, seed)
    u_fixed = _write_anatomy(folder, split, index, "fixed", (fixed,), anatomy, seed)
    stem = folder / f"{index:04d}"
    write_field(Path(f"{stem}_field.nii.gz"), true_field(u_moving, u_fixed), anatomy.affine)
    return Pair(
        name=f"{split}-{index:04d}" + (f"-{moving}-{fixed}" if split == "contrasts" else ""),
        moving=Path(f"{stem}_moving_{moving}.nii.gz"),
        fixed=Path(f"{stem}_fixed_{fixed}.nii.gz"),
        moving_labels=Path(f"{stem}_moving_labels.nii.gz"),
        fixed_labels=Path(f"{stem}_fixed_labels.nii.gz"),
        moving_same=Path(f"{stem}_moving_{fixed}.nii.gz"),
        field=Path(f"{stem}_field.nii.gz"),
    )


def _write_anatomy(
    folder: Path,
    split: VolumeSplit,
    index: int,
    role: Literal["moving", "fixed"],
    contrasts: Sequence[Contrast],
    anatomy: _Anatomy,
    seed: int,
) -> Float[np.ndarray, "3 x y z"]:
    """Write the images and labels of the deformed brain; returns its displacement, voxels."""
    place = "test" if split == "contrasts" else split
    shape = anatomy.fractions.shape[1:]
    u = random_deformation(generator(seed, "volume", place, index, role), shape, anatomy.difficulty)
    fractions = warp_fractions(anatomy.fractions, u)
    for contrast in contrasts:
        rng = generator(seed, "volume", split, index, role, contrast)
        image = simulate(fractions, contrast, rng, anatomy.difficulty)
        write_intensities(folder / f"{index:04d}_{role}_{contrast}.nii.gz", image, anatomy.affine)
    write_labels(folder / f"{index:04d}_{role}_labels.nii.gz", tissue_labels(fractions), anatomy.affine)
    return u


def _describe(
    seed: int, counts: dict[VolumeSplit, int], shape: tuple[int, int, int], spacing: float
) -> dict[str, object]:
    modalities = {split: CONTRASTS if split == "contrasts" else TEST_CONTRASTS for split in counts}
    return {
        "name": "phantom-3d",
        "source": "ICBM 2009a nonlinear symmetric grey and white matter maps, as shipped with nilearn",
        "seed": seed,
        "shape": shape,
        "spacing_mm": spacing,
        "labels": {"0": "background", **{str(k): tissue for k, tissue in enumerate(TISSUES, start=1)}},
        "splits": {
            split: {"count": count, "modalities": modalities[split], **asdict(volume_difficulty(spacing))}
            for split, count in counts.items()
        },
        "versions": {package: importlib.metadata.version(package) for package in ("nilearn", "numpy", "scipy")},
    }
