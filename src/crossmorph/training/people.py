"""Pairs of different people, drawn while training from label maps: an image of each with a contrast of its own.

Two people of the training split, mostly different ones, are laid over each other by their affine maps to the common
space; then each image gets a random placement and an elastic deformation of its own. Every kind of tissue of the head
has a signal, of a sequence or at random. Labels are looked up on a grid twice as fine as the image and their signals
averaged, so that voxels on a border hold a part of both (as in SynthSeg, Billot et al., Medical Image Analysis 2023,
doi:10.1016/j.media.2023.102789). What the objectives compare are fractions of CSF, grey and white matter, and of some
structures that both people have, others for every pair.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossmorph.datasets.label_maps import (
    Anatomy,
    Cohort,
    distances_at,
    fractions,
    load_anatomy,
    load_cohort,
    look_up,
    mean_steps,
)
from crossmorph.datasets.people_images import random_table, textured, tissue_signals
from crossmorph.functional import spatial
from crossmorph.simulation.anatomy import CENTRE
from crossmorph.simulation.drawing import (
    Lattice,
    Placement,
    biased,
    head_layers,
    noisy,
    outside_signal,
    random_displacement,
    random_head,
    random_turn,
)
from crossmorph.simulation.tissue_signals import NAMES
from crossmorph.training.batch import Samples
from crossmorph.training.synthesis import SynthesisSpec

SEEN = 25  # voxels of an image from which a structure can be compared
LEVELS = ((-55.0, 55.0), (-85.0, 50.0), (-50.0, 60.0))  # mm of the common space that slices across each axis lie at
TILT = 0.08  # most that a slice rises per millimetre along either of its axes


class Seen(NamedTuple):
    """A person in an image: codes of the parts of each voxel, and the distances outside the brain."""

    codes: UInt8[Tensor, "*space parts"]
    distances: Float[Tensor, "2 *space"]
    whole: bool


class View(NamedTuple):
    """Where both images of a pair lie in the common space.

    Attributes:
        axes: the two axes of a slice, or all three.
        centre: of the grid, mm, all three components.
        tilt: of slices: millimetres along the third axis for one along each of the two.
    """

    axes: tuple[int, ...]
    centre: Float[Tensor, "3"]
    tilt: Float[Tensor, " axes"]


def synthesise_people(
    spec: SynthesisSpec, lattice: Lattice, seed: int, stage: int, first: int, count: int, far: bool
) -> Samples:
    """Pairs ``first`` to ``first + count - 1`` of a stage's stream; each depends on (seed, stage, its number) alone.

    Args:
        spec: what to draw; with ``anatomies``.
        lattice: on what grid; of two axes: sagittal, coronal and axial slices, of three: volumes.
        seed: of the run.
        stage: index of the stage.
        first: number of the first pair.
        count: pairs.
        far: place the moving images by ``spec.far``.

    Raises:
        InputError: the folder holds no label maps of people of the training split.
    """
    assert spec.anatomies is not None
    cohort = load_cohort(spec.anatomies, "train")
    pairs = [
        _pair(spec, lattice, cohort, np.random.default_rng([seed, stage, 2, number]), far)
        for number in range(first, first + count)
    ]
    return Samples(*(torch.stack(column) for column in zip(*pairs, strict=True)))


def _pair(
    spec: SynthesisSpec, lattice: Lattice, cohort: Cohort, rng: np.random.Generator, far: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert spec.anatomies is not None
    chosen = _two_people(spec, cohort, rng)
    view = random_view(spec, lattice, rng)
    strain, sigma = rng.uniform(*spec.elastic_strain), rng.uniform(*spec.elastic_sigma)
    if chosen[0] != chosen[1]:
        strain *= spec.people.calm
    signals = [
        random_table(rng, contrasts[rng.integers(len(contrasts))], spec.people.uncertain)
        for contrasts in (spec.moving, spec.fixed)
    ]
    if rng.random() < spec.alike:
        signals[1] = signals[0]
    seen = []
    for role in (0, 1):
        placement = spec.far if far and role == 0 else spec.near
        points = _points(rng, lattice, view, placement, sigma, strain)
        seen.append(see(load_anatomy(spec.anatomies, "train", chosen[role]), points))
    table = torch.cat([cohort.tissues, _compared(spec, cohort, rng, seen)])
    images = [person_image(spec, lattice, cohort, rng, *each) for each in zip(seen, signals, strict=True)]
    parts = [*images, *(fractions(table, each.codes) for each in seen)]
    if rng.random() < spec.turned:
        turn = random_turn(rng)
        parts = [turn(part) for part in parts]
    return parts[0], parts[1], parts[2], parts[3]


# --- who and where ---------------------------------------------------------------------------------------------------


def _two_people(spec: SynthesisSpec, cohort: Cohort, rng: np.random.Generator) -> tuple[int, int]:
    """The moving and the fixed person, as numbers in the cohort; the same one only by chance or where there is one."""
    groups = [[k for k, person in enumerate(cohort.people) if person.whole is whole] for whole in (True, False)]

    def drawn() -> int:
        group = groups[0 if rng.random() < spec.people.whole else 1] or groups[0] or groups[1]
        return group[rng.integers(len(group))]

    fixed = drawn()
    others = [k for k, person in enumerate(cohort.people) if person.person != cohort.people[fixed].person]
    if rng.random() < spec.people.same or not others:
        return fixed, fixed
    moving = drawn()
    return moving if moving in others else others[rng.integers(len(others))], fixed


def random_view(spec: SynthesisSpec, lattice: Lattice, rng: np.random.Generator) -> View:
    """The middle of the head, or away from it by ``travel`` voxels; of slices any of the three orientations."""
    dim = len(lattice.shape)
    centre = np.array(CENTRE)
    if dim == 3:
        centre += rng.uniform(-spec.travel, spec.travel, 3) * lattice.spacing
        return View((0, 1, 2), torch.tensor(centre, dtype=torch.float32), torch.zeros(3))
    across = int(rng.integers(3))
    axes = tuple(axis for axis in range(3) if axis != across)
    centre[list(axes)] += rng.uniform(-spec.travel, spec.travel, 2) * lattice.spacing
    centre[across] = rng.uniform(*LEVELS[across])
    tilt = torch.tensor(rng.uniform(-TILT, TILT, 2), dtype=torch.float32)
    return View(axes, torch.tensor(centre, dtype=torch.float32), tilt)


def _points(
    rng: np.random.Generator, lattice: Lattice, view: View, placement: Placement, sigma: float, strain: float
) -> Float[Tensor, "3 *space"]:
    """Points of the common space, mm, that an image shows."""
    return points_in(view, lattice, random_displacement(rng, lattice.shape, placement, sigma, strain)[0])


def points_in(view: View, lattice: Lattice, displacement: Float[Tensor, "dim *space"]) -> Float[Tensor, "3 *space"]:
    """Points of the common space, mm, that a deformed image shows.

    Args:
        view: where the grid lies.
        lattice: the grid.
        displacement: of its voxels, in voxels.
    """
    shape = lattice.shape
    column = (-1, *[1] * len(shape))
    centred = spatial.identity_grid(shape)[0] - (torch.tensor(shape).view(column) - 1) / 2
    within = (centred + displacement) * lattice.spacing
    points = view.centre.view(column).repeat(1, *shape)
    points[list(view.axes)] += within
    if len(shape) == 2:
        across = 3 - sum(view.axes)
        points[across] += torch.einsum("a,a...->...", view.tilt, within)
    return points


def see(anatomy: Anatomy, points: Float[Tensor, "3 *space"]) -> Seen:
    """What a person shows at points of the common space, mm."""
    codes = look_up(anatomy, points, mean_steps(points))
    return Seen(codes, distances_at(anatomy, points), anatomy.person.whole)


def _compared(
    spec: SynthesisSpec, cohort: Cohort, rng: np.random.Generator, seen: list[Seen]
) -> Float[Tensor, "structures codes"]:
    """Some structures that both images show, as rows of a table; rows of zeros, which count nothing, where too few."""
    codes = cohort.members.shape[1]
    enough = SEEN * seen[0].codes.shape[-1]
    both = torch.stack([cohort.members @ torch.bincount(s.codes.view(-1), minlength=codes).float() for s in seen])
    order = torch.from_numpy(rng.permutation(len(cohort.regions)))
    order = order[(both >= enough).all(0)[order]][: spec.people.structures]
    table = torch.zeros(spec.people.structures, codes)
    table[: len(order)] = cohort.members[order]
    return table


def person_image(
    spec: SynthesisSpec, lattice: Lattice, cohort: Cohort, rng: np.random.Generator, seen: Seen, signals: Tensor
) -> Float[Tensor, "1 *space"]:
    """An image of a person in [0, 1], as :func:`crossmorph.images.image.scale_intensity` leaves it."""
    people = spec.people
    codes = _with_lesions(lattice, cohort, rng, seen.codes) if rng.random() < people.lesions else seen.codes
    image = textured(rng, tissue_signals(cohort, codes, signals), people.texture)
    stripped = rng.random() < people.stripped
    if stripped:
        image = image * (seen.distances[0] < rng.uniform(*people.margin))
    elif not seen.whole and rng.random() < spec.heads:
        layers = head_layers(rng, seen.distances[1], random_head(rng))
        assert layers is not None
        inside = fractions(cohort.tissues, seen.codes).sum(0)
        image = image + outside_signal(rng, layers * (1 - inside).clamp(0, 1))
    image = biased(rng, image, spec.bias)
    if rng.random() < spec.coarse:
        axis = int(rng.integers(image.ndim))
        slices = _slices(image.shape[axis], rng.uniform(*people.slices) / lattice.spacing, rng.random())
        image = (image.movedim(axis, -1) @ slices).movedim(-1, axis)
    if rng.random() < people.cut:
        image = _cut(rng, image)
    in_brain = [k for k, name in enumerate(NAMES) if name in ("csf", "cortex", "white matter")]
    return noisy(rng, image, float(signals[in_brain].max()), spec.noise, spec.gamma)[None]


def _with_lesions(
    lattice: Lattice, cohort: Cohort, rng: np.random.Generator, codes: UInt8[Tensor, "*space parts"]
) -> UInt8[Tensor, "*space parts"]:
    """A few balls of white matter turned into lesions, where a structure with that signal is known."""
    lesion = NAMES.index("lesion")
    known = torch.nonzero(cohort.signals == lesion)
    white = cohort.tissues[2].bool()[codes.int()]
    places = torch.nonzero(white)
    if not len(known) or not len(places):
        return codes
    codes = codes.clone()
    for _ in range(int(rng.integers(1, 9))):
        centre = places[int(rng.integers(len(places)))][:-1]
        radius = rng.uniform(1.5, 7.0) / lattice.spacing
        box = tuple(slice(max(0, int(c - radius)), int(c + radius) + 2) for c in centre)
        ranges = (torch.arange(s.start, min(s.stop, size)) for s, size in zip(box, lattice.shape, strict=True))
        squared = sum(
            (offset - c) ** 2 for offset, c in zip(torch.meshgrid(*ranges, indexing="ij"), centre, strict=True)
        )
        ball = (torch.as_tensor(squared) <= radius**2).unsqueeze(-1) & white[box]
        codes[box] = torch.where(ball, known[0].to(codes.dtype), codes[box])
    return codes


def _slices(size: int, thickness: float, phase: float) -> Float[Tensor, "size size"]:
    """Matrix that averages over slices of a thickness in voxels along an axis and interpolates between them."""
    edges = np.arange(phase - 1, size / thickness + 2) * thickness
    voxels = np.arange(size)
    overlap = np.minimum(voxels[:, None] + 1, edges[1:]) - np.maximum(voxels[:, None], edges[:-1])
    averaging = np.maximum(overlap, 0)
    shown = averaging.sum(0) > 0
    averaging, middles = averaging[:, shown] / averaging[:, shown].sum(0), (edges[1:] + edges[:-1])[shown] / 2
    interpolating = np.stack([np.interp(voxels + 0.5, middles, unit) for unit in np.eye(len(middles))])
    return torch.tensor(averaging @ interpolating, dtype=torch.float32)


def _cut(rng: np.random.Generator, image: Float[Tensor, "*space"]) -> Float[Tensor, "*space"]:
    """Nothing beyond a plane across one axis, up to a third of the image."""
    axis = int(rng.integers(image.ndim))
    size = image.shape[axis]
    lost = math.ceil(rng.uniform(0.05, 0.33) * size)
    image = image.clone()
    image.narrow(axis, 0 if rng.random() < 0.5 else size - lost, lost).zero_()
    return image
