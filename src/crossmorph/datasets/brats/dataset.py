"""BraTS: slices of T2w (moving) and native T1w (fixed) volumes of different subjects.

The images of a case are already aligned, and all cases are in one atlas space: one subject's slice is registered to
another's, at the same height in the brain. No field is known between two subjects. Slices are arrays (x, y) with axes
to the right and to the front, whatever the axes of the file, in the file's RAS millimetres.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from crossmorph.datasets.brats.files import Case, check_grids, find_cases
from crossmorph.datasets.pairs import Pair, write_pairs
from crossmorph.datasets.sampling import PARTNERS, generator
from crossmorph.datasets.writing import check_numbers, new_dataset, write_intensities, write_labels
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.system.progress import tracked, working

Split = Literal["train", "validation", "test"]
Role = Literal["moving", "fixed"]

SHAPE = (176, 176)  # the paper's crop
# Of the slices, relative to the brain, from its lowest to its highest voxel: from above the orbits to the centrum
# semiovale, where a slice is mostly brain.
HEIGHTS = (0.30, 0.85)
MOST_SLICES = 40  # of a subject as moving, and as many as fixed image; of a brain 140 mm high they are 2 mm apart
BRIGHTEST = 99.5  # percentile of the brain that becomes 1
SPECK = 0.01  # a plane with less brain than this part of the fullest one's counts as empty

_STREAM = 240  # first key of every random stream, different from all other data sets' keys


class Planned(NamedTuple):
    """One image number of a split: the subjects of its moving and its fixed image, by number, and their height."""

    moving: int
    fixed: int
    height: float


class Slot(NamedTuple):
    """A slice to write: where to, as which image, and at what height."""

    folder: Path
    number: int
    role: Role
    height: float


class Anatomy(NamedTuple):
    """A case in memory: T1w and T2w in [0, 1] and the mask, axes to the right, front and top, and the affine."""

    t1: Float[np.ndarray, "x y z"]
    t2: Float[np.ndarray, "x y z"]
    tumour: Int[np.ndarray, "x y z"] | None
    affine: Float[np.ndarray, "4 4"]
    brain: Bool[np.ndarray, "x y z"]


def prepare_brats(
    source: Path, output: Path, seed: int = 0, train: int = 1416, test: int = 294, validation: int = 24
) -> dict[str, Path]:
    """Write a data set of T2w (moving) and T1w (fixed) slices of BraTS, subject to subject.

    The folder holds `train`, `validation` and `test`, each with its images and a `pairs.csv`, and a `dataset.json` with
    their source. Subjects are assigned to the splits at random, in proportion to the counts, at least two
    to each; of a subject of several visits the first is used. A split takes as many slices of each of its subjects as
    its count needs, evenly from the middle of the brain; the slices of a pair are at one height relative to the brain.
    In training every moving image has a few partners. Volumes are divided by percentile 99.5 of the brain and clipped
    to [0, 1], with background 0; slices are cut to 176x176 voxels about the brain, or padded with zeros. Beside the
    images of a case with a mask lie `NNNN_moving_tumour.nii.gz` and `NNNN_fixed_tumour.nii.gz`, with the case's labels.

    Args:
        source: A folder with cases of one year, at any depth, see `crossmorph.datasets.brats.files`.
        output: The folder to write; it must not exist, or be empty. It appears complete.
        seed: Seed of everything random, at least 0.
        train: Training images of each modality.
        test: Test pairs.
        validation: Validation pairs.

    Returns:
        The path of each `pairs.csv` by name of the split.

    Raises:
        InputError: If the output is not empty or cannot be written, a number is out of range or more than the subjects
            provide, or the source cannot be used: no cases, a missing image, two with one name, a truncated file,
            images of a case on different grids, a volume without a brain.
    """
    counts: dict[Split, int] = {"train": train, "validation": validation, "test": test}
    source, output = Path(source), Path(output)
    check_numbers(seed, counts.items())
    with new_dataset(output) as folder:
        with working("looking through the cases"):
            family, cases = find_cases(source)
            check_grids(cases)
        members = deal_subjects(source, len(cases), counts, seed)
        slots: dict[int, list[Slot]] = {}
        for split, count in counts.items():
            (folder / split).mkdir()
            plan = plan_split(members[split], count, generator(seed, _STREAM, split))
            for index, planned in enumerate(plan):
                for role in ("moving", "fixed"):
                    slot = Slot(folder / split, index, role, planned.height)
                    slots.setdefault(getattr(planned, role), []).append(slot)
            pairs = [_pair(folder / split, *numbers) for numbers in _numbers(split, plan, seed)]
            write_pairs(folder / split / "pairs.csv", pairs)
        for case, wanted in tracked(sorted(slots.items()), "cases"):
            _write_case(cases[case], wanted)
        description = _describe(family, seed, counts, {split: [cases[k] for k in members[split]] for split in members})
        (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return {split: output / split / "pairs.csv" for split in counts}


def _describe(family: str, seed: int, counts: dict[Split, int], members: dict[Split, list[Case]]) -> dict[str, object]:
    return {
        "name": "brats",
        "source": f"BraTS, cases named as in {family.removeprefix('brats')}",
        "seed": seed,
        "modalities": ["t2", "t1"],
        "shape": SHAPE,
        "heights": HEIGHTS,
        "splits": {
            split: {"count": count, "cases": [case.name for case in members[split]]} for split, count in counts.items()
        },
    }


# --- subjects and slices ---------------------------------------------------------------------------------------------


def deal_subjects(source: Path, subjects: int, counts: dict[Split, int], seed: int) -> dict[Split, list[int]]:
    """Assign subjects, by number, to the splits: at random, in proportion to the counts, at least two to each.

    Raises:
        InputError: If there are fewer than six, or too few for a count.
    """
    if subjects < 2 * len(counts):
        raise InputError(
            f"{source}: {subjects} subjects; expected at least {2 * len(counts)}, two for each of {', '.join(counts)}"
        )
    total = sum(counts.values())
    small: dict[Split, int] = {
        split: max(2, round(subjects * count / total)) for split, count in counts.items() if split != "train"
    }
    sizes: dict[Split, int] = {"train": max(2, subjects - sum(small.values())), **small}
    while sum(sizes.values()) > subjects:
        sizes[max(sizes, key=lambda split: sizes[split])] -= 1
    short = [split for split, count in counts.items() if count > MOST_SLICES * sizes[split]]
    if short:
        possible = ", ".join(f"{split} {MOST_SLICES * sizes[split]}" for split in counts)
        received = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(
            f"{source}: {subjects} subjects are too few for {received}; possible with {MOST_SLICES} slices a subject: "
            f"{possible}"
        )
    order = generator(seed, _STREAM, "partners").permutation(subjects).tolist()
    ends = np.cumsum([sizes[split] for split in counts]).tolist()
    return {split: sorted(order[end - sizes[split] : end]) for split, end in zip(counts, ends, strict=True)}


def plan_split(subjects: Sequence[int], count: int, rng: np.random.Generator) -> list[Planned]:
    """Choose pairs of different subjects at one height; no slice occurs twice as moving or as fixed image.

    All subjects in random order at one height, each with the one a few places further on; then at the next height.

    Args:
        subjects: At least two.
        count: Pairs, at most `MOST_SLICES` a subject.
        rng: Source of randomness.
    """
    rounds = -(-count // len(subjects))
    middles = (np.arange(rounds) + 0.5) / rounds
    heights = rng.permutation(HEIGHTS[0] + (HEIGHTS[1] - HEIGHTS[0]) * middles)
    plan = []
    for height in heights:
        order = rng.permutation(subjects)
        fixed = np.roll(order, -rng.integers(1, len(subjects)))
        plan += [Planned(int(one), int(other), float(height)) for one, other in zip(order, fixed, strict=True)]
    return plan[:count]


def _numbers(split: Split, plan: list[Planned], seed: int) -> list[tuple[int, int]]:
    """The pairs by number of the moving and the fixed image; in training with more partners of the same height."""
    if split != "train":
        return [(index, index) for index in range(len(plan))]
    pairs = []
    for index, planned in enumerate(plan):
        others = [
            k
            for k, other in enumerate(plan)
            if other.height == planned.height and other.fixed != planned.moving and k != index
        ]
        rng = generator(seed, _STREAM, "train", index, "partners")
        more = rng.choice(others, min(PARTNERS - 1, len(others)), replace=False).tolist() if others else []
        pairs += [(index, k) for k in sorted([index, *more])]
    return pairs


def _pair(folder: Path, moving: int, fixed: int) -> Pair:
    known = folder.name != "train"
    return Pair(
        name=f"{folder.name}-{moving:04d}" if known else f"{folder.name}-{moving:04d}-{fixed:04d}",
        moving=folder / f"{moving:04d}_moving_t2.nii.gz",
        fixed=folder / f"{fixed:04d}_fixed_t1.nii.gz",
        moving_same=folder / f"{moving:04d}_moving_t1.nii.gz" if known else None,
    )


# --- volumes ---------------------------------------------------------------------------------------------------------


def _write_case(case: Case, slots: list[Slot]) -> None:
    """Write all slices of a case."""
    anatomy = read_anatomy(case)
    corner, (bottom, top) = _frame(anatomy.brain)
    levels = {height: round(bottom + height * (top - bottom)) for height in {slot.height for slot in slots}}
    if len(set(levels.values())) < len(levels):
        raise InputError(
            f"{case.t1}: its brain is {top - bottom + 1} slices high, too few for {len(levels)} different ones; "
            "expected fewer images or more subjects"
        )
    for folder, number, role, height in slots:
        start = (*corner, levels[height])
        affine = anatomy.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        stem = f"{folder / f'{number:04d}'}_{role}"
        # The moving subject as T1w is for evaluation only, so training has none.
        kinds = ("t1",) if role == "fixed" else ("t2",) if folder.name == "train" else ("t2", "t1")
        for kind in kinds:
            write_intensities(Path(f"{stem}_{kind}.nii.gz"), _cut(getattr(anatomy, kind), start), affine)
        if anatomy.tumour is not None:
            write_labels(Path(f"{stem}_tumour.nii.gz"), _cut(anatomy.tumour, start).astype(np.uint8), affine)


def read_anatomy(case: Case) -> Anatomy:
    """Read a case, axes to the right, the front and the top.

    Raises:
        InputError: A file cannot be used, its voxels have other directions or sizes than those of the T1w, or there is
            no brain.
    """
    first = _upright(read_image(case.t1))
    volumes = [first]
    for path in (case.t2, case.tumour):
        if path:
            volume = _upright(read_image(path, labels=path is case.tumour))
            if not np.allclose(volume.affine[:3, :3], first.affine[:3, :3], atol=1e-3):
                raise InputError(f"{path}: its voxels have other axes or sizes than {case.t1}; expected the same")
            volumes.append(volume)
    brain = (volumes[0].data > 0) & (volumes[1].data > 0)
    if not brain.any():
        raise InputError(f"{case.t1}: no brain, where it and {case.t2} are above 0; expected a skull-stripped volume")
    t1, t2 = (_normalised(volume.data, brain) for volume in volumes[:2])
    return Anatomy(t1, t2, volumes[2].data if case.tumour else None, first.affine, brain)


def _upright(image: Image) -> Image:
    """The volume with its axes permuted and flipped to run to the right, the front and the top."""
    turn = nibabel.orientations.io_orientation(image.affine)
    data = nibabel.orientations.apply_orientation(image.data, turn)
    return Image(data, image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.shape))


def _normalised(volume: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Background 0, percentile 99.5 of the brain 1."""
    return np.clip(volume / np.percentile(volume[brain], BRIGHTEST), 0, 1).astype(np.float32)


def _frame(brain: Bool[np.ndarray, "x y z"]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first voxel of the crop along x and y, and the brain's lowest and highest slice."""
    ends = []
    for axis in range(3):
        filled = brain.sum(tuple({0, 1, 2} - {axis}))
        occupied = np.flatnonzero(filled >= SPECK * filled.max())
        ends.append((int(occupied[0]), int(occupied[-1])))
    x, y = ((low + high + 1 - size) // 2 for (low, high), size in zip(ends, SHAPE, strict=False))
    return (x, y), ends[2]


def _cut(volume: Shaped[np.ndarray, "x y z"], start: tuple[int, int, int]) -> Shaped[np.ndarray, "width height"]:
    """The slice at a level, from a corner on; zeros where it leaves the volume."""
    plane = volume[:, :, start[2]]
    cut = np.zeros(SHAPE, plane.dtype)
    inside = [
        slice(max(first, 0), max(min(first + size, there), 0))
        for first, size, there in zip(start, SHAPE, plane.shape, strict=False)
    ]
    target = [slice(part.start - first, part.stop - first) for part, first in zip(inside, start, strict=False)]
    cut[tuple(target)] = plane[tuple(inside)]
    return cut
