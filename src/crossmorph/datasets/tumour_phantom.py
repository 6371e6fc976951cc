"""The simulated substitute for BraTS: skull-stripped brain slices with tumours, subject to subject.

Every image is a subject of its own: one axial slice of the template (`crossmorph.simulation.anatomy`) under a random
smooth deformation, with its own bias field and noise, and without anything outside the brain. A subject may have a
tumour: a solid rim around necrosis, oedema that spreads through the white matter around it, and a mass effect that
pushes the tissue outwards. Tissue that a tumour has pushed aside has a known corresponding point in the other subject;
the tumour itself has none.

Frames: points and displacements are in voxels, component k along array axis k. A subject pulls back: the tissue at p is
the template's at `push(p + u(p))`, with u the subject's deformation and `push` the mass effect (`pushed`).
"""

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from crossmorph.datasets.pairs import write_pairs
from crossmorph.datasets.sampling import generator, training_pairs
from crossmorph.datasets.writing import (
    check_numbers,
    new_dataset,
    slice_pair,
    write_field,
    write_intensities,
    write_labels,
)
from crossmorph.simulation.anatomy import slice_affine, split_levels, tissue_slice
from crossmorph.simulation.deformation import Difficulty, random_deformation, true_field, warp_fractions
from crossmorph.simulation.lesions import (
    LESIONS,
    PUSH,
    RADIUS,
    Tumour,
    draw_tumour,
    grow,
    pushed,
    tumour_mask,
    unpushed,
)
from crossmorph.simulation.mri import REFERENCE, RELAXATION, TISSUES, bias_field, signal, tissue_labels
from crossmorph.system.progress import tracked

Split = Literal["train", "validation", "test"]
Role = Literal["moving", "fixed"]
Modality = Literal["t1", "t2"]

SHAPE = (176, 176)  # the paper's crop of BraTS
SPACING = 1.1  # mm; the template's 181 mm then leave a margin of 5 voxels, as brains do in that crop
BOTTOM = -15.0  # mm; the tumours are those of the cerebrum, and below lie the cerebellum and the temporal poles
MARGIN = 2  # voxels without tissue that every subject keeps from the edge of its image

# BraTS brains are in one atlas space, so they differ little in position, and mostly in anatomy.
SUBJECT = Difficulty(shift=3.0, rotation=5.0, scale=0.06, elastic_sigma=14.0, elastic_amplitude=(4.0, 8.0))

# Which of the two subjects of a validation or test pair has a tumour, and how often. In training, where an image has
# several partners, every second subject has one.
PLACES = {("moving",): 0.4, ("fixed",): 0.4, ("moving", "fixed"): 0.1, (): 0.1}

_STREAM = 176  # first key of every random stream, different from all other data sets' keys
_TUMOUR, _PLACES = range(2)


class Subject(NamedTuple):
    """A simulated subject at one level.

    Attributes:
        u: Its deformation without the mass effect, (2, x, y).
        tissue: Fractions of `TISSUES` as they would be without the tumour's own tissue, mass effect included.
        fractions: Fractions of `PARTS`.
        tumour: None in a subject without one.
    """

    u: np.ndarray
    tissue: np.ndarray
    fractions: np.ndarray
    tumour: Tumour | None


# --- data set --------------------------------------------------------------------------------------------------------


def prepare_tumours(
    output: Path, seed: int = 0, train: int = 1416, test: int = 294, validation: int = 24
) -> dict[str, Path]:
    """Write a data set of simulated T2w (moving) and T1w (fixed) brain slices of different subjects, with tumours.

    The folder holds `train`, `validation` and `test`, each with its images and a `pairs.csv`, and a `dataset.json` with
    all settings. No subject and no level is in two splits. The subjects of a training pair are up to 3 mm
    apart in level, with a few partners for each moving image; those of any other pair are at one level, with the true
    field between them. Beside every image of a subject with a tumour lies `NNNN_moving_tumour.nii.gz` or
    `NNNN_fixed_tumour.nii.gz`: 1 necrosis, 2 oedema, 3 solid tumour, as BraTS has it since 2023. The labels (1 CSF, 2
    grey, 3 white matter) are of the tissue as it would be without the tumour in its place, so that a tumour, which has
    no counterpart, does not enter an overlap. The same arguments give the same bytes; an image depends on the
    seed, its split and its number only.

    Args:
        output: The folder to write; it must not exist, or be empty. It appears complete.
        seed: Seed of everything random, at least 0.
        train: Training images of each modality.
        test: Test pairs.
        validation: Validation pairs.

    Returns:
        The path of each `pairs.csv` by name of the split.

    Raises:
        InputError: If the folder is not empty or cannot be written, or a number is out of range.
    """
    counts: dict[Split, int] = {"train": train, "validation": validation, "test": test}
    output = Path(output)
    check_numbers(seed, counts.items())
    with new_dataset(output) as folder:
        for split, count in counts.items():
            _write_split(folder / split, split, count, seed)
        (folder / "dataset.json").write_text(json.dumps(_describe(seed, counts), indent=2) + "\n", encoding="utf-8")
    return {split: output / split / "pairs.csv" for split in counts}


def levels_of(split: Split) -> tuple[float, ...]:
    """The axial levels (mm) of a split: those of the phantom's split of this name, from the cerebrum's base up."""
    return tuple(z for z in split_levels(split) if z >= BOTTOM)


def _write_split(folder: Path, split: Split, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    order = generator(seed, _STREAM, split).permutation(levels_of(split))
    levels = [float(order[index % len(order)]) for index in range(count)]
    for index, z_mm in tracked(list(enumerate(levels)), split):
        moving, fixed = draw_subjects(split, index, z_mm, seed)
        _write_subject(folder, split, index, "moving", moving, z_mm, seed)
        _write_subject(folder, split, index, "fixed", fixed, z_mm, seed)
        if split != "train":
            field = correspondence(moving, fixed)
            write_field(folder / f"{index:04d}_field.nii.gz", field, slice_affine(z_mm, SHAPE, SPACING))
    numbers = [(index, index) for index in range(count)]
    if split == "train":
        numbers = training_pairs(levels, lambda moving: generator(seed, _STREAM, "train", moving, "partners"))
    write_pairs(folder / "pairs.csv", [slice_pair(folder, split, *pair) for pair in numbers])


def _write_subject(
    folder: Path, split: Split, index: int, role: Role, subject: Subject, z_mm: float, seed: int
) -> None:
    affine = slice_affine(z_mm, SHAPE, SPACING)
    stem = folder / f"{index:04d}_{role}"
    # The moving subject as T1w is for evaluation only, so training has none.
    modalities: tuple[Modality, ...] = ("t1",) if role == "fixed" else ("t2",) if split == "train" else ("t2", "t1")
    for modality in modalities:
        image = acquire(subject, modality, generator(seed, _STREAM, split, index, role, modality))
        write_intensities(Path(f"{stem}_{modality}.nii.gz"), image, affine)
    write_labels(Path(f"{stem}_labels.nii.gz"), tissue_labels(subject.tissue), affine)
    if subject.tumour:
        write_labels(Path(f"{stem}_tumour.nii.gz"), tumour_mask(subject.fractions), affine)


def _describe(seed: int, counts: dict[Split, int]) -> dict[str, object]:
    return {
        "name": "tumours",
        "stands_for": "BraTS: no slice of it is in here, all images are simulated",
        "source": "ICBM 2009a nonlinear symmetric grey and white matter maps, as shipped with nilearn",
        "seed": seed,
        "modalities": ["t2", "t1"],
        "shape": SHAPE,
        "spacing_mm": SPACING,
        "labels": {"0": "background", **{str(k): tissue for k, tissue in enumerate(TISSUES, start=1)}},
        "tumour_labels": {str(k): part for k, part in enumerate(LESIONS, start=1)},
        "splits": {split: {"count": count, "levels_mm": levels_of(split)} for split, count in counts.items()},
        "tumours": {
            "radius_mm": RADIUS,
            "push": PUSH,
            "validation_and_test": {" and ".join(roles) or "none": part for roles, part in PLACES.items()},
            "train": 0.5,
        },
        **asdict(SUBJECT),
        "versions": {package: importlib.metadata.version(package) for package in ("nilearn", "numpy", "scipy")},
    }


# --- subjects --------------------------------------------------------------------------------------------------------


def draw_subjects(split: Split, index: int, z_mm: float, seed: int) -> tuple[Subject, Subject]:
    """The moving and the fixed subject of a number in a split; their tumours, if both have one, lie apart."""
    rng = generator(seed, _STREAM, split, index, "pair", _PLACES)
    with_tumour = _places(split, rng)
    fractions = tissue_slice(z_mm, SHAPE, SPACING)
    subjects: list[Subject] = []
    taken: Tumour | None = None
    for role in ("moving", "fixed"):
        own = generator(seed, _STREAM, split, index, role, _TUMOUR)
        tumour = draw_tumour(fractions, SPACING, own, taken) if role in with_tumour else None
        taken = tumour or taken
        subjects.append(draw_subject(fractions, tumour, generator(seed, _STREAM, split, index, role)))
    return subjects[0], subjects[1]


def _places(split: Split, rng: np.random.Generator) -> tuple[str, ...]:
    """The subjects, moving and fixed, that have a tumour."""
    if split == "train":
        return tuple(role for role in ("moving", "fixed") if rng.random() < 0.5)
    return tuple(PLACES)[rng.choice(len(PLACES), p=list(PLACES.values()))]


def draw_subject(
    fractions: Float[np.ndarray, "tissue x y"], tumour: Tumour | None, rng: np.random.Generator
) -> Subject:
    """Deform a slice of the template, without and with the tumour's mass effect, and grow the tumour.

    Args:
        fractions: Of the template, `TISSUES`.
        tumour: What to grow.
        rng: Of the deformation, drawn again until the brain lies inside the image, and of the tumour's texture.

    Returns:
        The subject. The Jacobian determinant of its pullback is above 0.3 without, and above 0.3 (1 - push)^2 with a
        tumour: nothing folds.
    """
    grid = np.indices(fractions.shape[1:])
    while True:
        u = random_deformation(rng, fractions.shape[1:], SUBJECT)
        at = grid + u
        tissue = warp_fractions(fractions, (pushed(at, tumour) if tumour else at) - grid)
        brain = tissue.sum(0) > 0.5
        brain[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
        if not brain.any():
            break
    parts = np.concatenate([tissue, np.zeros((len(LESIONS), *tissue.shape[1:]))])
    return Subject(u, tissue, grow(parts, at, tumour, rng) if tumour else parts, tumour)


def correspondence(moving: Subject, fixed: Subject) -> Float[np.ndarray, "2 x y"]:
    """The displacement u, on the fixed grid, that takes every point to the same point of the template: voxels.

    With q = p + u(p): `push_m(q + u_m(q)) = push_f(p + u_f(p))`. Inside a tumour it is where the tissue that the tumour
    has pushed aside would be found.
    """
    grid = np.indices(moving.u.shape[1:])
    at = grid + fixed.u
    if fixed.tumour:
        at = pushed(at, fixed.tumour)
    if moving.tumour:
        at = unpushed(at, moving.tumour)
    return true_field(moving.u, at - grid)


# --- images ----------------------------------------------------------------------------------------------------------


def acquire(subject: Subject, modality: Modality, rng: np.random.Generator) -> Float[np.ndarray, "x y"]:
    """Acquire a skull-stripped image of a subject: zero where the brain is less than half of a voxel.

    The sequences, the scale, the bias field and the noise are the phantom's (`crossmorph.simulation.mri`): the
    brightest normal tissue of the brain has the signal 1.

    Args:
        subject: The anatomy.
        modality: What to acquire.
        rng: Source of the bias field and the noise.

    Returns:
        The image, float32, at least 0.
    """
    tissues = [*(RELAXATION[tissue] for tissue in TISSUES), *(subject.tumour.tissues if subject.tumour else ())]
    signals = np.array([signal(tissue, modality) for tissue in tissues])
    signals /= signals[: len(TISSUES)].max()
    brain = subject.fractions.sum(0) > 0.5
    clean = np.tensordot(signals, subject.fractions[: len(signals)], axes=1) * bias_field(brain, rng, SUBJECT.bias)
    noise = SUBJECT.noise * signals[TISSUES.index(REFERENCE[modality])]
    real, imaginary = rng.standard_normal((2, *clean.shape)) * noise
    return np.asarray(np.hypot(clean + real, imaginary) * brain, np.float32)
