"""The initial affine without a network: a search over rotations, then gradient ascent.

For hierarchies that have no affine network, as that of volumes: a second of optimisation costs less there than the
networks after it. Everything runs at low resolution, in one order, so that the same images give the same bits.
"""

from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.adam import Adam
from crossmorph.functional.similarity import mi
from crossmorph.networks.affine import Affine, move, same_place

SIDES = {2: (32, 64), 3: (24, 40)}  # voxels a side of the low-resolution grids, of the search and of the last ascent
STEPS = (40, 24)  # of ascent on each
TURN = 0.6  # radians between the rotations tried about each axis
TURNED = {2: 2, 3: 1}  # rotations to either side
AROUND = 5  # of slices, where they may lie any way: 11 rotations of 33 degrees
KEPT = 3  # candidates that are optimised
TISSUE = 0.05  # brighter voxels show something
SHARED = 0.5  # weight of the mutual information where both images show something
RATE = 0.04  # of ADAM, in radians, logarithms of size, and half sides of the grid
MOMENTS = 0.8, 0.95


class _View(NamedTuple):
    """Both images at low resolution, how many of their voxels make one of it, and the fixed one on the square grid."""

    fixed: Tensor
    moving: Tensor
    shrunk: float
    side: int
    still: Tensor


@torch.inference_mode(False)
@torch.enable_grad()
def search_affine(
    moving: Float[Tensor, "1 1 *moving"], fixed: Float[Tensor, "1 1 *fixed"], start: Affine, around: bool = False
) -> Affine:
    """The affine map under which the moving image fits best, or the start if none fits better.

    Rotations about the images' centres of intensity, and the given map, are compared at low resolution; the best few
    are optimised by ADAM on the logarithm of the matrix and the shift, and the best of these once more at a higher
    resolution.

    Args:
        moving: the moving image in [0, 1].
        fixed: the fixed image in [0, 1], with voxels of the same size; its grid may have another shape.
        start: the map to begin with.
        around: whether slices are rotated by any angle. Brains look much the same upside down, so that a pair whose
            orientation is right may fit better rotated by 180 degrees.
    """
    fixed, moving = fixed.detach().clone(), moving.detach().clone()
    start = Affine(*(part.detach().clone() for part in start))
    coarse, fine = (_view(fixed, moving, side) for side in SIDES[fixed.ndim - 2])
    tried = _join([start, _turned(coarse, start, around)])
    kept = _take(tried, _similarity(coarse, tried).argsort(descending=True)[:KEPT])
    ascended = _ascend(coarse, _join([start, kept]), STEPS[0])
    best = _similarity(coarse, ascended).argmax().unsqueeze(0)
    candidates = _join([start, _take(ascended, best), _ascend(fine, _take(ascended, best), STEPS[1])])
    return _take(candidates, _similarity(fine, candidates).argmax().unsqueeze(0))


def _view(fixed: Tensor, moving: Tensor, side: int) -> _View:
    shrunk = max(1.0, max(fixed.shape[2:]) / side)
    small = [spatial.resize_image(_averaged(image, shrunk), _divided(image, shrunk)) for image in (fixed, moving)]
    still = move(small[0], same_place(small[0]), tuple(small[0].shape[2:]), side)
    return _View(small[0], small[1], shrunk, side, still)


def _averaged(image: Tensor, factor: float) -> Tensor:
    """Halved as often as the factor says: linear resampling averages neighbours only."""
    while factor >= 2:
        image, factor = spatial.resize_image(image, _divided(image, 2.0)), factor / 2
    return image


def _divided(image: Tensor, factor: float) -> tuple[int, ...]:
    return tuple(max(1, round(size / factor)) for size in image.shape[2:])


def _turned(view: _View, start: Affine, around: bool) -> Affine:
    """Rotations that lay the moving image's centre of intensity on the fixed one's."""
    dim = view.fixed.ndim - 2
    steps = AROUND if around and dim == 2 else TURNED[dim]
    reach = [TURN * step for step in range(-steps, steps + 1)]
    planes = [(i, j) for j in range(dim) for i in range(j)]
    generators = torch.zeros(len(reach) ** len(planes), dim, dim)
    for turn, angles in zip(generators, product(reach, repeat=len(planes)), strict=True):
        for (i, j), angle in zip(planes, angles, strict=True):
            turn[i, j], turn[j, i] = -angle, angle
    matrices = start.matrix @ torch.linalg.matrix_exp(generators.to(view.fixed))
    centres = [_centre_of_intensity(image) for image in (view.fixed, view.moving)]
    shifts = centres[1] - torch.einsum("bij,j->bi", matrices, centres[0])
    return Affine(matrices, shifts * view.shrunk)


def _centre_of_intensity(image: Tensor) -> Float[Tensor, " dim"]:
    """In voxels from the centre of the grid."""
    shape = tuple(image.shape[2:])
    points = spatial.identity_grid(shape).to(image).flatten(2) - (torch.tensor(shape).to(image).view(1, -1, 1) - 1) / 2
    weights = image.flatten(2)
    return ((points * weights).sum(2) / weights.sum(2).clamp_min(1e-6))[0]


def _similarity(view: _View, affine: Affine) -> Float[Tensor, " maps"]:
    """How well the moving image fits the fixed one under each map, ``MI + 0.5 s MI_shared``.

    ``MI_shared`` is that of the voxels where both show something, and ``s`` how much of the smaller of the two shares.
    Mutual information alone enlarges a brain until it fills the head of the other image; the shared one alone is high
    where next to nothing is shared.
    """
    shape, count = tuple(view.fixed.shape[2:]), len(affine.matrix)
    small = Affine(affine.matrix, affine.shift / view.shrunk)
    moved = move(view.moving.expand(count, *view.moving.shape[1:]), small, shape, view.side)
    still = view.still.expand_as(moved)
    ours, theirs = moved.detach() > TISSUE, still > TISSUE
    shared = ours & theirs
    smaller = torch.minimum(_count(ours), _count(theirs))
    part = _count(shared) / smaller.clamp_min(1)
    return mi(moved, still) + SHARED * part * mi(moved, still, shared)


def _count(where: Tensor) -> Float[Tensor, " maps"]:
    return where.flatten(1).sum(1).float()


def _ascend(view: _View, start: Affine, steps: int) -> Affine:
    """ADAM with a rate that falls to 0; every map is optimised on its own."""
    dim, half = view.fixed.ndim - 2, max(view.fixed.shape[2:]) * view.shrunk / 2
    parameters = view.fixed.new_zeros(len(start.matrix), dim * (dim + 1))
    adam = Adam(parameters, MOMENTS)
    for step in range(steps):
        parameters = parameters.detach().requires_grad_()
        affine = _changed(start, parameters, half)
        (gradient,) = torch.autograd.grad(_similarity(view, affine).sum(), parameters)
        parameters = parameters + RATE * (1 - step / steps) * adam.direction(gradient)
    return Affine(*(part.detach() for part in _changed(start, parameters, half)))


def _changed(start: Affine, parameters: Tensor, half: float) -> Affine:
    """A map after one about the fixed centre: shift in half sides, then the logarithm of a matrix."""
    dim = start.shift.shape[1]
    turn = torch.linalg.matrix_exp(parameters[:, dim:].unflatten(1, (dim, dim)))
    shift = torch.einsum("bij,bj->bi", start.matrix, parameters[:, :dim] * half) + start.shift
    return Affine(start.matrix @ turn, shift)


def _join(affines: list[Affine]) -> Affine:
    return Affine(*(torch.cat(parts) for parts in zip(*affines, strict=True)))


def _take(affine: Affine, index: Tensor) -> Affine:
    return Affine(affine.matrix[index], affine.shift[index])
