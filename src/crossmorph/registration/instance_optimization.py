"""Instance optimisation of slices: a few steps on the control points of one more flow, for this very pair.

The networks' field is followed by the flow of a stationary velocity of cubic B-splines, ``phi = phi_net o phi_r``, and
the control points maximise

    J = MI(M o phi, F) + a NCC(T o phi, F) - b E(phi)

where T is the translation and ``E`` the bending energy of the whole of ``phi``, not of ``phi_r`` alone: what the
networks bent without need is then straightened too, and rotation, scale and shear cost nothing. Control points rather
than a dense field, because a dense one fits the images' noise. For volumes there is
:mod:`crossmorph.registration.instance_optimization_3d`.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.functional.adam import Adam
from crossmorph.functional.regularization import bending_energy
from crossmorph.functional.similarity import mi
from crossmorph.networks.hierarchy import Flow, chain

SPACING = 4.0  # voxels between control points: 6 mm for the default model
NCC_WEIGHT = 20.0
WINDOW = 9  # voxels a side, as in training
BENDING_WEIGHT = 40.0  # for displacements in voxels
SQUARINGS = 4  # what is left to correct is a few voxels
RATE, MOMENTS = 0.4, (0.7, 0.9)  # ADAM's step in voxels, and its memories: short, as there are few steps
MOST_STEPS = 100
# It has stopped gaining when the last so many steps together raised J by less than this.
PATIENCE, LEAST_GAIN = 8, 2e-3

Objective = Callable[[Tensor], Tensor]


class Refinement(NamedTuple):
    """What the refinement did.

    Attributes:
        final: ``phi_net o phi_r`` and its inverse; the very flow that came in where ``improved`` is false.
        steps: steps taken.
        seconds: wall time of all of it.
        before: the objective of the given field; larger is better.
        after: the objective of ``final``, never smaller.
        improved: whether ``final`` is a new flow.
    """

    final: Flow
    steps: int
    seconds: float
    before: float
    after: float
    improved: bool


class SeenPair(NamedTuple):
    """A pair of images in [0, 1] on the working grid, ``(1, 1, *space)`` each.

    ``translated`` is the moving image in the fixed one's modality, still where the moving image is, or the moving image
    itself.
    """

    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    translated: Float[Tensor, "1 1 *space"]


class _Optimised(NamedTuple):
    """The best control points seen, the steps taken, and the objective of the first and of the best."""

    controls: Tensor
    steps: int
    before: float
    after: float


def refine(
    pairs: Sequence[SeenPair],
    final: Flow,
    seconds: float | None,
    steps: int = MOST_STEPS,
    where: Bool[Tensor, "1 1 *space"] | None = None,
) -> Refinement:
    """Optimise the field of one pair, starting from the networks' field.

    It ends when the objective stops gaining, the steps are used up or the time is; the best field seen is the result.
    That field is rejected if it is no better than the given one, or if it folds a cell that did not fold before
    (strictly, :func:`crossmorph.functional.spatial.strict_jacobian`). The same steps give the same bits; the same time
    need not.

    Args:
        pairs: of images that one field aligns; with more than one the similarities are added.
        final: the networks' field on this grid and its inverse, voxels.
        seconds: wall time allowed, all included, kept by the pace of the first steps; None: no limit.
        steps: the most steps.
        where: the voxels of the fixed image that count; None: all.

    Returns:
        The refined flow and how it came about; nothing that came in is changed or gets a gradient.

    Raises:
        InputError: a negative budget.
    """
    began = time.perf_counter()
    if steps < 0 or (seconds is not None and not seconds >= 0):
        raise InputError(f"received {seconds} seconds and {steps} steps to refine; expected at least 0 of each")
    # Tensors made while inferring cannot take part in a gradient, hence the copies.
    with torch.inference_mode(False), torch.enable_grad():
        pairs = [SeenPair(*(image.detach().clone() for image in pair)) for pair in pairs]
        fixed = pairs[0].fixed
        start = Flow(*(field.detach().clone() for field in final))
        bases = _bases(fixed)
        folded = spatial.folds(start.displacement)
        # The last check will take about as long as the first.
        deadline = math.inf if seconds is None else 2 * began + seconds - time.perf_counter()
        objective = _objective(pairs, start.displacement, bases, where)
        controls = fixed.new_zeros(1, len(bases), *(basis.shape[1] for basis in bases))
        found = _optimise(objective, controls, steps, deadline)
    improved = found.after > found.before
    if improved:
        with torch.no_grad():
            refined = chain(start, _flow(found.controls, bases, fixed.shape[2:]))
            improved = bool((spatial.folds(refined.displacement) <= folded).all())
    return Refinement(
        final=refined if improved else final,
        steps=found.steps,
        seconds=time.perf_counter() - began,
        before=found.before,
        after=found.after if improved else found.before,
        improved=improved,
    )


def _bases(fixed: Tensor) -> list[Tensor]:
    """B-splines of each axis at the voxels of half the resolution, in half the voxels: integrating there is cheap."""
    half = [(size + 1) // 2 for size in fixed.shape[2:]]
    ratios = [small / size for small, size in zip(half, fixed.shape[2:], strict=True)]
    return [
        torch.from_numpy(spatial.bspline_basis(small, SPACING * ratio)).to(fixed)
        for small, ratio in zip(half, ratios, strict=True)
    ]


def _velocity(controls: Tensor, bases: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The velocity at half resolution, in its voxels, of control points in voxels of ``shape``."""
    velocity = controls
    for axis, basis in enumerate(bases, start=2):
        velocity = (velocity.movedim(axis, -1) @ basis.T).movedim(-1, axis)
    ratio = [half / size for half, size in zip(velocity.shape[2:], shape, strict=True)]
    return velocity * velocity.new_tensor(ratio).view(1, -1, *[1] * len(shape))


def _flow(controls: Tensor, bases: list[Tensor], shape: tuple[int, ...]) -> Flow:
    velocity = _velocity(controls, bases, shape)
    both = spatial.integrate(torch.cat([velocity, -velocity]), SQUARINGS)
    return Flow(*spatial.resize(both, shape).chunk(2))


def _objective(pairs: Sequence[SeenPair], displacement: Tensor, bases: list[Tensor], where: Tensor | None) -> Objective:
    """``J`` of the control points, larger is better."""
    shape = tuple(displacement.shape[2:])
    points = spatial.identity_grid(shape).to(displacement)
    similarities = [_similarity(pair, where) for pair in pairs]

    def objective(controls: Tensor) -> Tensor:
        residual = spatial.integrate(_velocity(controls, bases, shape), SQUARINGS)
        whole = _composed(displacement, residual, points, shape)
        similarity = similarities[0](points + whole)
        if len(pairs) > 1:
            similarity = torch.stack([each(points + whole) for each in similarities]).sum(0)
        return (similarity - BENDING_WEIGHT * bending_energy(whole)).squeeze(0)

    return objective


def _similarity(pair: SeenPair, where: Tensor | None) -> Objective:
    """``MI + a NCC`` of a pair, of the points that the voxels are taken to."""
    images = torch.cat([pair.moving, pair.translated], dim=1)
    correlation = _correlation(pair.fixed, WINDOW, where)

    def similarity(places: Tensor) -> Tensor:
        moved, translation = spatial.sample(images, places).split(1, dim=1)
        return mi(moved, pair.fixed, where) + NCC_WEIGHT * correlation(translation)

    return similarity


def _composed(displacement: Tensor, residual: Tensor, points: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``phi_net o phi_r`` at some points, as a displacement; the residual at half the resolution, in its voxels."""
    ratio = [full / half for full, half in zip(shape, residual.shape[2:], strict=True)]
    scale = points.new_tensor(ratio).view(1, -1, *[1] * len(shape))
    here = spatial.sample(residual, (points + 0.5) / scale - 0.5) * scale
    return here + spatial.sample(displacement, points + here)


def _correlation(fixed: Tensor, window: int, where: Tensor | None) -> Objective:
    """:func:`crossmorph.functional.similarity.ncc` with this image, by every other window along each axis.

    The windows overlap so much that the others say nothing new. Sums by matrices that hold the window of each centre
    in a row cost less than sums over shifted copies, and the fixed image's are taken once. Windows that reach beyond
    ``where`` do not count.
    """
    bands = []
    for size in fixed.shape[2:]:
        place = torch.arange(size, device=fixed.device)
        bands.append(((place[::2, None] - place).abs() <= window // 2).to(fixed))

    def total(image: Tensor) -> Tensor:
        for axis, band in enumerate(bands, start=2):
            image = (image.movedim(axis, -1) @ band.T).movedim(-1, axis)
        return image

    size, j, jj = total(torch.cat([torch.ones_like(fixed), fixed, fixed * fixed], dim=1)).split(1, dim=1)
    variance = (jj - j * j / size).clamp_min(0)
    within = None if where is None else (total(where.to(fixed)) > size - 0.5).to(fixed)

    def correlation(moved: Tensor) -> Tensor:
        i, ii, ij = total(torch.cat([moved, moved * moved, moved * fixed], dim=1)).split(1, dim=1)
        cross = ij - i * j / size
        squared = (cross * cross / ((ii - i * i / size).clamp_min(0) * variance + 1e-5)).flatten(1)
        return squared.mean(1) if within is None else (squared * within.flatten(1)).sum(1) / within.sum().clamp_min(1)

    return correlation


def _optimise(objective: Objective, controls: Tensor, steps: int, deadline: float) -> _Optimised:
    """ADAM from the given control points until steps, time or gain end; none is lost, as the best point is kept."""
    began = time.perf_counter()
    best = controls
    adam = Adam(controls, MOMENTS)
    highest: list[float] = []
    while True:
        controls = controls.detach().requires_grad_()
        value = objective(controls)
        reached = float(value.detach())
        if not highest or reached > highest[-1]:
            best = controls.detach()
        highest.append(max(highest[-1], reached) if highest else reached)
        taken = len(highest) - 1
        now = time.perf_counter()
        stuck = taken >= PATIENCE and not highest[-1] - highest[-1 - PATIENCE] >= LEAST_GAIN
        if taken >= steps or stuck or now + (now - began) / (taken + 1) > deadline:
            return _Optimised(best, taken, highest[0], highest[-1])
        (gradient,) = torch.autograd.grad(value, controls)
        controls = controls + RATE * adam.direction(gradient)
