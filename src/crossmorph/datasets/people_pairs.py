"""Pairs of people with labels, to validate and test on: simulated images of one person each, written as files.

Both people of a pair come from maps of one kind, so that their labels mean the same; what they have in common is
labelled, by the codes of the set of label maps. No true deformation between two people is known.
"""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from crossmorph.datasets.anatomies import Person, PersonSplit
from crossmorph.datasets.label_maps import Anatomy, Cohort, codes_at, distances_at, load_anatomy, load_cohort, look_up
from crossmorph.datasets.pairs import Pair, write_pairs
from crossmorph.datasets.people_images import random_table, textured, tissue_signals
from crossmorph.datasets.writing import new_dataset, write_intensities, write_labels
from crossmorph.errors import InputError
from crossmorph.simulation.drawing import biased, noisy
from crossmorph.simulation.tissue_signals import Sequence_
from crossmorph.system.files import brief
from crossmorph.system.progress import tracked

AROUND = 10.0  # mm of air around what is shown
MARGIN = 3.0  # mm around grey and white matter that are left of a brain shown alone
SLAB = 16  # voxels along the first axis that are looked up at once, for the memory's sake
NOISE, BIAS, TEXTURE, UNCERTAIN = 0.03, 0.2, 0.05, 0.06  # of the brightest tissue; of the signals


class PairsSpec(BaseModel):
    """What to write.

    Attributes:
        split: whose people.
        pairs: how many; None: as many as there are people, each once moving and once fixed.
        spacing: mm.
        show: ``heads``: only people whose whole head is labelled; ``brains``: everybody, without what is outside the
            brain; ``all``: everybody as labelled.
        aligned: whether people are laid over each other by their affine maps, as after an affine start; else each is
            where the scanner had them.
        moving: sequence of the moving images.
        fixed: sequence of the fixed images.
        seed: of the order of people, signals and noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    split: PersonSplit = "validation"
    pairs: int | None = Field(default=None, ge=1)
    spacing: float = Field(default=2.0, ge=0.8, le=4)
    show: Literal["all", "heads", "brains"] = "all"
    aligned: bool = False
    moving: Sequence_ = "t2"
    fixed: Sequence_ = "t1"
    seed: int = Field(default=0, ge=0)


class Shown(NamedTuple):
    """A person on a grid: codes at its voxels, and for each voxel the points of the common space behind it."""

    anatomy: Anatomy
    affine: Float[ndarray, "4 4"]
    shape: tuple[int, ...]
    to_common: Float[Tensor, "4 4"]


def pairs_spec(**choices: Any) -> PairsSpec:
    """A :class:`PairsSpec`; a choice that it does not take is an ``InputError`` that names it."""
    try:
        return PairsSpec(**choices)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{name}: {first['msg']} (received {brief(repr(first['input']))})") from error


def prepare_people(anatomies: Path, output: Path, spec: PairsSpec) -> Path:
    """Write pairs of people: images, labels of the structures that both have, and ``pairs.csv``.

    Returns:
        The path of the list.

    Raises:
        InputError: no set of label maps, nobody to pair, or a folder that cannot be written.
    """
    cohort = load_cohort(anatomies, spec.split)
    numbers = _paired(cohort.people, spec)
    with new_dataset(output) as folder:
        pairs = [
            _write_pair(folder, k, anatomies, cohort, pair, spec)
            for k, pair in tracked(list(enumerate(numbers)), "pairs")
        ]
        write_pairs(folder / "pairs.csv", pairs)
        description = json.dumps(_describe(cohort, spec, len(pairs)), indent=1) + "\n"
        (folder / "dataset.json").write_text(description, encoding="utf-8")
    return output / "pairs.csv"


def _paired(people: Sequence[Person], spec: PairsSpec) -> list[tuple[int, int]]:
    """Numbers of the moving and the fixed person of each pair, both of one kind of maps, kinds taking turns."""
    order = np.random.default_rng([spec.seed, 5]).permutation(len(people))
    kinds: dict[str, list[int]] = {}
    for number in map(int, order):
        if people[number].whole or spec.show != "heads":
            kinds.setdefault(people[number].kind, []).append(number)
    rounds = []
    for members in kinds.values():
        count = len(members)
        turned = [(members[k], members[(k + by) % count]) for by in range(1, count) for k in range(count)]
        rounds.append([pair for pair in turned if people[pair[0]].person != people[pair[1]].person])
    wanted = spec.pairs or sum(len(members) for members in kinds.values() if len(members) > 1)
    longest = max((len(pairs) for pairs in rounds), default=0)
    mixed = (pairs[k] for k in range(longest) for pairs in rounds if k < len(pairs))
    chosen = list(islice(mixed, wanted))
    if not chosen:
        raise InputError(f"nobody to pair in the split {spec.split}; expected two people of one kind of label maps")
    return chosen


def _write_pair(
    folder: Path, index: int, anatomies: Path, cohort: Cohort, numbers: tuple[int, int], spec: PairsSpec
) -> Pair:
    shown = [_shown(load_anatomy(anatomies, spec.split, number), cohort, spec) for number in numbers]
    counted = cohort.members.any(0).numpy()
    common = set(shown[0].anatomy.person.codes) & set(shown[1].anatomy.person.codes)
    counted &= np.isin(np.arange(len(counted)), list(common))
    stem = f"{index:04d}"
    files = {}
    wanted = (("moving", spec.moving), ("fixed", spec.fixed), ("moving_same", spec.fixed))
    for part, (role, sequence) in enumerate(wanted):
        each = shown[role == "fixed"]
        rng = np.random.default_rng([spec.seed, 6, index, part])
        files[role] = folder / f"{stem}_{role}_{sequence}.nii.gz"
        write_intensities(files[role], _acquired(each, cohort, rng, sequence, spec.show == "brains"), each.affine)
        if role != "moving_same":
            codes = _codes(each)
            files[f"{role}_labels"] = folder / f"{stem}_{role}_labels.nii.gz"
            write_labels(files[f"{role}_labels"], codes * counted[codes], each.affine)
    names = [each.anatomy.person.name for each in shown]
    return Pair(name=f"{names[0]}-{names[1]}", **files)


def _shown(anatomy: Anatomy, cohort: Cohort, spec: PairsSpec) -> Shown:
    """A grid around what is shown of a person, axes right, anterior, superior of the scanner or of the common space."""
    codes = anatomy.codes.numpy()
    brain = cohort.tissues.any(0).numpy()
    inside = np.argwhere(brain[codes] if spec.show == "brains" else codes > 0)
    to_common = np.linalg.inv(anatomy.to_codes.numpy().astype(float))  # of the map's voxels
    to_world = np.eye(4) if spec.aligned else np.linalg.inv(anatomy.person.to_common)
    world = nibabel.affines.apply_affine(to_world @ to_common, inside[:: max(1, len(inside) // 200_000)])
    low, high = world.min(0) - AROUND, world.max(0) + AROUND
    affine = np.diag([*[spec.spacing] * 3, 1.0])
    affine[:3, 3] = low
    shape = tuple(int(size) for size in np.ceil((high - low) / spec.spacing))
    return Shown(anatomy, affine, shape, torch.tensor(np.linalg.inv(to_world) @ affine, dtype=torch.float32))


def _points(shown: Shown, start: int, stop: int) -> Float[Tensor, "3 *space"]:
    """Points of the common space behind voxels ``start`` to ``stop - 1`` of the first axis."""
    ends = ((start, stop), *((0, size) for size in shown.shape[1:]))
    ranges = [torch.arange(low, high, dtype=torch.float32) for low, high in ends]
    grid = torch.stack(torch.meshgrid(*ranges, indexing="ij"))
    matrix = shown.to_common
    return torch.einsum("ij,j...->i...", matrix[:3, :3], grid) + matrix[:3, 3].view(3, 1, 1, 1)


def _codes(shown: Shown) -> UInt8[ndarray, "x y z"]:
    return codes_at(shown.anatomy, _points(shown, 0, shown.shape[0])).numpy()


def _acquired(
    shown: Shown, cohort: Cohort, rng: np.random.Generator, sequence: Sequence_, bare: bool
) -> Float[ndarray, "x y z"]:
    signals = random_table(rng, sequence, UNCERTAIN)
    slabs = []
    for start in range(0, shown.shape[0], SLAB):
        stop = min(start + SLAB, shown.shape[0])
        points = _points(shown, start, stop)
        parts = tissue_signals(cohort, look_up(shown.anatomy, points, shown.to_common[:3, :3].T), signals)
        if bare:
            parts = parts * (distances_at(shown.anatomy, points)[0] < MARGIN)
        slabs.append(parts)
    image = textured(rng, torch.cat(slabs, dim=1), TEXTURE)
    acquired: ndarray = noisy(rng, biased(rng, image, (BIAS, BIAS)), float(signals.max()), (NOISE, NOISE), 0.0).numpy()
    return acquired


def _describe(cohort: Cohort, spec: PairsSpec, count: int) -> dict[str, object]:
    return {
        "name": "people",
        "source": f"label maps of {len(cohort.people)} people, made by crossmorph prepare anatomies",
        "split": spec.split,
        "seed": spec.seed,
        "spacing_mm": spec.spacing,
        "show": spec.show,
        "aligned": spec.aligned,
        "pairs": count,
        "modalities": [spec.moving, spec.fixed],
        "labels": {"0": "background"}
        | {str(k): structure.name for k, structure in enumerate(cohort.anatomies.structures, start=1)},
    }
