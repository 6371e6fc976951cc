"""Label maps in memory, and looking them up: what stands where in a person, with all people laid over each other."""

from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from crossmorph.datasets.anatomies import Anatomies, Person, PersonSplit, load_anatomies, load_map
from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.simulation.tissue_signals import NAMES

FARTHEST = 40.0  # mm; beyond it a distance is held
DISTANCE_GRID = 2.0  # mm: that distances are measured on; every second voxel is kept
ELSEWHERE = ("lesion", "vessel")  # signals of what lies in another place in each person
VAGUE = ("csf", "outer csf", "inner csf", "grey matter", "white matter")  # no structures: tissues, or parts of them
FINENESS = 2  # parts of a voxel of an image along each axis, looked up each: their mean makes partial volumes
_PARTS = tuple((part + 0.5) / FINENESS - 0.5 for part in range(FINENESS))


class Distances(NamedTuple):
    """Distance outside grey and white matter, and outside the whole brain with its fluid, mm; and voxel to RAS mm."""

    values: Float[Tensor, "2 x y z"]
    affine: Float[ndarray, "4 4"]


class Anatomy(NamedTuple):
    """A person in memory: codes, and maps of the common space's millimetres to their voxels and to the distances'."""

    person: Person
    codes: UInt8[Tensor, "x y z"]
    to_codes: Float[Tensor, "4 4"]
    distances: Float[Tensor, "2 x y z"]
    to_distances: Float[Tensor, "4 4"]


class Cohort(NamedTuple):
    """The people of a split, and what their codes mean; rows and columns begin with code 0, air.

    Attributes:
        people: of the split.
        tissues: 1 where a code is CSF, grey matter, white matter, ``(3, codes)``.
        regions: names of structures, and of larger ones that they are parts of.
        members: 1 where a code belongs to a region, ``(regions, codes)``.
        signals: for each code the index of its signal in :data:`crossmorph.simulation.tissue_signals.NAMES`, of air one
            beyond.
    """

    anatomies: Anatomies
    people: tuple[Person, ...]
    tissues: Float[Tensor, "3 codes"]
    regions: tuple[str, ...]
    members: Float[Tensor, "regions codes"]
    signals: Int[Tensor, " codes"]


@cache
def load_cohort(folder: Path, split: PersonSplit) -> Cohort:
    """The people of a split.

    Raises:
        InputError: the folder holds no set of label maps, or nobody of the split.
    """
    anatomies = load_anatomies(folder)
    people = tuple(person for person in anatomies.people if person.split == split)
    if not people:
        raise InputError(f"{folder}: holds nobody of the split {split}; expected at least one person")
    structures = anatomies.structures
    tissues = torch.zeros(3, len(structures) + 1)
    signals = torch.full((len(structures) + 1,), len(NAMES))
    members: dict[str, Tensor] = {}
    for code, structure in enumerate(structures, start=1):
        signals[code] = NAMES.index(structure.signal)
        if structure.tissue == "head":
            continue
        tissues[("csf", "gm", "wm").index(structure.tissue), code] = 1
        for name in {structure.name, structure.whole} - {""}:
            if structure.signal not in ELSEWHERE and name not in VAGUE:
                members.setdefault(name, torch.zeros(len(structures) + 1))[code] = 1
    regions = tuple(sorted(members))
    return Cohort(anatomies, people, tissues, regions, torch.stack([members[name] for name in regions]), signals)


@cache
def load_anatomy(folder: Path, split: PersonSplit, number: int) -> Anatomy:
    """A person of a split, by number; read once and kept."""
    cohort = load_cohort(folder, split)
    person = cohort.people[number]
    codes, affine = load_map(cohort.anatomies, person)
    distances = _distances(codes, affine, cohort.tissues.numpy().astype(bool))
    to_person = np.linalg.inv(person.to_common)
    return Anatomy(
        person,
        torch.from_numpy(codes),
        torch.tensor(np.linalg.inv(affine) @ to_person, dtype=torch.float32),
        distances.values,
        torch.tensor(np.linalg.inv(distances.affine) @ to_person, dtype=torch.float32),
    )


def _distances(codes: ndarray, affine: ndarray, tissues: Bool[ndarray, "3 codes"]) -> Distances:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    step = np.maximum(1, np.rint(DISTANCE_GRID / spacing)).astype(int)
    thin = codes[tuple(slice(None, None, s) for s in step)]
    margin = np.ceil(FARTHEST / (spacing * step)).astype(int)
    thin = np.pad(thin, [(m, m) for m in margin])
    parenchyma = tissues[1] | tissues[2]
    brain = np.logical_or(parenchyma, tissues[0])
    values = []
    for chosen in (parenchyma, brain):
        outside = scipy.ndimage.distance_transform_edt(~chosen[thin], sampling=spacing * step)
        values.append(np.minimum(outside, FARTHEST)[::2, ::2, ::2].astype(np.float32))
    grid = np.diag([*2.0 * step, 1.0])
    grid[:3, 3] = -margin * step
    return Distances(torch.from_numpy(np.stack(values)), affine @ grid)


# --- looking up ------------------------------------------------------------------------------------------------------


def _apply(matrix: Float[Tensor, "4 4"], points: Float[Tensor, "3 *space"]) -> Float[Tensor, "3 *space"]:
    return torch.einsum("ij,j...->i...", matrix[:3, :3], points) + matrix[:3, 3].view(3, *[1] * (points.ndim - 1))


def look_up(
    anatomy: Anatomy, points: Float[Tensor, "3 *space"], steps: Float[Tensor, "dim 3"]
) -> UInt8[Tensor, "*space parts"]:
    """The codes that are nearest to the parts of an image's voxels, ``FINENESS`` along each of their axes.

    Args:
        anatomy: the person.
        points: the voxels' centres in the common space, mm; of two or three axes.
        steps: from one voxel to the next along each axis of the image, mm of the common space; where the image is
            deformed, the mean.
    """
    voxels = _apply(anatomy.to_codes, points)
    places = torch.tensor(list(product(_PARTS, repeat=len(steps)))) @ (steps @ anatomy.to_codes[:3, :3].T)
    return _nearest(anatomy, voxels.unsqueeze(-1) + places.T.view(3, *[1] * len(steps), -1))


def mean_steps(points: Float[Tensor, "3 *space"]) -> Float[Tensor, "dim 3"]:
    """From one point of a grid to the next along each axis, the mean over the grid."""
    steps = []
    for axis, size in enumerate(points.shape[1:], start=1):
        ends = points.narrow(axis, size - 1, 1) - points.narrow(axis, 0, 1)
        steps.append(ends.flatten(1).mean(1) / (size - 1))
    return torch.stack(steps)


def codes_at(anatomy: Anatomy, points: Float[Tensor, "3 *space"]) -> UInt8[Tensor, "*space"]:
    """The code that is nearest to points of the common space, mm; air outside the map."""
    return _nearest(anatomy, _apply(anatomy.to_codes, points))


def _nearest(anatomy: Anatomy, voxels: Float[Tensor, "3 *space"]) -> UInt8[Tensor, "*space"]:
    """The codes of the voxels nearest to coordinates; air outside."""
    nearest = voxels.round().int()
    inside = torch.ones(voxels.shape[1:], dtype=torch.bool)
    place = torch.zeros(voxels.shape[1:], dtype=torch.int32)
    for index, size in zip(nearest, anatomy.codes.shape, strict=True):
        inside &= (index >= 0) & (index < size)
        place = place.mul_(size).add_(index)
    found = anatomy.codes.view(-1).index_select(0, place.mul_(inside).view(-1)).view(inside.shape)
    return found * inside


def distances_at(anatomy: Anatomy, points: Float[Tensor, "3 *space"]) -> Float[Tensor, "2 *space"]:
    """Distance outside grey and white matter, and outside the brain with its fluid, at points of the common space."""
    voxels = _apply(anatomy.to_distances, points)
    sampled = spatial.sample(anatomy.distances[None], voxels.view(1, 3, *voxels.shape[1:], *[1] * (4 - voxels.ndim)))
    return sampled[0].view(2, *voxels.shape[1:])


def fractions(table: Float[Tensor, "rows codes"], codes: UInt8[Tensor, "*space parts"]) -> Float[Tensor, "rows *space"]:
    """What each row says of the codes, averaged over the parts of every voxel."""
    bags = codes.view(-1, codes.shape[-1]).int()
    means = F.embedding_bag(bags, table.T.contiguous(), mode="mean")
    return means.T.contiguous().view(len(table), *codes.shape[:-1])
