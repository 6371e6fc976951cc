"""Displacement fields on voxel grids: sampling, composition, integration, Jacobian determinants.

One frame throughout. A field is a tensor ``(batch, dim, *space)`` in voxels of its own grid, component ``k`` along
array axis ``k``; voxel centres sit at integer coordinates. A transform is a pull-back on the fixed grid,
``phi(p) = p + u(p)``, so that ``warped(p) = moving(p + u(p))``. Two dimensions or three follow from the shape.
This is the only module that calls ``grid_sample``. It imports no other module of crossmorph.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray
from torch import Tensor

Interpolation = Literal["linear", "nearest"]
Outside = Literal["edge", "zero"]
SHARED = 32  # a number of voxels that many numbers of threads divide
KEPT_VOXELS = 2**16  # of a grid at most, for its coordinates to be kept: half a megabyte


def identity_grid(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Float[Tensor, "1 dim *space"]:
    """Coordinates of the voxel centres of a grid: ``grid[0, :, i, j] = (i, j)``."""
    axes = [torch.arange(size, dtype=dtype, device=device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(
    image: Float[Tensor, "batch channel *space"],
    coordinates: Float[Tensor, "batch dim *out"],
    mode: Interpolation = "linear",
    outside: Outside = "edge",
) -> Float[Tensor, "batch channel *out"]:
    """The image's values at voxel coordinates.

    Args:
        image: what to sample, 2-D or 3-D.
        coordinates: where, in voxels of ``image``, component ``k`` along its array axis ``k``.
        mode: (bi-, tri-)linear, or the nearest voxel (half-way cases round to even).
        outside: ``edge`` holds the border value everywhere; ``zero`` holds it to half a voxel beyond the outermost
            centre, where the image ends, and is 0 from there (the rule of ITK's resampling).

    Returns:
        The sampled image, in the dtype of ``image``.

    Raises:
        ValueError: where the number of components is not the number of the image's axes.
    """
    _check_components(coordinates, image)
    # Coordinates count from voxel 0, so that the frame of this one voxel is enough.
    frame = _frame((1,) * (image.ndim - 2), tuple(image.shape[2:]), coordinates.dtype, coordinates.device)
    sampled = _grid_sample(image, torch.addcmul(frame.centres, coordinates.flip(1), frame.scale), mode)
    return sampled * _inside(coordinates, image) if outside == "zero" else sampled


def _check_components(coordinates: Float[Tensor, "batch dim *out"], image: Float[Tensor, "..."]) -> None:
    dim = image.ndim - 2
    if coordinates.shape[1] != dim:
        raise ValueError(f"coordinates have {coordinates.shape[1]} components, expected {dim} for a {dim}-D image")


def _inside(
    coordinates: Float[Tensor, "batch dim *out"], image: Float[Tensor, "batch channel *space"]
) -> Bool[Tensor, "batch 1 *out"]:
    """Where voxel coordinates lie in an image, which ends half a voxel beyond its outermost centres."""
    ends = torch.tensor(image.shape[2:]).to(coordinates).view(1, -1, *[1] * (coordinates.ndim - 2)) - 0.5
    return ((coordinates >= -0.5) & (coordinates < ends)).all(1, keepdim=True)


class _Frame(NamedTuple):
    """The voxels of a grid in grid_sample's coordinates of an image, where the last axis comes first.

    With align_corners=False voxel ``p`` of an axis of ``n`` lies at ``(2p + 1) / n - 1``, which is defined for axes of
    one voxel too. ``centres`` has the shape ``(1, dim, *grid)``, ``scale``, ``2 / n``, ``(1, dim, 1, ..)``.
    """

    centres: Float[Tensor, "1 dim *grid"]
    scale: Float[Tensor, "1 dim *ones"]


def _frame(grid: tuple[int, ...], image: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> _Frame:
    """The frame; that of a small grid is cached, since computing it takes longer than most of its uses."""
    make = _kept_frame if math.prod(grid) <= KEPT_VOXELS else _made_frame
    return make(grid, image, dtype, device)


def _made_frame(grid: tuple[int, ...], image: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> _Frame:
    with torch.inference_mode(False):  # a tensor made in inference mode cannot be differentiated
        ranges = [torch.arange(size, dtype=dtype, device=device) for size in grid]
        axes = [(2 * range_ + 1) / size - 1 for range_, size in zip(ranges, image, strict=True)]
        scale = 2 / torch.tensor(image[::-1], dtype=dtype, device=device)
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])
        return _Frame(centres[None], scale.view(1, -1, *[1] * len(image)))


_kept_frame = lru_cache(maxsize=64)(_made_frame)


def _grid_sample(
    image: Float[Tensor, "batch channel *space"], where: Float[Tensor, "batch dim *out"], mode: Interpolation = "linear"
) -> Float[Tensor, "batch channel *out"]:
    named = "bilinear" if mode == "linear" else "nearest"
    where = where.to(image.dtype).movedim(1, -1)
    parts = _parts(image, where)
    if parts > 1:
        where, image = where[0].unflatten(0, (parts, -1)), image.expand(parts, *image.shape[1:])
    sampled = F.grid_sample(image, where, mode=named, padding_mode="border", align_corners=False)
    return sampled.transpose(0, 1).flatten(1, 2)[None] if parts > 1 else sampled


def _parts(image: Float[Tensor, "batch channel *space"], where: Float[Tensor, "batch *out dim"]) -> int:
    """Into how many parts along its first axis a volume is sampled, as a batch of them, so that every thread has one.

    PyTorch shares out the images of a batch alone. Each voxel's value is the same in any part; gradients, which would
    be summed over the parts, are not taken in parts.
    """
    differentiated = torch.is_grad_enabled() and (image.requires_grad or where.requires_grad)
    if image.ndim < 5 or len(where) > 1 or image.device.type != "cpu" or differentiated:
        return 1
    return math.gcd(where.shape[1], torch.get_num_threads())


def warp(
    image: Float[Tensor, "batch channel *space"],
    displacement: Float[Tensor, "batch dim *out"],
    mode: Interpolation = "linear",
    outside: Outside = "edge",
) -> Float[Tensor, "batch channel *out"]:
    """``warped(p) = image(p + u(p))``; see :func:`sample` for the arguments and errors."""
    shape = tuple(displacement.shape[2:])
    # In grid_sample's own coordinates, instead of the sum of grid and displacement: half the time.
    _check_components(displacement, image)
    frame = _frame(shape, tuple(image.shape[2:]), displacement.dtype, displacement.device)
    warped = _grid_sample(image, torch.addcmul(frame.centres, displacement.flip(1), frame.scale), mode)
    if outside == "edge":
        return warped
    return warped * _inside(identity_grid(shape, displacement.dtype, displacement.device) + displacement, image)


def warper(
    image: Float[Tensor, "1 1 *space"], shape: tuple[int, ...], places: Int[Tensor, " places"]
) -> Callable[[Float[Tensor, "1 dim *shape"]], Float[Tensor, "1 1 *shape"]]:
    """:func:`warp` of one image by one field after the other, linear, edges held: the same numbers from kept space.

    Args:
        image: what to warp.
        shape: of the fields.
        places: voxels of the fields that are needed, each the index in their row; all others are 0.

    Returns:
        A function of a field. The image that it returns holds until it is called again; nothing is differentiated.
    """
    dim = len(shape)
    frame = _frame(shape, tuple(image.shape[2:]), image.dtype, image.device)
    if len(places):
        places = torch.cat([places, places[-1:].expand(-len(places) % SHARED)])
    centres, scale = frame.centres[0].flatten(1).index_select(1, places), frame.scale.flatten()
    where, warped = torch.empty_like(centres), image.new_zeros(1, 1, *shape)

    def warp_by(displacement: Tensor) -> Tensor:
        for axis in range(dim):
            component = displacement[0, dim - 1 - axis].flatten().index_select(0, places)
            torch.addcmul(centres[axis], component, scale[axis], out=where[axis])
        sampled = _grid_sample(image, where.view(1, dim, -1, *[1] * (dim - 1))).flatten()
        warped.view(-1).index_copy_(0, places, sampled)
        return warped

    return warp_by


def length(field: Float[Tensor, "batch dim *space"]) -> Float[Tensor, "batch 1 *space"]:
    """The Euclidean length at every voxel. PyTorch's own norm over an axis takes thirty times as long."""
    return (field * field).sum(1, keepdim=True).sqrt()


def compose(
    outer: Float[Tensor, "batch dim *space"], inner: Float[Tensor, "batch dim *space"]
) -> Float[Tensor, "batch dim *space"]:
    """``(outer o inner)(p) = p + u_inner(p) + u_outer(p + u_inner(p))``, on one grid, in voxels."""
    return inner + warp(outer, inner)


def integrate(velocity: Float[Tensor, "batch dim *space"], steps: int = 7) -> Float[Tensor, "batch dim *space"]:
    """Displacement of the flow of a stationary velocity field at time 1, by scaling and squaring.

    ``u_0 = v / 2^steps``, ``u_{k+1} = u_k o u_k`` (Arsigny et al., MICCAI 2006, doi:10.1007/11866565_113). The inverse
    is the flow of ``-v``.

    Args:
        velocity: voxels per unit of time.
        steps: number of squarings.
    """
    # compose(displacement, displacement) at every step, but in grid_sample's own coordinates throughout: converting at
    # each step would take most of the time.
    shape = tuple(velocity.shape[2:])
    frame = _frame(shape, shape, velocity.dtype, velocity.device)
    field = velocity.flip(1) / 2**steps * frame.scale
    for _ in range(steps):
        field = field + _grid_sample(field, frame.centres + field)
    return (field / frame.scale).flip(1)


def resize_image(image: Float[Tensor, "batch channel *space"], shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Linear resampling onto a grid of another shape that covers the same extent (voxel edges aligned)."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(image, size=shape, mode=mode, align_corners=False)


def resize(displacement: Float[Tensor, "batch dim *space"], shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """A field on a grid of another shape that covers the same extent: resampled, and its voxels rescaled."""
    if tuple(displacement.shape[2:]) == tuple(shape):
        return displacement
    ratio = [new / old for new, old in zip(shape, displacement.shape[2:], strict=True)]
    scale = torch.tensor(ratio, dtype=displacement.dtype, device=displacement.device)
    return resize_image(displacement, shape) * scale.view(1, -1, *[1] * len(shape))


def bspline_basis(size: int, spacing: float) -> Float64[ndarray, "size controls"]:
    """Values of the cubic B-splines of a control grid at the voxel centres of one axis; each row sums to 1.

    ``B[p, c] = beta3((p - x_c) / spacing)`` with controls ``spacing`` voxels apart, placed symmetrically about the
    axis' centre and reaching one beyond either end, as a free-form deformation needs (Rueckert et al., IEEE TMI 1999,
    doi:10.1109/42.796284).
    """
    centre = (size - 1) / 2
    half = int(centre / spacing + 1) + 1
    position = np.arange(size)[:, None]
    control = centre + spacing * np.arange(-half, half + 1)
    distance = np.abs(position - control) / spacing
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    basis = np.where(distance < 1, near, far)
    return basis[:, basis.sum(0) > 0]


@cache
def _bspline_smoother(size: int, spacing: float) -> Float64[ndarray, "size size"]:
    """Matrix of :func:`bspline_smooth` along one axis. In NumPy: a tensor of inference mode has no gradient."""
    basis = bspline_basis(size, spacing)
    return np.ascontiguousarray(basis @ (basis / basis.sum(0)).T)


def bspline_smooth(
    field: Float[Tensor, "batch channel *space"], spacing: float
) -> Float[Tensor, "batch channel *space"]:
    """The field as cubic B-splines whose coefficients are its own B-spline-weighted local means.

    ``c = (B' f) / (B' 1)``, ``f_smooth = B c`` along each axis: a quasi-interpolant that keeps constants and has
    ``spacing`` voxels between control points, so that nothing finer than them is left.
    """
    # In float64: the sums of float32 matrix products depend on the number of threads; rounding removes the difference.
    smooth = field.double()
    for axis in range(2, field.ndim):
        smoother = torch.as_tensor(_bspline_smoother(field.shape[axis], spacing)).to(smooth)
        smooth = (smooth.movedim(axis, -1) @ smoother.T).movedim(-1, axis)
    return smooth.to(field.dtype)


def spatial_gradient(field: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel dim *space"]:
    """Derivatives along each axis, per voxel: central differences inside, one-sided at the ends."""
    axes = tuple(range(2, field.ndim))
    return torch.stack(torch.gradient(field, dim=axes), dim=2)


def jacobian_determinant(displacement: Float[Tensor, "batch dim *space"]) -> Float[Tensor, "batch *space"]:
    """``det(d phi / d p)`` of ``phi = id + u`` at every voxel, by central differences (one-sided at the ends)."""
    gradient = spatial_gradient(displacement)
    columns = []
    for axis, column in enumerate(gradient.unbind(2)):
        unit = torch.zeros(displacement.shape[1]).to(displacement)
        unit[axis] = 1
        columns.append(column + unit.view(1, -1, *[1] * len(displacement.shape[2:])))
    return _determinant(columns)


def _determinant(columns: list[Float[Tensor, "batch dim *space"]]) -> Float[Tensor, "batch *space"]:
    """Determinants of matrices with these two or three columns; for millions of them much faster than torch.det."""
    if len(columns) == 2:
        (a, c), (b, d) = (column.unbind(1) for column in columns)
        return a * d - b * c
    first, second, third = (column.unbind(1) for column in columns)
    total = torch.zeros_like(first[0])
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        total = total + first[i] * (second[j] * third[k] - second[k] * third[j])
    return total


def strict_jacobian(displacement: Float[Tensor, "batch dim *space"]) -> Float[Tensor, "batch corners *cells"]:
    """Determinants at all ``2^dim`` corners of every grid cell, each from the cell's own edges that meet there.

    A cell whose corners are all positive does not fold under (bi-, tri-)linear interpolation in 2-D, and central
    differences miss folds that alternate from voxel to voxel (Liu et al., IJCV 2024, doi:10.1007/s11263-024-02047-1).

    Returns:
        One channel a corner, on ``shape - 1`` cells.
    """
    dim = displacement.shape[1]
    shape = displacement.shape[2:]
    edges = [displacement.diff(dim=axis + 2) for axis in range(dim)]
    for axis, edge in enumerate(edges):
        edge[:, axis] += 1
    determinants = []
    for corner in product((0, 1), repeat=dim):
        columns = []
        for axis in range(dim):
            edge = edges[axis]
            for other in range(dim):
                if other != axis:
                    edge = edge.narrow(other + 2, corner[other], shape[other] - 1)
            columns.append(edge)
        determinants.append(_determinant(columns))
    return torch.stack(determinants, dim=1)


def folds(displacement: Float[Tensor, "batch dim *space"]) -> Bool[Tensor, "batch *cells"]:
    """Which grid cells fold: the determinant at some corner is not positive; see :func:`strict_jacobian`."""
    return strict_jacobian(displacement).amin(1) <= 0


def folds_percent(displacement: Float[Tensor, "batch dim *space"]) -> Float64[Tensor, " batch"]:
    """Percentage of the grid cells that fold, 0 to 100; NaN for a grid without cells (an axis of one voxel)."""
    return 100 * folds(displacement).flatten(1).double().mean(1)


def endpoint_error(
    displacement: Float[Tensor, "batch dim *space"], truth: Float[Tensor, "batch dim *space"]
) -> Float[Tensor, "batch *space"]:
    """``|u(p) - u_true(p)|`` at every voxel, in the units of the fields."""
    return length(displacement - truth)[:, 0]
