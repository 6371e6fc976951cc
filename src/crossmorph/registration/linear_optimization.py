"""The last step of a rigid, similarity or affine registration: mutual information of many points, from near by.

A quasi-Newton method (L-BFGS) maximises, over the parameters ``p`` of a map

    T(x) = A (c + t + exp(G) (x - c)),    p = (t, g),    G = sum_k g_k G_k / r

the mutual information of the fixed image at points ``x`` and the moving image at ``T(x)``. ``A`` is the map that it
begins with, ``G_k`` a basis of the matrices that the stage allows, ``c`` the middle of what is compared and ``r`` its
mean distance from there, so that every parameter is a length. The points lie at random in the cells of a lattice and
not on voxels of either image: both are then interpolated alike wherever they lie, else maps under which voxels meet
voxels would seem better or worse than their neighbours (Pluim et al., CVIU 2000, doi:10.1006/cviu.1999.0816), and
thick slices would be drawn to each other.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import ndimage, optimize
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.functional.interpolation import inside, nearest
from crossmorph.functional.similarity import mi
from crossmorph.images.image import Image
from crossmorph.registration.affine_search import SHARED, TISSUE, generators
from crossmorph.registration.pair_similarity import LEAST_RANGE
from crossmorph.registration.settings import Freedom
from crossmorph.transforms.warp import transform_points


class Level(NamedTuple):
    """One round: ``detail`` in the longest side of the fixed field of view is what the images are averaged to.

    ``points`` are compared, in at most ``steps`` of the optimiser.
    """

    detail: int
    points: int
    steps: int


LEVELS = (Level(64, 2**15, 30), Level(128, 2**17, 30))
A_VOXEL = 2.0  # points at most in a voxel of the fixed image: more say nothing new
GAIN = 1e-6  # of the similarity; the optimiser ends at less


class Reached(NamedTuple):
    """A map, fixed to moving space in RAS millimetres, and the similarity of the last level there.

    ``similarity`` is times the part of the smaller field of view that is in both, so that a map gains nothing by moving
    the image out of sight.
    """

    matrix: Float[ndarray, "n n"]
    similarity: float


class _Compared(NamedTuple):
    """What a level looks at: points about ``middle`` and where the images are sampled.

    ``points``, ``(1, dim, n)``, and ``radius`` in the world's unit; ``to_voxels`` from the moving space to the moving
    image's voxels. ``shared`` is where both images show something, ``part`` how much of the smaller of the two that is,
    and ``common`` the part of the smaller field of view that is in both.
    """

    moving: Float[Tensor, "1 1 *space"]
    to_voxels: Float[ndarray, "n n"]
    points: Float[Tensor, "1 dim points"]
    middle: Float[ndarray, " dim"]
    radius: float
    still: Float[Tensor, "1 1 points"]
    shared: Bool[Tensor, "1 1 points"]
    part: float
    common: float


def optimise_linear(
    moving: Image,
    fixed: Image,
    start: Float[ndarray, "n n"],
    freedom: Freedom,
    levels: tuple[Level, ...] = LEVELS,
) -> Reached:
    """The map near a given one under which the images agree best.

    The same images give the same bits on the same number of threads.

    Args:
        moving: in [0, 1].
        fixed: in [0, 1].
        start: fixed to moving space, RAS millimetres.
        freedom: what may change.
        levels: from coarse to fine.

    Raises:
        InputError: there is nothing to compare from there.
    """
    reached = Reached(start, -np.inf)
    for level in levels:
        reached = _optimised(_compared(moving, fixed, reached.matrix, level), reached.matrix, freedom, level.steps)
    return reached


def _compared(moving: Image, fixed: Image, matrix: Float[ndarray, "n n"], level: Level) -> _Compared:
    box = _common_box(moving, fixed, matrix)
    extent = (box[1] - box[0]) * fixed.spacing
    ours, theirs = (_averaged(image, extent.max() / level.detail) for image in (fixed, moving))
    count = max(1, min(level.points, math.ceil(A_VOXEL * np.prod(box[1] - box[0]))))
    world = transform_points(fixed.affine, _scattered(box, extent, count))
    there = transform_points(np.linalg.inv(moving.affine) @ matrix, world)
    within = inside(there, moving.shape)
    smaller = min(np.prod(image.shape) * np.prod(image.spacing) for image in (moving, fixed))
    common = float(within.mean() * extent.prod() / smaller) if within.size else 0.0
    for image, places in ((moving, there), (fixed, transform_points(np.linalg.inv(fixed.affine), world))):
        if image.evidence is not None:
            within &= nearest(image.evidence, places)
    world = world[:, within]
    still = _sampled(ours, transform_points(np.linalg.inv(ours.affine), world))
    moved = _sampled(theirs, transform_points(np.linalg.inv(theirs.affine) @ matrix, world))
    if not all(values.numel() and values.max() - values.min() > LEAST_RANGE for values in (still, moved)):
        raise InputError(
            f"there is nothing to compare: the fields of view share {common:.0%} of the smaller one, and one image is "
            "constant there; expected images of the same anatomy in about the same place (--init affine searches)"
        )
    shown, shows = still > TISSUE, moved > TISSUE
    shared = shown & shows
    part = float(shared.sum() / torch.minimum(shown.sum(), shows.sum()).clamp_min(1))
    middle = world.mean(1)
    about = world - middle[:, None]
    points = torch.from_numpy(about).float()[None]
    radius = float(np.linalg.norm(about, axis=0).mean())
    data = torch.from_numpy(theirs.data)[None, None]
    to_voxels = np.linalg.inv(theirs.affine)
    return _Compared(data, to_voxels, points, middle, radius, still, shared, part, common)


def _common_box(moving: Image, fixed: Image, matrix: Float[ndarray, "n n"]) -> Float[ndarray, "2 dim"]:
    """The least and largest corner, in its voxels, of what of the fixed image's mask may be in both fields of view."""
    ends = np.array(list(product(*((-0.5, side - 0.5) for side in moving.shape)))).T
    there = transform_points(np.linalg.inv(fixed.affine) @ np.linalg.inv(matrix) @ moving.affine, ends)
    first, last = np.zeros(fixed.dim), np.array(fixed.shape) - 1
    if fixed.mask is not None and (places := np.argwhere(fixed.mask)).size:
        first, last = places.min(0), places.max(0)
    low = np.maximum(there.min(1), first - 0.5)
    return np.array([low, np.maximum(np.minimum(there.max(1), last + 0.5), low)])


def _averaged(image: Image, spacing: float) -> Image:
    """The image averaged over so many millimetres along every axis that is finer, and thinned out."""
    ratio = spacing / np.array(image.spacing)
    steps = np.maximum(np.floor(ratio), 1).astype(int)
    if (ratio <= 1).all():
        return image
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0) / 12)
    data = ndimage.gaussian_filter(image.data, sigma, mode="nearest")
    first = [(size - 1) % step // 2 for size, step in zip(image.shape, steps, strict=True)]
    data = data[tuple(slice(begin, None, step) for begin, step in zip(first, steps, strict=True))]
    affine = image.affine.copy()
    affine[:-1, -1] += affine[:-1, :-1] @ first
    affine[:-1, :-1] *= steps
    return Image(np.ascontiguousarray(data), affine, image.physical)


def _scattered(
    box: Float[ndarray, "2 dim"], extent: Float[ndarray, " dim"], count: int
) -> Float[ndarray, "dim points"]:
    """About so many points in a box of such sides, one at random in each cell of a lattice; in the box's unit."""
    cell = (extent.prod() / count) ** (1 / len(extent))
    cells = np.ceil(np.minimum(extent / max(cell, 1e-9), count)).astype(int)
    corners = np.indices(cells).reshape(len(extent), -1)
    places = (corners + np.random.default_rng(0).random(corners.shape)) / np.maximum(cells, 1)[:, None]
    return box[0][:, None] + places * (box[1] - box[0])[:, None]


def _sampled(image: Image, voxels: Float[ndarray, "dim points"]) -> Float[Tensor, "1 1 points"]:
    return _at(torch.from_numpy(image.data)[None, None], torch.from_numpy(voxels).float()[None])


def _at(image: Float[Tensor, "1 1 *space"], points: Float[Tensor, "1 dim points"]) -> Float[Tensor, "1 1 points"]:
    """The image at points in its voxels, the edge's value beyond it."""
    ones = (1,) * (image.ndim - 3)
    return spatial.sample(image, points.unflatten(2, (*ones, -1))).flatten(2)


@torch.inference_mode(False)
@torch.enable_grad()
def _optimised(compared: _Compared, start: ndarray, freedom: Freedom, steps: int) -> Reached:
    dim = len(start) - 1
    basis = generators(freedom, dim).double() / compared.radius
    # About the middle: single precision then has no large numbers to lose.
    about = np.eye(dim + 1)
    about[:-1, -1] = compared.middle
    into = torch.from_numpy(compared.to_voxels @ start @ about)

    def change(parameters: Tensor) -> Tensor:
        turn = torch.linalg.matrix_exp(torch.tensordot(parameters[dim:], basis, 1))
        rows = torch.cat([turn, parameters[:dim, None]], dim=1)
        return torch.cat([rows, torch.eye(dim + 1, dtype=rows.dtype)[-1:]])

    def loss(values: ndarray) -> tuple[float, ndarray]:
        parameters = torch.from_numpy(values).requires_grad_()
        matrix = (into @ change(parameters)).float()
        points = torch.baddbmm(matrix[None, :dim, dim:], matrix[None, :dim, :dim], compared.points)
        moved = _at(compared.moving, points)
        similarity = mi(moved, compared.still)
        if compared.part:
            similarity = similarity + SHARED * compared.part * mi(moved, compared.still, compared.shared)
        (gradient,) = torch.autograd.grad(-similarity.sum(), parameters)
        return -float(similarity.detach()), gradient.numpy()

    found = optimize.minimize(
        loss,
        np.zeros(dim + len(basis)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "ftol": GAIN},
    )
    total = about @ change(torch.from_numpy(found.x)).numpy() @ np.linalg.inv(about)
    return Reached(start @ total, -float(found.fun) * compared.common)
