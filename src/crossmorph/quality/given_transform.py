"""Measures and checks of a transform that somebody else made, or of none: how well are two images aligned by it?

No reference is known. So the pair is registered once more, from where the transform puts the moving image, and that
registration is assessed as every other
(:func:`crossmorph.quality.checks.assess`). At each voxel ``p`` of the fixed image

    E(p) = max(r(p), e(p))

is the expected error of the transform: ``r`` is by how much that registration still moves the image there, and ``e`` is
the expected error of that registration itself. If it is off by ``e``, the error of the transform lies between
``r - e`` and ``r + e``. Nothing of this is calibrated on transforms of other programs; ``e`` is as well calibrated as
the model is.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, inside, slabs
from crossmorph.functional.similarity import local_correlation_map
from crossmorph.functional.spatial import strict_jacobian
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model
from crossmorph.quality.assessment import Assessment, Check, Limits, TransformMeasures
from crossmorph.quality.checks import (
    MAX_STRETCH,
    MIN_KEPT,
    NOT_CALIBRATED,
    assess,
    calibrated_limits,
    mirror_checks,
    orientation_check,
)
from crossmorph.quality.checks import MIN_OVERLAP as SMALL_OVERLAP
from crossmorph.quality.consistency import WINDOW
from crossmorph.quality.error_model import calibration_of
from crossmorph.registration.initialization import MIN_OVERLAP
from crossmorph.registration.pair_similarity import Pair, pair_similarity, seen_on
from crossmorph.registration.register_images import Registered, register_images
from crossmorph.transforms.composition import Step, as_warp
from crossmorph.transforms.grid import Grid, onto_grid, working_grid
from crossmorph.transforms.warp import (
    Warp,
    followed_by,
    from_voxel_displacement,
    jacobian,
    nearest_affine,
    resample,
    resample_warp,
    transform_points,
    voxel_displacement,
)

# Of a registration by crossmorph, whose checks these are, and not of a transform.
LEFT_OUT = ("swap consistency", "shift consistency", "training images", "inverse consistency", "stages")
NEEDS_TRANSFORM = ("mutual information", "folding", "stretch")
# Checks of the registration from there that say whether it can be trusted.
RELIABLE = ("expected error", "swap consistency", "shift consistency", "training images", NOT_CALIBRATED)


class Examined(NamedTuple):
    """What is known of a given transform.

    Attributes:
        warp: the transform on the fixed image's grid.
        own: crossmorph's registration from where it puts the moving image.
        measures: of the transform.
        checks: of the transform.
        left_out: names of the checks that mean nothing for it.
        remaining: displacement by which ``own`` moves each voxel of the working grid, in the measures' unit.
        error: expected error of every voxel of the working grid, in its voxels; None where the model is not calibrated.
        foreground: where the fixed image shows something, on that grid.
    """

    warp: Warp
    own: Registered
    measures: TransformMeasures
    checks: tuple[Check, ...]
    left_out: tuple[str, ...]
    remaining: Float[Tensor, "*space"]
    error: Float[Tensor, "*space"] | None
    foreground: Bool[Tensor, "*space"]


def examine_transform(moving: Image, fixed: Image, steps: Sequence[Step], model: Model) -> Examined:
    """Measure and check a transform; takes about twice as long as registering.

    Args:
        moving: the moving image as it was given.
        fixed: the fixed image as it was given.
        steps: the transform, fixed to moving space; none to check the images as their headers place them.
        model: weights.

    Raises:
        InputError: the transform leads outside the moving image; else as of
            :func:`crossmorph.registration.register_images.register_images`.
    """
    warp = as_warp(steps, fixed.affine, fixed.shape)
    identity = Warp.identity(fixed)
    covered, by_headers = covers(moving, warp), covers(moving, identity)
    if not covered >= MIN_OVERLAP:
        what = "the transform leads" if steps else "by their headers, and without a transform, the fixed image leads"
        raise InputError(
            f"{what} into the moving image at {covered:.0%} of the fixed image's voxels only, expected at least "
            f"{MIN_OVERLAP:.0%}; a transform maps points of the fixed image to the moving image, and several stand in "
            "the order of antsApplyTransforms -t"
        )
    moved = moved_onto_working_grid(moving, fixed, steps, model)
    own = register_images(moved, fixed, model)
    assessment = assess(own, moved, fixed)
    left = _remaining(own)
    measured = _measured(moving, moved, warp, own, assessment, left)
    measured = measured._replace(overlap_before=by_headers, overlap=covered)
    error = None if assessment.error is None else torch.maximum(assessment.error, left / own.grid.spacing)
    calibration = calibration_of(model)
    limits = None if calibration is None else calibrated_limits(calibration, own.grid.spacing)
    checks = transform_checks(measured, limits, assessment.checks, bool(steps))
    left_out = LEFT_OUT if steps else (*LEFT_OUT, *NEEDS_TRANSFORM)
    return Examined(warp, own, measured, checks, left_out, left, error, assessment.maps.foreground)


def moved_onto_working_grid(moving: Image, fixed: Image, steps: Sequence[Step], model: Model) -> Image:
    """The moving image after a transform, in [0, 1], on the grid that the networks see.

    As in a registration: averaged and resampled after the affine map that is nearest to the transform, and then, where
    the transform is more than that, moved by the rest.

    Args:
        moving: as it was given.
        fixed: the image that the grid covers.
        steps: the transform.
        model: whose grid.
    """
    card = model.card
    grid = working_grid(fixed, card.spacing, max(card.shape), model.hierarchy.divisor)
    matrices = [step for step in steps if isinstance(step, ndarray)]
    linear = len(matrices) == len(steps)
    affine = reduce(lambda total, matrix: matrix @ total, matrices, np.eye(fixed.dim + 1))
    back = np.linalg.inv(affine if linear else nearest_affine(as_warp(steps, fixed.affine, fixed.shape)))
    aligned = onto_grid(Image(moving.scaled().data, back @ moving.affine, moving.physical), grid)
    return aligned if linear else resample(aligned, as_warp([*steps, back], grid.affine, grid.shape))


def covers(moving: Image, warp: Warp) -> float:
    """Fraction of a warp's grid that it leads into an image."""
    to_voxels, within = np.linalg.inv(moving.affine), 0
    for slab in slabs(warp.shape):
        points = affine_slab(warp.affine, warp.shape, slab) + warp.displacement[:, slab]
        within += int(inside(transform_points(to_voxels, points), moving.shape).sum())
    return within / math.prod(warp.shape)


def _seen_through(moving: Image, warp: Warp, grid: Grid) -> Bool[Tensor, "1 1 *space"]:
    """Where a warp leads the voxels of a grid into an image's field of view."""
    on_grid = resample_warp(warp, grid.affine, grid.shape)
    points = affine_slab(grid.affine, grid.shape, slice(0, grid.shape[0])) + on_grid.displacement
    within = inside(transform_points(np.linalg.inv(moving.affine), points), moving.shape)
    return torch.from_numpy(within)[None, None]


def _remaining(own: Registered) -> Float[Tensor, "*space"]:
    """By how much a registration moves each voxel of the working grid, in millimetres."""
    field = from_voxel_displacement(own.result.final.displacement[0].cpu().numpy(), own.grid.affine)
    whole = followed_by(field, own.initial_affine)
    return torch.from_numpy(np.linalg.norm(whole.displacement, axis=0)).to(own.fixed)


def _measured(
    moving: Image, moved: Image, warp: Warp, own: Registered, assessment: Assessment, left: Tensor
) -> TransformMeasures:
    """All measures but the overlaps."""
    still, foreground, theirs = own.fixed, assessment.maps.foreground, assessment.measures
    given = torch.from_numpy(onto_grid(moved.scaled(), own.grid).data)[None, None].to(still)
    before = torch.from_numpy(onto_grid(moving.scaled(), own.grid).data)[None, None].to(still)
    reached = [
        pair_similarity(Pair(image, still, seen.to(still), own.pair.fixed_seen)).information
        for image, seen in ((before, seen_on(moving, own.grid)), (given, _seen_through(moving, warp, own.grid)))
    ]
    median, most = (float(value) for value in np.quantile(left[foreground].double().cpu().numpy(), (0.5, 0.95)))
    expected = theirs.expected_error
    folded, smallest = folds(warp)
    return TransformMeasures(
        unit=theirs.unit,
        expected_error=None if expected is None else float(np.maximum(median, expected)),  # NaN if either is
        remaining_displacement=median,
        remaining_displacement_95=most,
        own_expected_error=expected,
        training_distance=theirs.training_distance,
        overlap_before=math.nan,
        overlap=math.nan,
        mutual_information_before=reached[0],
        mutual_information_final=reached[1],
        mutual_information_own=theirs.mutual_information_final,
        local_correlation=float(local_correlation_map(given, still, WINDOW)[0, 0][foreground].mean()),
        rotation_ratio=theirs.rotation_ratio,
        folds_percent=folded,
        min_jacobian=smallest,
        log_jacobian=float(np.percentile(np.abs(np.log(np.maximum(jacobian(warp), 1e-6))), 99)),
        working_spacing=theirs.working_spacing,
        mirror_ratio=theirs.mirror_ratio,
    )


def folds(warp: Warp) -> tuple[float, float]:
    """Percentage of the cells of a warp's grid that fold, and the smallest determinant."""
    folded, cells, smallest = 0, 0, math.inf
    for slab in slabs(warp.shape):
        part = Warp(warp.displacement[:, slab.start : slab.stop + 1].astype(np.float64), warp.affine)
        if part.shape[0] < 2:  # the last layer: its cells were those of the layer before
            continue
        corners = strict_jacobian(torch.from_numpy(voxel_displacement(part))[None])[0].amin(0)
        folded, cells = folded + int((corners <= 0).sum()), cells + corners.numel()
        smallest = min(smallest, float(corners.min()))
    return 100 * folded / max(cells, 1), smallest


# --- checks ----------------------------------------------------------------------------------------------------------


def transform_checks(
    measures: TransformMeasures, limits: Limits | None, own: Sequence[Check], transformed: bool
) -> tuple[Check, ...]:
    """The checks of a transform's measures.

    Args:
        measures: of the transform.
        limits: those of the model's calibration, or None where it has none.
        own: the checks of the registration from where the transform puts the image.
        transformed: whether there is a transform: without one, some checks mean nothing.
    """
    return (
        _expected_error(measures, limits),
        _own_registration(measures, limits, own),
        *([_mutual_information(measures)] if transformed else []),
        orientation_check(measures),
        *mirror_checks(measures),
        *([_folding(measures), _stretch(measures)] if transformed else []),
        _overlap(measures),
    )


def _expected_error(measures: TransformMeasures, limits: Limits | None) -> Check:
    error, own, left = measures.expected_error, measures.own_expected_error, measures.remaining_displacement
    unit = measures.unit
    before, after = measures.mutual_information_final, measures.mutual_information_own
    moves = (
        f"from there, crossmorph's own registration moves the image by a further {left:.2g} {unit} (median; mutual "
        f"information {before:.3f} before and {after:.3f} after)"
    )
    if limits is None or error is None or own is None:
        message = f"This model has no calibration, so that the error is not known; {moves}."
        return Check(NOT_CALIBRATED, "warning", left, None, message)
    limit = limits.expected_error
    found = f"The expected error is {error:.2g} {unit} (median over the foreground), limit {limit:.2g}: {moves}"
    found += f" and is expected to be off by {own:.2g} {unit} itself"
    # Written so that NaN fails.
    if not left - own < limit:
        return Check("expected error", "failed", error, limit, f"{found}; the images are not aligned.")
    if not own < limits.expected_error_failed:
        advice = "; the images cannot be registered from there: check that both show the same anatomy."
        return Check("expected error", "failed", error, limits.expected_error_failed, found + advice)
    if not error < limit:
        return Check("expected error", "warning", error, limit, f"{found}; inspect the result.")
    return Check("expected error", "passed", error, limit, f"{found}.")


def _own_registration(measures: TransformMeasures, limits: Limits | None, own: Sequence[Check]) -> Check:
    """Whether the registration that the expected error rests on can be trusted."""
    raised = [check.name for check in own if check.name in RELIABLE and check.level != "passed"]
    error, limit = measures.own_expected_error, None if limits is None else limits.expected_error
    if not raised:
        message = "The registration from there, which the expected error rests on, passes its checks."
        return Check("own registration", "passed", error, limit, message)
    message = (
        f"The registration from there, which the expected error rests on, does not pass its checks "
        f"({', '.join(raised)}): the transform may be better than it seems."
    )
    return Check("own registration", "warning", error, limit, message)


def _mutual_information(measures: TransformMeasures) -> Check:
    before, after = measures.mutual_information_before, measures.mutual_information_final
    limit = MIN_KEPT * before
    found = f"Mutual information is {before:.3f} nats by the headers and {after:.3f} after the transform"
    if not after >= limit:
        advice = f"{found}: it falls; check the direction and the order of the transforms."
        return Check("mutual information", "failed", after, limit, advice)
    return Check("mutual information", "passed", after, limit, f"{found}.")


def _folding(measures: TransformMeasures) -> Check:
    folds = measures.folds_percent
    if folds <= 0:
        return Check("folding", "passed", folds, 0.0, "The transform does not fold.")
    found = f"The transform folds in {folds:.3f}% of the cells of the fixed image's grid: do not use it there."
    return Check("folding", "warning", folds, 0.0, found)


def _stretch(measures: TransformMeasures) -> Check:
    stretch, limit = math.exp(min(measures.log_jacobian, 20)), math.exp(MAX_STRETCH)
    found = f"Volumes change by a factor of up to {stretch:.1f} (99th percentile)"
    if measures.log_jacobian <= MAX_STRETCH:
        return Check("stretch", "passed", stretch, limit, f"{found}.")
    return Check("stretch", "warning", stretch, limit, f"{found}, limit {limit:.1f}: more than anatomy does.")


def _overlap(measures: TransformMeasures) -> Check:
    overlap = measures.overlap
    found = f"The moving image covers {overlap:.0%} of the fixed image's field of view"
    if overlap >= SMALL_OVERLAP:
        return Check("overlap", "passed", overlap, SMALL_OVERLAP, f"{found}.")
    return Check("overlap", "warning", overlap, SMALL_OVERLAP, f"{found}: check that both show the same anatomy.")
