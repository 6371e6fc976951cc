"""The phantom: simulated brain slices in several modalities whose true deformations are known.

The tissue maps are those of the ICBM 2009a symmetric template (grey and white matter), which ship inside `nilearn`:
nothing is downloaded. Every image is one axial slice of them under its own random shift, rotation, scaling and smooth
deformation, acquired as `crossmorph.data.simulation` says. A slice is an array (x, y) of 1.5 mm voxels in the
template's RAS millimetres.
"""

import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from crossmorph.data.extra import HEAD_BOTTOM, ExtraSplit, Slice, describe_extra, write_extra
from crossmorph.data.pairs import Pair, write_pairs
from crossmorph.data.simulation import (
    ROUGH,
    SMOOTH,
    TISSUES,
    Modality,
    random_deformation,
    simulate,
    tissue_labels,
    true_field,
    warp_fractions,
)
from crossmorph.data.writing import write_field, write_intensities, write_labels
from crossmorph.errors import InputError

BasicSplit = Literal["train", "validation", "test", "rough"]
Split = Literal[BasicSplit, ExtraSplit]

SHAPE = (128, 128)
SPACING = 1.5  # mm
PARTNER_DISTANCE = 3.0  # mm between the levels of a training pair
PARTNERS = 4  # fixed images for each moving image of the training list

# Axial levels (mm) where the brain covers more than 120 cm2, from the temporal lobes to the centrum semiovale.
LEVELS = tuple(float(z) for z in np.arange(-30.0, 54.1, SPACING))

# What a random stream is keyed by, beside numbers. New words go to the end: a word's place is its number.
_KEYS = (
    *("train", "validation", "test", "rough", "moving", "fixed", "t1", "t2", "pd", "partners"),
    *("contrasts", "heads", "far", "head", "pair"),
    *("flair", "inverted", "synthetic-a", "synthetic-b", "synthetic-c"),
)


# --- anatomy ---------------------------------------------------------------------------------------------------------


@cache
def _tissue_maps() -> tuple[np.ndarray, np.ndarray]:
    """CSF, grey and white matter (3, x, y, z) at 1 mm, smoothed for sampling at 1.5 mm; the affine, voxel to RAS mm."""
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
    # The template's voxels blur by 1 mm already; in quadrature this makes it the new voxels' 1.5 mm (full width at half
    # maximum).
    sigma = np.sqrt(SPACING**2 - 1) / np.sqrt(8 * np.log(2))
    for tissue in maps:
        scipy.ndimage.gaussian_filter(tissue, sigma, output=tissue)
    return maps, grey.affine


def slice_affine(z_mm: float) -> Float[np.ndarray, "4 4"]:
    """Voxel to RAS millimetres of the slice at a level; its centre is the centre of the brain, x = 0, y = -17 mm."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = (-(SHAPE[0] - 1) / 2 * SPACING, -17.0 - (SHAPE[1] - 1) / 2 * SPACING, z_mm)
    return affine


@cache
def tissue_slice(z_mm: float) -> Float[np.ndarray, "tissue x y"]:
    """The tissue fractions (CSF, grey matter, white matter) of the template at one axial level.

    Args:
        z_mm: The level in the template's RAS millimetres, -70 to 80.

    Returns:
        Fractions on the grid of `slice_affine`, read-only; what is left to 1 is background.

    Raises:
        InputError: If there is no brain at this level.
    """
    maps, affine = _tissue_maps()
    grid = np.indices((*SHAPE, 1)).reshape(3, -1)
    to_maps = np.linalg.inv(affine) @ slice_affine(z_mm)
    where = to_maps[:3, :3] @ grid + to_maps[:3, 3:]
    fractions = np.stack([scipy.ndimage.map_coordinates(tissue, where, order=1).reshape(SHAPE) for tissue in maps])
    if fractions.sum(0).max() < 0.5:
        raise InputError(f"level z = {z_mm} mm: no brain there; expected a level between -70 and 80 mm")
    fractions.flags.writeable = False
    return fractions


# --- data set --------------------------------------------------------------------------------------------------------


def split_levels(split: Split) -> tuple[float, ...]:
    """The axial levels (mm) of a split. Training, validation and test share none; all others are at the test levels."""
    role = {"train": (0, 1, 3, 4, 5, 6, 8), "validation": (9,)}.get(split, (2, 7))
    bottom = HEAD_BOTTOM if split == "heads" else LEVELS[0]
    return tuple(z for k, z in enumerate(LEVELS) if k % 10 in role and z >= bottom)


def prepare_phantom(
    output: Path,
    seed: int = 0,
    rough: bool = False,
    pd: bool = False,
    train: int = 396,
    test: int = 96,
    validation: int = 24,
    extra: Mapping[ExtraSplit, int] | None = None,
) -> dict[str, Path]:
    """Write a data set of simulated T2w (moving) and T1w (fixed) brain slices, with labels and true fields.

    The folder holds `train`, `validation` and `test` (and others on request), each with its images and lists of pairs,
    and a `dataset.json` that says how they were made. Moving and fixed image of a training pair are up to 3 mm apart;
    of any other pair they are one level under two deformations, with the true field between them. The same arguments
    give the same bytes; an image depends on the seed, its split and its number only.

    Args:
        output: The folder to write; it must not exist, or be empty. It appears whole.
        seed: Seed of everything random, at least 0.
        rough: Also write `rough`: as many pairs as `test`, at its levels, further apart, less smooth and noisier.
        pd: Also write a PDw image of every moving anatomy, and `pairs-pd.csv`: PDw to T1w.
        train: Training images of each modality.
        test: Test pairs.
        validation: Validation pairs.
        extra: Pairs of each extra test split to write, see `crossmorph.data.extra.write_extra`: `contrasts` (and lists
            of its own for each), `heads` (bone, fat, muscle and skin around the brain), `far` (far apart at the start).

    Returns:
        The path of each `pairs.csv` by name of the split; that of `contrasts`' `pairs-t2-t1.csv` by `contrasts-t2-t1`.

    Raises:
        InputError: If the folder is not empty or cannot be written, or a number is out of range.
    """
    counts: dict[BasicSplit, int] = {"train": train, "validation": validation, "test": test}
    if rough:
        counts["rough"] = test
    extra = extra or {}
    output = Path(output)
    _check_request(output, seed, (*counts.items(), *extra.items()))
    lists: dict[str, Path] = {split: Path(split, "pairs.csv") for split in counts}
    target = output.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            whole = Path(temporary) / "dataset"  # a new folder of its own: only its owner can read a temporary one
            for split, count in counts.items():
                _write_split(whole / split, split, count, seed, pd)
            for added, count in extra.items():
                for path in _write_extra(whole / added, added, count, seed):
                    lists[added + path.stem.removeprefix("pairs")] = path.relative_to(whole)
            description = json.dumps(_describe(seed, counts, extra, pd), indent=2) + "\n"
            (whole / "dataset.json").write_text(description, encoding="utf-8")
            whole.replace(target)
    except OSError as error:
        raise InputError(f"{output}: {error.strerror or error}; expected a folder that can be written") from error
    return {name: output / path for name, path in lists.items()}


def _check_request(output: Path, seed: int, counts: Iterable[tuple[Split, int]]) -> None:
    for name, number, least in (("seed", seed, 0), *((split, count, 1) for split, count in counts)):
        if number < least:
            raise InputError(f"{name} = {number}; expected at least {least}")
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder; expected a new folder")


def _levels(split: Split, count: int, seed: int) -> list[float]:
    """The level of each image: all of the split in random order, over and over."""
    order = _rng(seed, split).permutation(split_levels(split))
    return [float(order[index % len(order)]) for index in range(count)]


def _write_split(folder: Path, split: BasicSplit, count: int, seed: int, pd: bool) -> None:
    folder.mkdir(parents=True)
    levels = _levels(split, count, seed)
    for index, z_mm in enumerate(levels):
        u_moving = _write_anatomy(folder, split, index, "moving", z_mm, seed, pd)
        u_fixed = _write_anatomy(folder, split, index, "fixed", z_mm, seed, pd)
        if split != "train":
            write_field(folder / f"{index:04d}_field.nii.gz", true_field(u_moving, u_fixed), slice_affine(z_mm))
    numbers = _training_pairs(levels, seed) if split == "train" else [(index, index) for index in range(count)]
    lists: dict[str, Modality] = {"pairs.csv": "t2", "pairs-pd.csv": "pd"} if pd else {"pairs.csv": "t2"}
    for name, modality in lists.items():
        write_pairs(folder / name, [_pair(folder, split, moving, fixed, modality) for moving, fixed in numbers])


def _write_extra(folder: Path, split: ExtraSplit, count: int, seed: int) -> list[Path]:
    folder.mkdir(parents=True)
    slices = [Slice(tissue_slice(z_mm), slice_affine(z_mm)) for z_mm in _levels(split, count, seed)]
    return write_extra(split, folder, slices, partial(_rng, seed, split))


def _write_anatomy(
    folder: Path, split: BasicSplit, index: int, role: Literal["moving", "fixed"], z_mm: float, seed: int, pd: bool
) -> np.ndarray:
    """Write the images and labels of one deformed slice; returns its displacement."""
    difficulty = ROUGH if split == "rough" else SMOOTH
    u = random_deformation(_rng(seed, split, index, role), SHAPE, difficulty)
    fractions, affine = warp_fractions(tissue_slice(z_mm), u), slice_affine(z_mm)
    stem = f"{index:04d}_{role}"
    # The moving anatomy as T1w is for measuring only, so training has none.
    modalities: tuple[Modality, ...] = ("t1",) if role == "fixed" else ("t2",) if split == "train" else ("t2", "t1")
    for modality in (*modalities, "pd") if pd and role == "moving" else modalities:
        image = simulate(fractions, modality, _rng(seed, split, index, role, modality), difficulty)
        write_intensities(folder / f"{stem}_{modality}.nii.gz", image, affine)
    write_labels(folder / f"{stem}_labels.nii.gz", tissue_labels(fractions), affine)
    return u


def _training_pairs(levels: list[float], seed: int) -> list[tuple[int, int]]:
    """Every moving image with a few random fixed images of its level or one nearby, by number."""
    pairs = []
    for moving, z_mm in enumerate(levels):
        near = np.flatnonzero(np.abs(np.array(levels) - z_mm) <= PARTNER_DISTANCE)
        chosen = _rng(seed, "train", moving, "partners").choice(near, min(PARTNERS, len(near)), replace=False)
        pairs += [(moving, int(fixed)) for fixed in np.sort(chosen)]
    return pairs


def _pair(folder: Path, split: BasicSplit, moving: int, fixed: int, modality: Modality) -> Pair:
    known = split != "train"
    return Pair(
        name=f"{split}-{moving:04d}" if known else f"{split}-{moving:04d}-{fixed:04d}",
        moving=folder / f"{moving:04d}_moving_{modality}.nii.gz",
        fixed=folder / f"{fixed:04d}_fixed_t1.nii.gz",
        moving_labels=folder / f"{moving:04d}_moving_labels.nii.gz",
        fixed_labels=folder / f"{fixed:04d}_fixed_labels.nii.gz",
        moving_same=folder / f"{moving:04d}_moving_t1.nii.gz" if known else None,
        field=folder / f"{moving:04d}_field.nii.gz" if known else None,
    )


def _rng(seed: int, *key: str | int) -> np.random.Generator:
    """An independent stream for each key, so nothing depends on how much was drawn before."""
    numbers = tuple(part if isinstance(part, int) else _KEYS.index(part) for part in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=numbers))


def _describe(
    seed: int, counts: Mapping[BasicSplit, int], extra: Mapping[ExtraSplit, int], pd: bool
) -> dict[str, object]:
    settings: dict[Split, dict[str, object]] = {
        split: asdict(ROUGH if split == "rough" else SMOOTH) for split in counts
    }
    settings |= {split: describe_extra(split) for split in extra}
    return {
        "name": "phantom",
        "source": "ICBM 2009a nonlinear symmetric grey and white matter maps, as shipped with nilearn",
        "seed": seed,
        "modalities": ["t2", "t1", "pd"] if pd else ["t2", "t1"],
        "shape": SHAPE,
        "spacing_mm": SPACING,
        "labels": {"0": "background", **{str(k): tissue for k, tissue in enumerate(TISSUES, start=1)}},
        "splits": {
            split: {"count": count, "levels_mm": split_levels(split), **settings[split]}
            for split, count in (*counts.items(), *extra.items())
        },
        "versions": {package: importlib.metadata.version(package) for package in ("nilearn", "numpy", "scipy")},
    }
