"""Pairs of people, from label maps of whole heads or of brains: one person under a known field, or two people.

The moving image shows a person under an affine map, the fixed image the same person under an elastic deformation as
well, so that the true field is known to the last digit. Where the two images show different people there is no true
field; how far structures lie apart then says whether they are registered. Signals, texture, slices and lesions are
those of training (:mod:`crossmorph.training.people`).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from crossmorph.datasets.label_maps import Anatomy, Cohort, codes_at, fractions, load_anatomy, load_cohort
from crossmorph.datasets.people_images import random_table
from crossmorph.images.image import Image
from crossmorph.quality.calibration.other_objects import replaced
from crossmorph.quality.calibration.simulated_pair import (
    CANNOT_BE_REGISTERED,
    LESIONS,
    RADIUS,
    Setting,
    SimulatedPair,
    chosen,
    with_lesion,
)
from crossmorph.simulation.deformation import affine_of
from crossmorph.simulation.drawing import Lattice, Placement, Range, random_displacement
from crossmorph.training.people import View, person_image, points_in, random_view, see
from crossmorph.training.people_spec import PeopleSpec
from crossmorph.training.synthesis import SynthesisSpec


class Apart(NamedTuple):
    """How far apart the images of a kind of pair are: the moving image's placement, the fixed one's elastic part."""

    placement: Placement
    strain: Range


NEAR = Placement(shift=8, rotation=12, scale=(0.99, 1.01))
USUAL = Placement(shift=8, rotation=14, scale=(0.88, 1.14))
# How often each kind is drawn, relative to the others, and how far apart its images are.
KINDS = {
    "one person": 4.0,
    "deformed person": 4.0,
    "two people": 6.0,
    "partial view": 2.5,
    "far person": 2.0,
    "noisy person": 1.5,
    "person upside down": 0.7,
    "other level": 1.5,
    "object": 1.5,
    "noise": 1.0,
    "pattern": 0.6,
}
APART = {
    "one person": Apart(NEAR, (0.0, 0.1)),
    "two people": Apart(USUAL, (0.0, 0.2)),
    "far person": Apart(Placement(shift=25, rotation=45, scale=(0.8, 1.25)), (0.1, 0.5)),
}
OTHERS = Apart(USUAL, (0.1, 0.6))
VOLUMES_ONLY = ("two people",)
SPACING_3D = 2.0  # mm
HEAD, BRAIN = (192.0, 224.0, 208.0), (160.0, 192.0, 176.0)  # mm: extents of a grid around each
SHOW = {"brains": 0.45, "heads": 0.35, "one head": 0.2}
NOISY = (0.12, 0.35)
CUT = (0.2, 0.5)  # of an image's extent along an axis, left out of a partial view
BETWEEN = 40.0  # mm between two slabs that share nothing
SLAB = 0.3  # of the extent, that each of them is thick


def draw_people(setting: Setting, rng: np.random.Generator) -> SimulatedPair:
    """A pair of people.

    Raises:
        InputError: the folder holds no label maps of people of the split.
    """
    assert setting.anatomies is not None
    kind = chosen(rng, {name: weight for name, weight in KINDS.items() if setting.dim == 3 or name not in VOLUMES_ONLY})
    cohort = load_cohort(setting.anatomies, setting.split)
    shown = chosen(rng, SHOW)
    lattice = _lattice(setting, BRAIN if shown == "brains" else HEAD)
    stripped = {"brains": (1.0, 1.0), "heads": (0.0, 0.0)}.get(shown, (1.0, 0.0)[:: rng.choice((1, -1))])
    people = _people(cohort, rng, two=kind == "two people")
    view = random_view(_spec(setting, kind, 0.0), lattice, rng)
    views = view, _other_level(view, rng) if kind == "other level" and setting.dim == 2 else view
    affine, fields = _fields(rng, kind, lattice)
    images, anatomies, points = [], [], []
    for role in (0, 1):
        anatomies.append(load_anatomy(setting.anatomies, setting.split, people[role]))
        points.append(points_in(views[role], lattice, fields[role]))
        spec = _spec(setting, kind, stripped[role])
        contrast = (spec.moving, spec.fixed)[role][rng.integers(len(spec.moving))]
        signals = random_table(rng, contrast, spec.people.uncertain)
        seen = see(anatomies[role], points[role])
        images.append(person_image(spec, lattice, cohort, rng, seen, signals)[0].numpy())
    tissue = fractions(cohort.tissues[1:], seen.codes).sum(0).numpy() > 0.5
    images = replaced(rng, kind, images)
    place = _place(lattice)
    truth = _truth(affine, fields[1], lattice) if people[0] == people[1] and kind not in CANNOT_BE_REGISTERED else None
    labels = _labels(cohort, anatomies, points) if kind == "two people" else None
    moving, fixed = (Image(image, place) for image in images)
    pair = SimulatedPair(kind, moving, fixed, truth, tissue, np.zeros(tissue.shape, bool), labels)
    if truth is not None and tissue.any() and rng.random() < LESIONS:
        pair = with_lesion(pair, rng, rng.uniform(*RADIUS))
    if kind == "partial view":
        return _cut(pair, rng)
    return _slabs(pair) if kind == "other level" and setting.dim == 3 else pair


def _lattice(setting: Setting, extent: tuple[float, ...]) -> Lattice:
    spacing = SPACING_3D if setting.dim == 3 else setting.spacing
    return Lattice(tuple(round(side / spacing) for side in extent[: setting.dim]), spacing)


def _spec(setting: Setting, kind: str, stripped: float) -> SynthesisSpec:
    """What is drawn of one image; ``stripped`` is 0 or 1."""
    contrasts = ("t1", "t1", "t2", "t2", "flair", "flair", "pd", "ct", "random")
    return SynthesisSpec(
        anatomies=setting.anatomies,
        people=PeopleSpec(stripped=stripped, cut=0.0),
        moving=contrasts,
        fixed=contrasts,
        travel=3.0,
        heads=1.0,
        coarse=0.25,
        noise=NOISY if kind == "noisy person" else (0.0, 0.09),
    )


def _people(cohort: Cohort, rng: np.random.Generator, two: bool) -> tuple[int, int]:
    """Numbers of the moving and the fixed person; two people are from maps of one kind, whose labels mean the same."""
    fixed = int(rng.integers(len(cohort.people)))
    if not two:
        return fixed, fixed
    person = cohort.people[fixed]
    others = [k for k, each in enumerate(cohort.people) if each.kind == person.kind and each.person != person.person]
    return (others[rng.integers(len(others))] if others else fixed), fixed


def _fields(rng: np.random.Generator, kind: str, lattice: Lattice) -> tuple[ndarray, tuple[Tensor, Tensor]]:
    """The moving image's affine map of centred voxels, and displacements of the moving and of the fixed image."""
    apart = APART.get(kind, OTHERS)
    dim = len(lattice.shape)
    moving = random_displacement(rng, lattice.shape, apart.placement, 1.0, 0.0)[0]
    if kind == "person upside down":
        moving = _turned(moving, axes=(0, dim - 1))
    still = Placement(shift=0, rotation=0, scale=(1, 1))
    sigma = rng.uniform(8.0, 18.0) / lattice.spacing
    fixed = random_displacement(rng, lattice.shape, still, sigma, rng.uniform(*apart.strain))[0]
    return affine_of(moving.double().numpy()), (moving, fixed)


def _turned(displacement: Float[Tensor, "dim *space"], axes: tuple[int, int]) -> Float[Tensor, "dim *space"]:
    """The displacement after a rotation by 180 degrees in the plane of two axes, about the centre."""
    turned = displacement.clone()
    for axis in axes:
        size = displacement.shape[axis + 1]
        place = torch.arange(size, dtype=torch.float32).view([-1 if k == axis else 1 for k in range(len(displacement))])
        turned[axis] = (size - 1) - 2 * place - displacement[axis]
    return turned


def _truth(affine: ndarray, fixed: Tensor, lattice: Lattice) -> Float[ndarray, "dim *space"]:
    """``A^-1 (p + u(p) - b) - p``, of ``moving(q) = S(A q + b)`` and ``fixed(p) = S(p + u(p))``; mm."""
    dim = len(lattice.shape)
    voxels = np.indices(lattice.shape, dtype=float)
    column = (slice(None), *[None] * dim)
    source = voxels + fixed.double().numpy() - affine[:dim, dim][column]
    found: ndarray = np.tensordot(np.linalg.inv(affine[:dim, :dim]), source, axes=1) - voxels
    return found * lattice.spacing


def _place(lattice: Lattice) -> Float[ndarray, "n n"]:
    """Voxel to millimetres, the grid's centre at 0."""
    affine = np.diag([*[lattice.spacing] * len(lattice.shape), 1.0])
    affine[:-1, -1] = -lattice.spacing * (np.array(lattice.shape) - 1) / 2
    return affine


def _labels(
    cohort: Cohort, anatomies: list[Anatomy], points: list[Float[Tensor, "3 *space"]]
) -> tuple[UInt8[ndarray, "*moving"], UInt8[ndarray, "*space"]]:
    """The codes of the structures that both people have."""
    common = set(anatomies[0].person.codes) & set(anatomies[1].person.codes)
    counted = cohort.members.any(0).numpy()
    counted &= np.isin(np.arange(len(counted)), list(common))
    moving, fixed = (codes_at(each, where).numpy() for each, where in zip(anatomies, points, strict=True))
    return moving * counted[moving], fixed * counted[fixed]


# --- less than the whole ---------------------------------------------------------------------------------------------


def _other_level(view: View, rng: np.random.Generator) -> View:
    """Slices at least ``BETWEEN`` away."""
    across = 3 - sum(view.axes)
    centre = view.centre.clone()
    centre[across] += (-1 if centre[across] > 0 else 1) * rng.uniform(BETWEEN, 1.5 * BETWEEN)
    return view._replace(centre=centre)


def _cut(pair: SimulatedPair, rng: np.random.Generator) -> SimulatedPair:
    """One of the images, or both, without a part at one end of an axis."""
    which = rng.integers(3)
    for role in (0, 1):
        if which in (role, 2):
            pair = _cropped(pair, role, _kept(pair.fixed.shape, rng))
    return pair


def _kept(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, ...]:
    axis, lost = int(rng.integers(len(shape))), rng.uniform(*CUT)
    start = round(lost * shape[axis]) if rng.random() < 0.5 else 0
    stop = shape[axis] if start else round((1 - lost) * shape[axis])
    return tuple(slice(start, stop) if k == axis else slice(0, size) for k, size in enumerate(shape))


def _slabs(pair: SimulatedPair) -> SimulatedPair:
    """The lowest and the highest part of the volume, laid over each other."""
    height = pair.fixed.shape[2]
    thick = min(round(SLAB * height), (height - round(BETWEEN / pair.fixed.spacing[2])) // 2)
    whole = slice(None), slice(None)
    low, high = (*whole, slice(height // 8, height // 8 + thick)), (*whole, slice(height - thick, height))
    pair = _cropped(_cropped(pair, 0, low), 1, high)
    images = []
    for image in (pair.moving, pair.fixed):
        affine = image.affine.copy()
        affine[2, 3] = -affine[2, 2] * (image.shape[2] - 1) / 2
        images.append(Image(image.data, affine))
    return pair._replace(moving=images[0], fixed=images[1])


def _cropped(pair: SimulatedPair, role: int, kept: tuple[slice, ...]) -> SimulatedPair:
    """The pair with one image cropped, and what lies on the fixed image's grid if it is that."""
    image = (pair.moving, pair.fixed)[role]
    affine = image.affine.copy()
    affine[:-1, -1] += affine[:-1, :-1] @ [each.start or 0 for each in kept]
    cut = Image(np.ascontiguousarray(image.data[kept]), affine)
    labels = pair.labels
    if labels is not None:
        labels = (labels[0][kept], labels[1]) if role == 0 else (labels[0], labels[1][kept])
    if role == 0:
        return pair._replace(moving=cut, labels=labels)
    truth = None if pair.truth is None else pair.truth[(slice(None), *kept)]
    tissue: Bool[ndarray, "*space"] = pair.tissue[kept]
    return pair._replace(fixed=cut, truth=truth, tissue=tissue, lesion=pair.lesion[kept], labels=labels)
