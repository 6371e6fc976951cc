"""Points that correspond pull a field: flows of smooth velocities, from wide ones to narrow ones.

The field ``phi`` is followed by flows, ``phi o exp(v_1) o exp(v_2) ..``, until it leads every point ``p`` of the fixed
image to within the stated accuracy of its partner ``q``. With ``r_i = phi^-1(q_i) - p_i`` what is missing, shortened by
part of the accuracy, each velocity is

    v(x) = sum_i k(|x - p_i|) a_i,    (K + e I) a = r,

the smoothest one that does it in the space of a Gaussian kernel ``k`` (regularised interpolation by radial basis
functions; Rohr et al., IEEE TMI 2001, doi:10.1109/42.929618, for landmarks with errors). Flows of smooth velocities
fold nothing; one that folds on the grid all the same is left out.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.networks.hierarchy import Flow, chain

WIDTHS = (40.0, 20.0, 10.0, 6.0)  # standard deviation of the kernel, millimetres
TRIES = 6  # flows of each width
KEPT = 0.5  # of the accuracy is left, so that a point is moved no further than need be
RIDGE = 1e-3
SQUARINGS = 6


class VoxelPoints(NamedTuple):
    """Points in voxels of the grid of a field, ``(n, dim)``; ``accuracy`` and ``widths`` in voxels too."""

    fixed: Float[Tensor, "n dim"]
    moving: Float[Tensor, "n dim"]
    accuracy: float
    widths: tuple[float, ...]


@torch.inference_mode()
def follow_points(flow: Flow, points: VoxelPoints) -> Flow:
    """The field, bent until it leads each point to its partner within the accuracy, or as near as it can be.

    Args:
        flow: the field and its inverse, voxels.
        points: of the same grid.
    """
    best, folds = flow, spatial.folds(flow.displacement)
    for width in points.widths:
        for _ in range(TRIES):
            missed = missing(best, points)
            if bool((missed.norm(dim=1) <= points.accuracy).all()):
                return best
            tried = chain(best, _pulled(best, points, width))
            nearer = missing(tried, points).norm(dim=1).max() < missed.norm(dim=1).max()
            if not nearer or not (spatial.folds(tried.displacement) <= folds).all():
                break
            best = tried
    return best


def missing(flow: Flow, points: VoxelPoints) -> Float[Tensor, "n dim"]:
    """Where each point should be less where the field leads it, voxels."""
    return points.moving - points.fixed - _at(flow.displacement, points.fixed)


def _pulled(flow: Flow, points: VoxelPoints, width: float) -> Flow:
    """The flow that leads the points to where the field takes them to their partners."""
    wanted = points.moving + _at(flow.inverse, points.moving) - points.fixed
    length = missing(flow, points).norm(dim=1, keepdim=True)
    short = (1 - KEPT * points.accuracy / length.clamp_min(1e-6)).clamp_min(0) * (length > points.accuracy)
    kernel = torch.exp(-torch.cdist(points.fixed, points.fixed).square() / (2 * width**2))
    weights = torch.linalg.solve(kernel + RIDGE * torch.eye(len(kernel)).to(kernel), wanted * short)
    velocity = torch.zeros_like(flow.displacement)
    axes = [torch.arange(side).to(kernel) for side in velocity.shape[2:]]
    for place, weight in zip(points.fixed, weights, strict=True):
        bump = torch.ones(()).to(kernel)
        for axis, (coordinates, centre) in enumerate(zip(axes, place, strict=True)):
            profile = torch.exp(-(coordinates - centre).square() / (2 * width**2))
            bump = bump * profile.view([-1 if k == axis else 1 for k in range(len(axes))])
        velocity += weight.view(1, -1, *[1] * len(axes)) * bump
    both = spatial.integrate(torch.cat([velocity, -velocity]), SQUARINGS)
    return Flow(*both.chunk(2))


def _at(field: Float[Tensor, "1 dim *space"], places: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """The field at some places, linear between voxels."""
    ones = (1,) * (places.shape[1] - 1)
    return spatial.sample(field, places.T[None].unflatten(2, (*ones, -1))).flatten(2)[0].T
