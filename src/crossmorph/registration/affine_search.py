"""The initial affine without a network: a search over rotations and shifts, then gradient ascent.

For hierarchies that have no affine network, as that of volumes: a second of optimisation costs less there than the
networks after it. Everything runs at low resolution, in one order, so that the same images give the same bits.

The search samples the moving image at the voxels of the fixed image, or the other way round where the moving image
shows less: a block of a head fills a few voxels of the head's grid, too few for a histogram. In the code below
``still`` is the image whose voxels are used, ``other`` the one that is sampled.
"""

from itertools import permutations, product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.adam import Adam
from crossmorph.functional.similarity import mi
from crossmorph.networks.affine import Affine, canvas, move, same_place
from crossmorph.registration.settings import Freedom

# Voxels a side of the low-resolution grids, of the shifts, of the search and of the last ascent.
SIDES = {2: (24, 32, 64), 3: (16, 24, 40)}
STEPS = (40, 24)  # of ascent on the last two
TURN = 0.6  # radians between the rotations tried about each axis
TURNED = {2: 2, 3: 1}  # rotations to either side
AROUND = 5  # of slices, where they may lie any way: 11 rotations of 33 degrees
# Of volumes, where they may lie any way: the 24 rotations of a cube, 27 smaller ones about each. The best of them at
# the lowest resolution are compared with the others.
AROUND_TURN, AROUND_KEPT = 0.5, 30
KEPT = 5  # candidates that are optimised
TISSUE = 0.05  # brighter voxels show something
MOSTLY = 0.5  # of a voxel of the search: in the mask
SHARED = 0.5  # weight of the mutual information where both images show something
# Weight of the change of size: 0.005 for a tenth in all directions, 0.04 for a quarter. Without it a head that ends at
# the mouth is stretched over the neck of the other.
STRETCH = 0.2
SHORTER = 0.8  # an extent this much shorter is slid along the other image's
SLIDE = 0.3  # of the shorter extent, from one position to the next
RATE = 0.04  # of ADAM, in radians, logarithms of size, and half sides of the grid
MOMENTS = 0.8, 0.95


class View(NamedTuple):
    """An image to search with: voxels in [0, 1], ``(1, 1, *space)``, and half the sides of its field of view.

    The field of view is a box about the grid's centre, along its axes; its sides are in voxels. ``mask`` is 1 where the
    image may be looked at, 0 elsewhere.
    """

    image: Float[Tensor, "1 1 *space"]
    half: Float[Tensor, " dim"]
    mask: Float[Tensor, "1 1 *space"] | None = None


class _Pair(NamedTuple):
    """Two images at low resolution: ``shrunk`` of their voxels make one of it.

    ``still`` is on a square grid of ``side`` voxels that spans the longest side of ``shape``, at ``points`` about its
    centre, ``(1, dim, voxels)``, ``still_seen`` where it is in the field of view and in the mask; ``half`` and
    ``other_mask`` are of the other image.
    """

    shape: tuple[int, ...]
    other: Tensor
    other_mask: Tensor | None
    half: Tensor
    shrunk: float
    points: Tensor
    still: Tensor
    still_seen: Tensor
    stretch: float

    @property
    def voxel(self) -> float:
        """Side of a voxel of the square grid."""
        return max(self.shape) / self.still.shape[-1]


@torch.inference_mode(False)
@torch.enable_grad()
def search_affine(
    moving: View,
    fixed: View,
    start: Affine,
    around: bool = False,
    one_scale: bool = True,
    freedom: Freedom = "affine",
) -> Affine:
    """The affine map under which the moving image fits best, or the start if none fits better.

    The given map, rotations about the images' centres of intensity, and shifts of an image that shows less along that
    of the other are compared at low resolution; the best few are optimised by ADAM on the logarithm of the matrix and
    the shift, and the best of these once more at a higher resolution.

    Args:
        moving: the moving image.
        fixed: the fixed image, with voxels of the same size; its grid may have another shape.
        start: the map to begin with.
        around: whether rotations by any angle are tried. Brains look much the same upside down, so that a pair whose
            orientation is right may fit better rotated by 180 degrees.
        one_scale: whether lengths can be compared, so that a change of size counts against a map. False where an image
            has no millimetres.
        freedom: what may change from the start on.
    """
    moving, fixed = _copied(moving), _copied(fixed)
    start = Affine(*(part.detach().clone() for part in start))
    exchanged = bool(moving.half.prod() < fixed.half.prod())
    still, other, begin = (moving, fixed, _inverse(start)) if exchanged else (fixed, moving, start)
    stretch = STRETCH if one_scale else 0.0
    basis = generators(freedom, fixed.image.ndim - 2).to(fixed.image)
    rough, coarse, fine = (_pair(still, other, side, stretch) for side in SIDES[fixed.image.ndim - 2])
    tried = _join([begin, _turned(coarse, begin, around)])
    if around and fixed.image.ndim == 5:
        every = _turned(rough, begin, around, by=_cube().to(fixed.image), turn=AROUND_TURN)
        tried = _join([tried, *_best(rough, every, AROUND_KEPT)])
    slid = _slid(rough, begin)
    if slid is not None:
        tried = _join([tried, *(_turned(coarse, place, around, about=True) for place in _best(rough, slid, KEPT))])
    ascended = _ascend(coarse, _join([begin, *_best(coarse, tried, KEPT)]), STEPS[0], basis)
    (best,) = _best(coarse, ascended, 1)
    (found,) = _best(fine, _join([begin, best, _ascend(fine, best, STEPS[1], basis)]), 1)
    if torch.equal(found.matrix, begin.matrix) and torch.equal(found.shift, begin.shift):
        return start
    return _inverse(found) if exchanged else found


def _copied(view: View) -> View:
    """Of its own tensors: those made while inferring cannot take part in a gradient."""
    mask = None if view.mask is None else view.mask.detach().clone()
    return View(view.image.detach().clone(), view.half.detach().clone(), mask)


def generators(freedom: Freedom, dim: int) -> Float[Tensor, "freedom dim dim"]:
    """A basis of the matrices whose exponentials a linear map may be multiplied by.

    ``rigid``: the skew ones, rotations in each plane; ``similarity``: with the identity, one change of size more;
    ``affine``: all matrices. The exponential of a skew matrix is a rotation to rounding, of any length.
    """
    if freedom == "affine":
        return torch.eye(dim * dim).unflatten(1, (dim, dim))
    planes = [(i, j) for j in range(dim) for i in range(j)]
    basis = torch.zeros(len(planes), dim, dim)
    for turn, (i, j) in zip(basis, planes, strict=True):
        turn[i, j], turn[j, i] = -1, 1
    return basis if freedom == "rigid" else torch.cat([basis, torch.eye(dim)[None]])


def _inverse(affine: Affine) -> Affine:
    """The map back, between the same two centres."""
    matrix = torch.linalg.inv(affine.matrix)
    return Affine(matrix, -torch.einsum("bij,bj->bi", matrix, affine.shift))


def _pair(still: View, other: View, side: int, stretch: float) -> _Pair:
    shrunk = max(1.0, max(still.image.shape[2:]) / side)
    small, sampled = (_shrunk(view.image, shrunk) for view in (still, other))
    masks = [None if view.mask is None else _shrunk(view.mask, shrunk) for view in (still, other)]
    shape = tuple(small.shape[2:])
    points = (canvas(len(shape), side).to(small) * (max(shape) / side)).flatten(2)
    square = move(small, same_place(small), shape, side)
    seen = _within(points, still.half / shrunk).view(square.shape)
    if masks[0] is not None:
        seen &= move(masks[0], same_place(small), shape, side) > MOSTLY
    return _Pair(shape, sampled, masks[1], other.half / shrunk, shrunk, points, square, seen, stretch)


def _shrunk(image: Tensor, factor: float) -> Tensor:
    return spatial.resize_image(_averaged(image, factor), _divided(image, factor))


def _within(points: Float[Tensor, "maps dim voxels"], half: Float[Tensor, " dim"]) -> Bool[Tensor, "maps voxels"]:
    return (points.abs() <= half[:, None]).all(1)


def _averaged(image: Tensor, factor: float) -> Tensor:
    """Halved as often as the factor says: linear resampling averages neighbours only."""
    while factor >= 2:
        image, factor = spatial.resize_image(image, _divided(image, 2.0)), factor / 2
    return image


def _divided(image: Tensor, factor: float) -> tuple[int, ...]:
    return tuple(max(1, round(size / factor)) for size in image.shape[2:])


def _turned(
    pair: _Pair, start: Affine, around: bool, about: bool = False, by: Tensor | None = None, turn: float = TURN
) -> Affine:
    """Rotations that lay the other image's centre of intensity on the still one's, or about where that lies now.

    ``by``: rotations, each of which comes first; ``turn``: radians from one of those after it to the next.
    """
    dim = pair.still.ndim - 2
    steps = AROUND if around and dim == 2 else TURNED[dim]
    reach = [turn * step for step in range(-steps, steps + 1)]
    basis = generators("rigid", dim).to(pair.still)
    angles = torch.tensor(list(product(reach, repeat=len(basis)))).to(basis)
    rotations = torch.linalg.matrix_exp(torch.tensordot(angles, basis, 1))
    if by is not None:
        rotations = (by[:, None] @ rotations).flatten(0, 1)
    matrices = start.matrix @ rotations
    here = _centre_of_intensity(pair.still) * pair.voxel
    there = start.matrix[0] @ here + start.shift[0] / pair.shrunk if about else _centre_of_intensity(pair.other)
    shifts = there - torch.einsum("bij,j->bi", matrices, here)
    return Affine(matrices, shifts * pair.shrunk)


def _cube() -> Float[Tensor, "24 3 3"]:
    """The rotations that map a cube to itself."""
    signed = [
        torch.eye(3)[list(order)] * torch.tensor(signs).view(3, 1)
        for order in permutations(range(3))
        for signs in product((-1.0, 1.0), repeat=3)
    ]
    return torch.stack([matrix for matrix in signed if torch.linalg.det(matrix) > 0])


def _centre_of_intensity(image: Tensor) -> Float[Tensor, " dim"]:
    """In voxels from the centre of the grid."""
    points = _about_centre(image)
    weights = image.flatten(2)
    return ((points * weights).sum(2) / weights.sum(2).clamp_min(1e-6))[0]


def _about_centre(image: Tensor) -> Float[Tensor, "1 dim voxels"]:
    return spatial.identity_grid(tuple(image.shape[2:])).to(image).flatten(2) - _middle(image)


def _middle(image: Tensor) -> Float[Tensor, "1 dim 1"]:
    return (torch.tensor(image.shape[2:]).to(image).view(1, -1, 1) - 1) / 2


def _slid(pair: _Pair, start: Affine) -> Affine | None:
    """The start, shifted so that what the still image shows slides along what the other one shows, end to end.

    Along each axis of the other image along which the still one's extent is shorter; None where it is along none.
    """
    here, there = (_extent(image) for image in (pair.still, pair.other))
    here = here * pair.voxel
    corners = torch.tensor(list(product(*here.T.tolist()))).to(pair.still)
    reached = corners @ start.matrix[0].T
    low, high = reached.amin(0), reached.amax(0)
    places = []
    for axis in range(len(low)):
        size, room = high[axis] - low[axis], there[1, axis] - there[0, axis]
        if size > SHORTER * room:
            places.append([float((there[0, axis] + there[1, axis] - low[axis] - high[axis]) / 2)])
            continue
        count = 1 + int(torch.ceil((room - size) / (SLIDE * size)))
        ends = there[0, axis] - low[axis], there[1, axis] - high[axis]
        places.append(torch.linspace(float(ends[0]), float(ends[1]), count).tolist())
    if max(map(len, places)) == 1:
        return None
    shifts = torch.tensor(list(product(*places))).to(pair.still) * pair.shrunk
    return Affine(start.matrix.expand(len(shifts), *start.matrix.shape[1:]), shifts)


def _extent(image: Tensor) -> Float[Tensor, "2 dim"]:
    """The box around all that an image shows: its least and largest corner, in voxels from the centre of the grid."""
    points = _about_centre(image)[0, :, image.flatten() > TISSUE]
    if not points.shape[1]:
        return image.new_zeros(2, image.ndim - 2)
    return torch.stack([points.amin(1), points.amax(1)])


def _similarity(pair: _Pair, affine: Affine) -> Float[Tensor, " maps"]:
    """How well the images fit under each map, ``f (MI + 0.5 s MI_shared) - 0.2 E``.

    Only voxels count that are in both fields of view and masks; ``f`` is their part of the still image's, the smaller
    of the two, so that nothing is gained by moving out of each other's sight. ``MI_shared`` is of the voxels where both
    show something, and ``s`` how much of the smaller of the two shares. Mutual information alone enlarges a brain until
    it fills the head of the other image; the shared one alone is high where next to nothing is shared. ``E`` is the
    change of size, see :func:`_change_of_size`.
    """
    count = len(affine.matrix)
    small = Affine(affine.matrix, affine.shift / pair.shrunk)
    points = torch.baddbmm(small.shift[..., None], small.matrix, pair.points.expand(count, *pair.points.shape[1:]))
    places = (points + _middle(pair.other)).unflatten(2, pair.still.shape[2:])
    moved = spatial.sample(pair.other.expand(count, *pair.other.shape[1:]), places, outside="zero")
    seen = _within(points.detach(), pair.half).view(moved.shape) & pair.still_seen
    if pair.other_mask is not None:
        masks = pair.other_mask.expand(count, *pair.other.shape[1:])
        seen = seen & (spatial.sample(masks, places.detach(), outside="zero") > MOSTLY)
    still = pair.still.expand_as(moved)
    ours, theirs = (moved.detach() > TISSUE) & seen, (still > TISSUE) & seen
    shared = ours & theirs
    part = _count(shared) / torch.minimum(_count(ours), _count(theirs)).clamp_min(1)
    common = _count(seen) / _count(pair.still_seen).clamp_min(1)
    fit = mi(moved, still, seen) + SHARED * part * mi(moved, still, shared)
    return common * fit - pair.stretch * _change_of_size(affine.matrix)


def _change_of_size(matrix: Float[Tensor, "maps dim dim"]) -> Float[Tensor, " maps"]:
    """``(|A|^2 + |A^-1|^2) / 2 dim - 1``, 0 of a rotation: about twice the mean squared logarithm of the scales."""
    squares = matrix.square() + torch.linalg.inv(matrix).square()
    return squares.sum((1, 2)) / (2 * matrix.shape[1]) - 1


def _count(where: Tensor) -> Float[Tensor, " maps"]:
    return where.flatten(1).sum(1).float()


def _ascend(pair: _Pair, start: Affine, steps: int, basis: Float[Tensor, "freedom dim dim"]) -> Affine:
    """ADAM with a rate that falls to 0; every map is optimised on its own."""
    dim, half = pair.still.ndim - 2, max(pair.shape) * pair.shrunk / 2
    parameters = pair.still.new_zeros(len(start.matrix), dim + len(basis))
    adam = Adam(parameters, MOMENTS)
    for step in range(steps):
        parameters = parameters.detach().requires_grad_()
        affine = _changed(start, parameters, half, basis)
        (gradient,) = torch.autograd.grad(_similarity(pair, affine).sum(), parameters)
        parameters = parameters + RATE * (1 - step / steps) * adam.direction(gradient)
    return Affine(*(part.detach() for part in _changed(start, parameters, half, basis)))


def _changed(start: Affine, parameters: Tensor, half: float, basis: Float[Tensor, "freedom dim dim"]) -> Affine:
    """A map after one about the still image's centre: shift in half sides, then a matrix's logarithm in a basis."""
    dim = start.shift.shape[1]
    turn = torch.linalg.matrix_exp(torch.tensordot(parameters[:, dim:], basis, 1))
    shift = torch.einsum("bij,bj->bi", start.matrix, parameters[:, :dim] * half) + start.shift
    return Affine(start.matrix @ turn, shift)


def _join(affines: list[Affine]) -> Affine:
    return Affine(*(torch.cat(parts) for parts in zip(*affines, strict=True)))


def _best(pair: _Pair, affines: Affine, count: int) -> list[Affine]:
    """The maps of the highest similarity, the best first."""
    order = _similarity(pair, affines).argsort(descending=True)[:count]
    return [Affine(affines.matrix[index : index + 1], affines.shift[index : index + 1]) for index in order.tolist()]
