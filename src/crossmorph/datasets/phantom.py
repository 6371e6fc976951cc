"""The phantom: simulated brain slices in several modalities whose true deformations are known.

The tissue maps are those of the ICBM 2009a symmetric template (grey and white matter), which ship inside `nilearn`:
nothing is downloaded. Every image is one axial slice of them under its own random shift, rotation, scaling and smooth
deformation, acquired as `crossmorph.simulation.mri` simulates. A slice is an array (x, y) of 1.5 mm voxels in the
template's RAS millimetres.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from crossmorph.datasets.pairs import write_pairs
from crossmorph.datasets.sampling import generator, training_pairs
from crossmorph.datasets.test_splits import ExtraSplit, Slice, describe_extra, write_extra
from crossmorph.datasets.writing import (
    check_numbers,
    new_dataset,
    slice_pair,
    write_field,
    write_intensities,
    write_labels,
)
from crossmorph.simulation.anatomy import SHAPE, SPACING, slice_affine, split_levels, tissue_slice
from crossmorph.simulation.deformation import ROUGH, SMOOTH, Difficulty, random_deformation, true_field, warp_fractions
from crossmorph.simulation.mri import TISSUES, Modality, simulate, tissue_labels
from crossmorph.system.progress import tracked

BasicSplit = Literal["train", "validation", "test", "rough"]
Split = Literal[BasicSplit, ExtraSplit]

# --- data set --------------------------------------------------------------------------------------------------------


def prepare_phantom(
    output: Path,
    seed: int = 0,
    rough: bool = False,
    pd: bool = False,
    train: int = 396,
    test: int = 96,
    validation: int = 24,
    extra: Mapping[ExtraSplit, int] | None = None,
    noise: float | None = None,
) -> dict[str, Path]:
    """Write a data set of simulated T2w (moving) and T1w (fixed) brain slices, with labels and true fields.

    The folder holds `train`, `validation` and `test` (and others on request), each with its images and lists of pairs,
    and a `dataset.json` with all settings. Moving and fixed image of a training pair are up to 3 mm apart;
    of any other pair they are one level under two deformations, with the true field between them. The same arguments
    give the same bytes; an image depends on the seed, its split and its number only.

    Args:
        output: The folder to write; it must not exist, or be empty. It appears complete.
        seed: Seed of everything random, at least 0.
        rough: Also write `rough`: as many pairs as `test`, at its levels, further apart, less smooth and noisier.
        pd: Also write a PDw image of every moving anatomy, and `pairs-pd.csv`: PDw to T1w.
        train: Training images of each modality.
        test: Test pairs.
        validation: Validation pairs.
        extra: Pairs of each extra test split to write, see `crossmorph.datasets.test_splits.write_extra`: `contrasts`
            (and lists of its own for each), `heads` (bone, fat, muscle and skin around the brain), `far` (large initial
            misalignment).
        noise: Of training, validation, test and `rough` images, relative to the reference tissue's signal, instead of
            each split's own; anatomy, deformation and bias field do not change.

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
    check_numbers(seed, (*counts.items(), *extra.items()))
    difficulties = {split: ROUGH if split == "rough" else SMOOTH for split in counts}
    if noise is not None:
        difficulties = {split: replace(difficulty, noise=noise) for split, difficulty in difficulties.items()}
    lists: dict[str, Path] = {split: Path(split, "pairs.csv") for split in counts}
    with new_dataset(output) as folder:
        for split, count in counts.items():
            _write_split(folder / split, split, count, seed, pd, difficulties[split])
        for added, count in extra.items():
            for path in _write_extra(folder / added, added, count, seed):
                lists[added + path.stem.removeprefix("pairs")] = path.relative_to(folder)
        description = json.dumps(_describe(seed, counts, difficulties, extra, pd), indent=2) + "\n"
        (folder / "dataset.json").write_text(description, encoding="utf-8")
    return {name: output / path for name, path in lists.items()}


def _levels(split: Split, count: int, seed: int) -> list[float]:
    """The level of each image: all levels of the split in random order, repeated."""
    order = generator(seed, split).permutation(split_levels(split))
    return [float(order[index % len(order)]) for index in range(count)]


def _write_split(folder: Path, split: BasicSplit, count: int, seed: int, pd: bool, difficulty: Difficulty) -> None:
    folder.mkdir(parents=True)
    levels = _levels(split, count, seed)
    for index, z_mm in tracked(list(enumerate(levels)), split):
        u_moving = _write_anatomy(folder, split, index, "moving", z_mm, seed, pd, difficulty)
        u_fixed = _write_anatomy(folder, split, index, "fixed", z_mm, seed, pd, difficulty)
        if split != "train":
            write_field(folder / f"{index:04d}_field.nii.gz", true_field(u_moving, u_fixed), slice_affine(z_mm))
    numbers = [(index, index) for index in range(count)]
    if split == "train":
        numbers = training_pairs(levels, lambda moving: generator(seed, "train", moving, "partners"))
    lists: dict[str, Modality] = {"pairs.csv": "t2", "pairs-pd.csv": "pd"} if pd else {"pairs.csv": "t2"}
    for name, modality in lists.items():
        write_pairs(folder / name, [slice_pair(folder, split, moving, fixed, modality) for moving, fixed in numbers])


def _write_extra(folder: Path, split: ExtraSplit, count: int, seed: int) -> list[Path]:
    folder.mkdir(parents=True)
    slices = [Slice(tissue_slice(z_mm), slice_affine(z_mm)) for z_mm in _levels(split, count, seed)]
    return write_extra(split, folder, slices, partial(generator, seed, split))


def _write_anatomy(
    folder: Path,
    split: BasicSplit,
    index: int,
    role: Literal["moving", "fixed"],
    z_mm: float,
    seed: int,
    pd: bool,
    difficulty: Difficulty,
) -> np.ndarray:
    """Write the images and labels of one deformed slice; returns its displacement."""
    u = random_deformation(generator(seed, split, index, role), SHAPE, difficulty)
    fractions, affine = warp_fractions(tissue_slice(z_mm), u), slice_affine(z_mm)
    stem = f"{index:04d}_{role}"
    # The moving anatomy as T1w is for evaluation only, so training has none.
    modalities: tuple[Modality, ...] = ("t1",) if role == "fixed" else ("t2",) if split == "train" else ("t2", "t1")
    for modality in (*modalities, "pd") if pd and role == "moving" else modalities:
        image = simulate(fractions, modality, generator(seed, split, index, role, modality), difficulty)
        write_intensities(folder / f"{stem}_{modality}.nii.gz", image, affine)
    write_labels(folder / f"{stem}_labels.nii.gz", tissue_labels(fractions), affine)
    return u


def _describe(
    seed: int,
    counts: Mapping[BasicSplit, int],
    difficulties: Mapping[BasicSplit, Difficulty],
    extra: Mapping[ExtraSplit, int],
    pd: bool,
) -> dict[str, object]:
    settings: dict[Split, dict[str, object]] = {split: asdict(found) for split, found in difficulties.items()}
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
