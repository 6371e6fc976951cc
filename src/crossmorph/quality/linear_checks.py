"""Measures and checks of a rigid, similarity or affine registration, which need no network.

A right map is found again from elsewhere: with the images exchanged, and from a start a little aside. And no map is
right under which the images agree less than when one is turned upside down.
"""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import expm

from crossmorph.functional.similarity import foreground
from crossmorph.images.image import Image
from crossmorph.quality.assessment import Check, LinearAssessment, LinearMeasures
from crossmorph.registration.affine_search import generators
from crossmorph.registration.linear import RegisteredLinear, search_grid
from crossmorph.registration.linear_optimization import LEVELS, optimise_linear
from crossmorph.registration.pair_similarity import Pair, pair_similarity, seen_on
from crossmorph.registration.settings import Freedom
from crossmorph.system.progress import stage
from crossmorph.transforms.grid import Grid, onto_grid
from crossmorph.transforms.warp import fields_overlap, transform_points

# The limits of deformable registrations, crossmorph.quality.checks.
MIN_KEPT, MAX_STRETCH, MIN_OVERLAP = 0.8, 2.0, 0.6
ROTATION_WARNING, ROTATION_FAILED = 1.0, 1.1
ASIDE = 0.02, 0.05  # of the longest side of the fixed field of view, and radians: where the map is looked for again
# Of that side: detail that the last level averages away, about 2 mm of a head. Maps that differ by less agree.
MAX_CHANGE = 1 / LEVELS[-1].detail


def assess_linear(registered: RegisteredLinear, moving: Image, fixed: Image) -> LinearAssessment:
    """Measure and check a registered pair; takes about as long as registering it.

    Args:
        registered: the registered pair.
        moving: the moving image as it was given.
        fixed: the fixed image as it was given.
    """
    stage("checks")
    source, target = moving.scaled(), fixed.scaled()
    matrix, grid = registered.matrix, search_grid(source, target)
    still = torch.from_numpy(onto_grid(target, grid).data)[None, None]
    inside = np.argwhere(foreground(still)[0, 0].numpy()).T.astype(np.float64)
    points = transform_points(grid.affine, inside)
    side = float((np.array(fixed.shape) * fixed.spacing).max())
    swapped = optimise_linear(target, source, np.linalg.inv(matrix), registered.freedom).matrix
    aside = _aside(matrix, points.mean(1), side)
    again = optimise_linear(source, target, aside, registered.freedom).matrix
    determinant = float(np.linalg.det(matrix[:-1, :-1]))
    measures = LinearMeasures(
        unit=fixed.unit,
        overlap_before=fields_overlap(moving, fixed),
        overlap=registered.overlap,
        mutual_information_before=_information(source, target, still, grid, np.eye(len(matrix))),
        mutual_information_final=_information(source, target, still, grid, matrix),
        swap_consistency=_apart(swapped @ matrix, np.eye(len(matrix)), points),
        shift_consistency=_apart(again, matrix, points),
        rotation_ratio=_rotation_ratio(source, target, matrix, points.mean(1), registered.freedom),
        folds_percent=0.0,
        min_jacobian=determinant,
        log_jacobian=abs(math.log(max(determinant, 1e-6))),
        largest_change=MAX_CHANGE * side,
    )
    return LinearAssessment(measures, check_linear(measures))


def _information(source: Image, target: Image, still: torch.Tensor, grid: Grid, matrix: Float[ndarray, "n n"]) -> float:
    laid = replace(source, affine=np.linalg.inv(matrix) @ source.affine)
    moved = torch.from_numpy(onto_grid(laid, grid).data)[None, None]
    return pair_similarity(Pair(moved, still, seen_on(laid, grid).to(moved), seen_on(target, grid))).information


def _about(turn: Float[ndarray, "dim dim"], middle: Float[ndarray, " dim"]) -> Float[ndarray, "n n"]:
    matrix = np.eye(len(middle) + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = turn, middle - turn @ middle
    return matrix


def _aside(matrix: Float[ndarray, "n n"], middle: Float[ndarray, " dim"], side: float) -> Float[ndarray, "n n"]:
    """The map after a shift and a rotation, both about the diagonal."""
    dim = len(middle)
    basis = generators("rigid", dim).double().numpy()
    change = _about(expm(ASIDE[1] * basis.sum(0) / math.sqrt(len(basis))), middle)
    change[:-1, -1] += ASIDE[0] * side / math.sqrt(dim)
    return np.asarray(matrix @ change)


def _apart(first: Float[ndarray, "n n"], other: Float[ndarray, "n n"], points: Float[ndarray, "dim points"]) -> float:
    difference = transform_points(first, points) - transform_points(other, points)
    return float(np.linalg.norm(difference, axis=0).mean())


def _rotation_ratio(
    source: Image, target: Image, matrix: Float[ndarray, "n n"], middle: Float[ndarray, " dim"], freedom: Freedom
) -> float:
    """The most that the first level reaches from a rotation by 180 degrees, over what it reaches from the map."""
    signs = [np.array(sign) for sign in product((-1.0, 1.0), repeat=len(middle)) if sign.count(-1.0) == 2]
    reached = [
        optimise_linear(source, target, matrix @ _about(np.diag(sign), middle), freedom, LEVELS[:1]).similarity
        for sign in (np.ones(len(middle)), *signs)
    ]
    return max(reached[1:]) / max(reached[0], 1e-6)


# --- checks ----------------------------------------------------------------------------------------------------------


def check_linear(measures: LinearMeasures) -> tuple[Check, ...]:
    """The checks of a pair's measures."""
    return (
        _mutual_information(measures),
        _orientation(measures),
        _found_again("swap consistency", measures.swap_consistency, "Exchanging the images", measures),
        _found_again("shift consistency", measures.shift_consistency, "Starting a little aside", measures),
        _stretch(measures),
        _overlap(measures),
    )


def _mutual_information(measures: LinearMeasures) -> Check:
    before, after = measures.mutual_information_before, measures.mutual_information_final
    # Here and below written so that NaN fails.
    fell = not after >= MIN_KEPT * before
    found = f"Mutual information was {before:.3f} nats before and is {after:.3f} after registration"
    advice = ": it fell; check that both images show the same anatomy." if fell else "."
    return Check("mutual information", "failed" if fell else "passed", after, MIN_KEPT * before, found + advice)


def _orientation(measures: LinearMeasures) -> Check:
    ratio = measures.rotation_ratio
    found = f"Rotating the moving image by 180 degrees gives {ratio:.2f} times the similarity"
    if ratio < ROTATION_WARNING:
        return Check("orientation", "passed", ratio, ROTATION_WARNING, f"{found}.")
    failed = not ratio < ROTATION_FAILED
    limit = ROTATION_FAILED if failed else ROTATION_WARNING
    advice = f"{found}: one image may be upside down; give a start that rotates it (--init FILE)."
    return Check("orientation", "failed" if failed else "warning", ratio, limit, advice)


def _found_again(name: str, value: float, change: str, measures: LinearMeasures) -> Check:
    limit = measures.largest_change
    found = f"{change} changes the result by {value:.2f} {measures.unit} (mean), limit {limit:.2f}"
    if value < limit:
        return Check(name, "passed", value, limit, f"{found}.")
    advice = f"{found}: the result is unstable; inspect it, or give a better start (--init FILE)."
    return Check(name, "warning", value, limit, advice)


def _stretch(measures: LinearMeasures) -> Check:
    stretch, limit = math.exp(min(measures.log_jacobian, 20)), math.exp(MAX_STRETCH)
    found = f"Volumes change by a factor of {stretch:.2f}"
    if measures.log_jacobian <= MAX_STRETCH:
        return Check("stretch", "passed", stretch, limit, f"{found}.")
    advice = f"{found}, limit {limit:.1f}: more than anatomy does; try --stage rigid."
    return Check("stretch", "warning", stretch, limit, advice)


def _overlap(measures: LinearMeasures) -> Check:
    before, after = measures.overlap_before, measures.overlap
    small = not after >= MIN_OVERLAP
    found = (
        f"The moving image covers {before:.0%} of the fixed image's field of view by its header, {after:.0%} after "
        "registration"
    )
    advice = ": check that both images show the same anatomy." if small else "."
    return Check("overlap", "warning" if small else "passed", after, MIN_OVERLAP, found + advice)
