"""Instance optimisation of volumes: rounds of local correlation on ever finer control points, in millimetres.

The networks' field is followed by the flows of one stationary velocity a round, ``phi = phi_net o phi_1 o phi_2 ..``,
each of cubic B-splines whose control points maximise

    J(c) = LCC(M o phi, F) - s E(c)

``LCC`` is the mean squared correlation over small windows (:mod:`crossmorph.functional.local_correlation`), which
neither bias fields nor unlike contrasts mislead, and ``E`` the mean squared difference between neighbouring control
points, in millimetres a millimetre. It runs on a grid of its own, finer than the networks', around what both images
show, from the images as they came; nothing moves at its border. Windows that reach out of an image's field of view or
mask, or into what is ignored, do not count: there the field only stays smooth.

Within a round ``exp(v)`` is taken as ``id + v``, and the gradient of the moved image as that of what the round began
with, shifted: neither integration nor composition in the steps. The round ends with the true exponential of ``v`` and
of ``-v``, so that field and inverse are diffeomorphisms, and the next one moves the original image anew.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.functional.adam import Adam
from crossmorph.functional.control_points import control_points, doubled, gather, spread
from crossmorph.functional.local_correlation import Correlation, local_correlation
from crossmorph.images.image import Image
from crossmorph.networks.hierarchy import Flow, chain
from crossmorph.registration.force import force, moved, roughness_slope
from crossmorph.registration.instance_optimization import Refinement
from crossmorph.registration.optimization_grid import (
    FIELD,
    MARGIN,
    Window,
    between,
    cut,
    embedded,
    field_grid,
    field_spacing,
    finer,
    inner,
    onto,
    seen_window,
)
from crossmorph.registration.pair_similarity import TISSUE, WHOLLY, is_cut
from crossmorph.transforms.grid import Grid, evidence_on


class Round(NamedTuple):
    """One velocity. Where an image has voxels larger than cubes of ``FIELD`` millimetres, all lengths grow with them.

    Attributes:
        spacing: voxels of the images, millimetres: ``FIELD`` or half of it.
        control: between control points, millimetres, a multiple of twice ``spacing``.
        window: of the correlation, voxels a side, odd.
        smoothness: ``s``.
        steps: of ADAM.
    """

    spacing: float
    control: float
    window: int
    smoothness: float
    steps: int


Schedule = tuple[Round, ...]

# Where each choice comes from: docs/design.md. With less smoothness fields of 4 mm fit noise and fold.
SCHEDULE: Schedule = (
    Round(2.0, 8.0, 5, 0.3, 10),
    Round(2.0, 8.0, 5, 0.3, 10),
    Round(2.0, 4.0, 5, 1.0, 10),
    Round(1.0, 4.0, 5, 1.0, 5),
    Round(1.0, 2.0, 5, 1.0, 8),
)
# A round on finer voxels than an image has sees interpolation: IXI's 2 mm scans are left to the rounds before it.
FINEST = 1.5  # times the spacing of a round, at most, for both images
DARK = 0.25  # of the mean intensity: where no more is shown around a voxel, nothing is looked at
# Part of what one image shows that the other lacks, from which on that one is stripped of its skull, or ends. Brains
# lack up to .04 of each other, heads up to .25 (a neck), a brain .5 of a head.
STRIPPED = 0.35
RATE, MOMENTS = 0.3, (0.7, 0.9)  # ADAM's step in voxels of the velocity, twice ``spacing``, and its short memories
SQUARINGS = 4
INVERSIONS = 5  # steps


class RefinedVolume(NamedTuple):
    """A refined field in full detail.

    Attributes:
        refinement: what was done, its ``final`` on the networks' grid.
        field: the same field and inverse on ``grid``, in its voxels.
        grid: over the extent of the networks' grid, see :mod:`crossmorph.registration.optimization_grid`.
    """

    refinement: Refinement
    field: Flow
    grid: Grid


class _Budget(NamedTuple):
    """Steps, and the time at which to end."""

    steps: int
    deadline: float


class _Refined(NamedTuple):
    """``phi_1 o phi_2 ..`` and its inverse in the window, the steps taken, and ``LCC`` before and after."""

    residual: Flow
    steps: int
    before: float
    after: float


def refine_volume(
    pairs: Sequence[tuple[Image, Image]],
    seen: tuple[Float[Tensor, "1 1 *space"], Float[Tensor, "1 1 *space"]],
    start: Flow,
    working: Grid,
    schedule: Schedule = SCHEDULE,
    seconds: float | None = None,
    steps: int | None = None,
) -> RefinedVolume:
    """Optimise the field of one pair of volumes, starting from the networks' field.

    A round whose field correlates less than the one before it, or folds a cell that did not fold before (strictly,
    :func:`crossmorph.functional.spatial.strict_jacobian`), is rejected, and ends the refinement. The same steps give
    the same bits on any number of threads; the same time need not.

    Args:
        pairs: moving and fixed images in [0, 1], the moving ones after the initial affine; with more than one pair
            ``LCC`` is their sum.
        seen: both images of the first pair as the networks saw them.
        start: the networks' field on their grid and its inverse, voxels.
        working: that grid.
        schedule: the rounds.
        seconds: wall time allowed, kept by the pace of the steps so far; None: no limit.
        steps: the most steps, of all rounds together; None: the schedule's.

    Returns:
        The refined field and how it came about; nothing that came in is changed.

    Raises:
        InputError: a negative budget.
    """
    began = time.perf_counter()
    if (steps is not None and steps < 0) or (seconds is not None and not seconds >= 0):
        raise InputError(f"received {seconds} seconds and {steps} steps to refine; expected at least 0 of each")
    deadline = math.inf if seconds is None else began + seconds
    grid = field_grid(working, field_spacing(*pairs[0]))
    with torch.inference_mode():
        networks = Flow(*(between(field, working, grid) for field in start))
        window = seen_window(*seen, start.displacement, working, grid)
        most = sum(each.steps for each in schedule) if steps is None else steps
        found = _rounds(pairs, cut(networks.displacement, window), window, schedule, _Budget(most, deadline))
        if found.after > found.before:
            field = _inverted(chain(networks, Flow(*(embedded(each, window, grid) for each in found.residual))))
            final = Flow(*(between(each, grid, working).to(start.displacement) for each in field))
        else:
            field, final = networks, start
    taken = Refinement(final, found.steps, time.perf_counter() - began, found.before, found.after, final is not start)
    return RefinedVolume(taken, field, grid)


# --- rounds ----------------------------------------------------------------------------------------------------------


def _rounds(
    pairs: Sequence[tuple[Image, Image]],
    networks: Float[Tensor, "1 3 x y z"],
    window: Window,
    schedule: Schedule,
    budget: _Budget,
) -> _Refined:
    """One round after the other, from a field in the window, as long as each gains and the budget lasts."""
    nowhere = torch.zeros_like(networks)
    residual, taken, whole = Flow(nowhere, nowhere), 0, networks
    folded = spatial.folds(networks)
    coarsest = max(side for images in pairs for image in images for side in image.spacing)
    first = view = _view(pairs, window, schedule[0], whole)
    at = begun = _stand(first, whole)
    for each in schedule:
        if each.spacing < FIELD and coarsest > FINEST * each.spacing:
            continue
        if (each.spacing, each.window) != (view.spacing, view.window):
            view = _view(pairs, window, each, whole)
            at = _stand(view, whole)
        optimised = _optimise(view, at, each, budget._replace(steps=budget.steps - taken))
        taken += optimised.steps
        if not optimised.steps:
            break
        step = _flow(optimised.velocity, tuple(side - 2 * view.trim for side in whole.shape[2:]))
        refined = chain(residual, Flow(*(F.pad(field, [view.trim] * 6) for field in step)))
        reached = spatial.compose(networks, refined.displacement)
        there = _stand(view, reached)
        if not there.similarity > at.similarity or not (spatial.folds(reached) <= folded).all():
            break
        residual, whole, at = refined, reached, there
    after = at if view is first else _stand(first, whole)
    return _Refined(residual, taken, begun.similarity, after.similarity)


class _Seen(NamedTuple):
    """A moving image on the view's grid, its correlation with the fixed one, and where the moved image is needed.

    ``places`` are the voxels, as indices in their row, of the windows that count and the neighbours of these voxels.
    """

    moving: Float[Tensor, "x y z"]
    correlation: Correlation
    places: Int[Tensor, " places"]


class _View(NamedTuple):
    """Images in voxels of ``spacing``, compared in windows of ``window`` voxels.

    ``trim`` is how many voxels of the field, at each end of each axis, the view is smaller than the window it is of.
    """

    images: tuple[_Seen, ...]
    spacing: float
    window: int
    trim: int


def _view(
    pairs: Sequence[tuple[Image, Image]], window: Window, each: Round, whole: Float[Tensor, "1 3 x y z"]
) -> _View:
    """Of a round and later ones with its voxels and windows, whose control points lie no further apart.

    It ends two control points beyond what both images show; the window, those of 8 mm.
    """
    trim = MARGIN - min(MARGIN, math.ceil(2 * each.control / FIELD))
    grid, here = finer(inner(window, trim).grid, round(FIELD / each.spacing)), _within(whole, trim)
    return _View(tuple(_seen(images, grid, each.window, here) for images in pairs), each.spacing, each.window, trim)


def _seen(images: tuple[Image, Image], grid: Grid, window: int, whole: Float[Tensor, "1 3 *coarser"]) -> _Seen:
    """A moving image on a grid, and the correlation with its fixed one of windows that neither image cuts."""
    moving, fixed = (onto(image, grid) for image in images)
    weight = _shown(fixed)
    for image, field in zip(images, (whole, None), strict=True):
        if is_cut(image):
            evidence = torch.from_numpy(evidence_on(image, grid)).float()
            there = evidence if field is None else (moved(evidence, field) > WHOLLY).float()
            weight *= _windows_within(there, window)
    counted, theirs = _stripped(moved(moving, whole), fixed)
    if theirs is not None:
        weight *= _windows_within(theirs, window)
    # A slope is that between the neighbours of a voxel.
    places = torch.nonzero(_largest(weight, window + 2).flatten())[:, 0]
    return _Seen(moving, local_correlation(fixed, window, weight, counted), places)


def _stripped(
    moved: Float[Tensor, "x y z"], fixed: Float[Tensor, "x y z"]
) -> tuple[Float[Tensor, "x y z"] | None, Float[Tensor, "x y z"] | None]:
    """1 where the moved and the fixed image show something, each None unless it shows much less than the other one.

    Its edge is then where a skull was stripped or the field of view ends, and no anatomy: in windows across it the
    field would pull the edge to that of something else, the brain's to the skin. Of a stripped moving image the voxels
    of a window count that it shows; of a stripped fixed one the windows that lie within it, since what is moved into
    the others differs from step to step.
    """
    around = (ndimage.uniform_filter(image.numpy(), 5, mode="constant") for image in (moved, fixed))
    ours, theirs = (ndimage.binary_fill_holes(mean > TISSUE) for mean in around)
    regions = [
        torch.from_numpy(less.astype(np.float32)) if (more & ~less).sum() > STRIPPED * more.sum() else None
        for less, more in ((ours, theirs), (theirs, ours))
    ]
    return regions[0], regions[1]


def _windows_within(evidence: Float[Tensor, "x y z"], window: int) -> Float[Tensor, "x y z"]:
    """1 where the window around a voxel holds nothing but evidence."""
    return -_largest(-evidence, window)


def _largest(values: Float[Tensor, "x y z"], window: int) -> Float[Tensor, "x y z"]:
    """The largest value in the window around each voxel."""
    largest = values[None, None]
    for axis in range(3):  # one axis after the other: 15 values are compared for a window of 5, not 125
        around = [window if axis == each else 1 for each in range(3)]
        largest = F.max_pool3d(largest, around, stride=1, padding=[side // 2 for side in around])
    return largest[0, 0]


def _shown(fixed: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """1 where the fixed image shows something nearby, 0 in air, whose noise would only weigh down what it shows."""
    data = fixed.numpy()
    around = ndimage.uniform_filter(data, 5, mode="constant")
    return torch.from_numpy((around > DARK * np.mean(data, dtype=np.float64)).astype(np.float32))


def _within(field: Float[Tensor, "1 3 x y z"], trim: int) -> Float[Tensor, "1 3 *smaller"]:
    x, y, z = (slice(trim, side - trim) for side in field.shape[2:])
    return field[:, :, x, y, z]


class _Stand(NamedTuple):
    """The moving images as a field moves them, and ``LCC`` of that."""

    moved: tuple[Float[Tensor, "x y z"], ...]
    similarity: float


def _stand(view: _View, whole: Float[Tensor, "1 3 x y z"]) -> _Stand:
    """How a field of the window does in a view."""
    images = tuple(moved(seen.moving, _within(whole, view.trim)) for seen in view.images)
    found = (seen.correlation(image, False)[0] for seen, image in zip(view.images, images, strict=True))
    return _Stand(images, sum(found))


class _Optimised(NamedTuple):
    """The velocity that a round ended with, in its voxels, and the steps taken."""

    velocity: Float[Tensor, "1 3 x y z"]
    steps: int


def _optimise(view: _View, begun: _Stand, each: Round, budget: _Budget) -> _Optimised:
    """ADAM on the control points of one velocity, from none.

    The velocity has voxels twice as large as the image's: finer ones would only cost time.
    """
    began = time.perf_counter()
    space = tuple(side // 2 for side in view.images[0].moving.shape)
    apart = round(each.control / (2 * each.spacing))
    controls = begun.moved[0].new_zeros(3, *(control_points(side, apart) for side in space))
    margin = round(view.trim * FIELD / each.spacing)  # voxels of the velocity that the window is larger, both ends
    count = math.prod(control_points(side + margin, apart) for side in space)
    adam = Adam(controls, MOMENTS)
    forces = [force(image, *seen[1:]) for seen, image in zip(view.images, begun.moved, strict=True)]
    steps = 0
    while True:
        pace = (time.perf_counter() - began) / max(1, steps)
        if steps == min(each.steps, budget.steps) or time.perf_counter() + pace > budget.deadline:
            return _Optimised(spread(controls, apart, space)[None], steps)
        velocity = doubled(spread(controls, apart, space))[None] if steps else None
        found = [force_at(velocity) for force_at in forces]
        total = found[0] if len(found) == 1 else torch.stack(found).sum(0)
        uphill = gather(total, apart) - each.smoothness * roughness_slope(controls, apart, count)
        controls = controls + RATE * adam.direction(uphill)
        steps += 1


def _flow(velocity: Float[Tensor, "1 3 x y z"], shape: tuple[int, ...]) -> Flow:
    both = spatial.integrate(torch.cat([velocity, -velocity]), SQUARINGS)
    if both.shape[2:] != shape:
        both = torch.stack([doubled(each) for each in both])
    return Flow(*both.chunk(2))


def _inverted(flow: Flow) -> Flow:
    """With a better inverse: what interpolation in the chain has left of it is taken off by fixed-point steps.

    ``v <- -u(p + v)`` (Chen et al., Med. Phys. 2008, doi:10.1118/1.2816107), at each voxel only while that brings
    ``(id + u) o (id + v)`` nearer to the identity there: it need not, where the field is steep.
    """
    inverse = flow.inverse
    miss = spatial.compose(flow.displacement, inverse)
    size = spatial.length(miss)
    for _ in range(INVERSIONS):
        tried = inverse - miss
        left = spatial.compose(flow.displacement, tried)
        better = spatial.length(left) < size
        inverse, miss = torch.where(better, tried, inverse), torch.where(better, left, miss)
        size = spatial.length(miss)
    return Flow(flow.displacement, inverse)
