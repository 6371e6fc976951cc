"""Sampling of arrays at voxel coordinates in float64, a slab of the output at a time, to bound the memory needed.

Coordinates are in float64 because float32 would move points that lie on a voxel's face to its wrong side. Voxel centres
sit at integer coordinates, and an array reaches half a voxel beyond its outermost centres.
"""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Num, Shaped
from numpy import ndarray

from crossmorph.functional.spatial import sample

# Of a slab, in float64: 6 MB for three coordinates, of which a handful exist at a time. Larger slabs are not faster.
SLAB_VOXELS = 2**18
# Voxels: axes of two grids that deviate by less than this over their length are taken as parallel.
PARALLEL = 1e-9


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of the first axis that cover a grid in order, each of about 2^18 voxels and at least one layer."""
    layers = max(1, SLAB_VOXELS // math.prod(shape[1:]))
    for start in range(0, shape[0], layers):
        yield slice(start, min(start + layers, shape[0]))


def affine_slab(matrix: Float[ndarray, "n n"], shape: tuple[int, ...], slab: slice) -> Float64[ndarray, "dim *slab"]:
    """``A i + t`` at every voxel index ``i`` of a slab of a grid.

    Args:
        matrix: ``A`` and ``t``, homogeneous; the last row is not used.
        shape: of the whole grid.
        slab: range of its first axis.
    """
    dim = len(shape)
    axes = [np.arange(slab.start, slab.stop), *(np.arange(size) for size in shape[1:])]
    result = np.empty((dim, *(len(axis) for axis in axes)))
    for row, out in zip(matrix[:dim], result, strict=True):
        parts = [row[k] * axis.reshape(-1, *[1] * (dim - 1 - k)) for k, axis in enumerate(axes)]
        np.add(sum(parts[1:-1], parts[0] + row[dim]), parts[-1], out=out)
    return result


def rotate(matrix: Float[ndarray, "dim dim"], vectors: Float[ndarray, "dim *space"]) -> Float[ndarray, "dim *space"]:
    """``A v`` for every vector of a field, in the type of the field."""
    turned: ndarray = np.asarray(matrix, vectors.dtype) @ vectors.reshape(len(vectors), -1)
    return turned.reshape(vectors.shape)


def inside(coordinates: Float64[ndarray, "dim *out"], shape: tuple[int, ...]) -> Bool[ndarray, "*out"]:
    """Where coordinates lie in an array of a shape, by ITK's rule.

    From half a voxel before the first centre, inclusively, to half a voxel behind the last, exclusively.
    """
    within = np.ones(coordinates.shape[1:], bool)
    for coordinate, size in zip(coordinates, shape, strict=True):
        within &= coordinate >= -0.5
        within &= coordinate < size - 0.5
    return within


def linear(
    channels: Num[ndarray, "channel *space"], coordinates: Float64[ndarray, "dim *out"]
) -> Float64[ndarray, "channel *out"]:
    """(Bi-, tri-)linear interpolation, the edge value held outside; only the voxels that are needed are copied."""
    window, low = [], []
    for coordinate, size in zip(coordinates, channels.shape[1:], strict=True):
        first = int(np.clip(np.floor(coordinate.min()), 0, size - 1))
        last = int(np.clip(np.ceil(coordinate.max()), first, size - 1))
        window.append(slice(first, last + 1))
        low.append(float(first))
    part = torch.from_numpy(np.array(channels[:, *window], np.float64))[None]
    points = coordinates - np.reshape(low, (-1,) + (1,) * (coordinates.ndim - 1))
    # The sampler wants as many axes of points as the array has.
    row = torch.from_numpy(points.reshape(len(points), *[1] * (len(points) - 1), -1))
    values: ndarray = sample(part, row[None])[0].numpy()
    return values.reshape(-1, *coordinates.shape[1:])


def nearest(data: Shaped[ndarray, "*space"], coordinates: Float64[ndarray, "dim *out"]) -> Shaped[ndarray, "*out"]:
    """The nearest voxel's value, the edge value held outside; half-way cases go up, as in ITK."""
    index = []
    for coordinate, size in zip(coordinates, data.shape, strict=True):
        rounded = np.floor(coordinate + 0.5)
        index.append(np.clip(rounded, 0, size - 1, out=rounded).astype(np.intp))
    return data[tuple(index)]


def majority(data: Shaped[ndarray, "*space"], coordinates: Float64[ndarray, "dim *out"]) -> Shaped[ndarray, "*out"]:
    """The label that has most weight in linear interpolation, the smaller of equals; the edge value held outside.

    The same as interpolating the indicator image of each label alone and taking the largest (ITK's
    ``LabelImageGenericInterpolateImageFunction``), but at the cost of the ``2^dim`` voxels about a point, however many
    labels there are.
    """
    base, fraction = [], []
    for coordinate, size in zip(coordinates, data.shape, strict=True):
        held = np.clip(coordinate.ravel(), 0, size - 1)
        below = np.minimum(np.floor(held), max(size - 2, 0))
        base.append(below.astype(np.intp))
        fraction.append(held - below)
    corners = list(product((0, 1), repeat=len(data.shape)))

    def labels_at(corner: tuple[int, ...], where: slice | ndarray) -> ndarray:
        ends = zip(base, corner, data.shape, strict=True)
        return data[tuple(np.minimum(low[where] + step, size - 1) for low, step, size in ends)]

    chosen = labels_at(corners[0], slice(None))
    mixed = np.zeros(chosen.shape, bool)
    for corner in corners[1:]:
        mixed |= labels_at(corner, slice(None)) != chosen
    where = np.flatnonzero(mixed)
    labels = np.stack([labels_at(corner, where) for corner in corners])
    weights = np.ones(labels.shape)
    for weight, corner in zip(weights, corners, strict=True):
        for part, step in zip(fraction, corner, strict=True):
            weight *= part[where] if step else 1 - part[where]
    chosen[where] = _heaviest(labels, weights)
    return chosen.reshape(coordinates.shape[1:])


def _heaviest(labels: ndarray, weights: ndarray) -> ndarray:
    """Of each column the label whose weights sum to most, the smaller of equals."""
    best, most = labels[0].copy(), np.full(labels.shape[1], -1.0)
    for label in labels:
        total = np.where(labels == label, weights, 0).sum(0)
        better = (total > most) | ((total == most) & (label < best))
        best[better], most[better] = label[better], total[better]
    return best


def lattice(
    channels: Float[ndarray, "channel *space"], matrix: Float[ndarray, "n n"], shape: tuple[int, ...]
) -> Float[ndarray, "channel *out"]:
    """Linear interpolation at ``A i + t`` for every voxel ``i`` of a grid, the edge value held outside.

    Args:
        channels: the array to sample; the result has its type.
        matrix: ``A`` and ``t``, homogeneous: voxel index of the new grid to that of ``channels``.
        shape: of the new grid.
    """
    dim = len(shape)
    reach = np.abs(matrix[:dim, :dim]) * shape  # voxels that each source axis changes along each new one
    source = reach.argmax(0)  # the source axis of each new one, where axes are parallel
    away = reach.copy()
    away[source, range(dim)] = 0
    parallel = sorted(source) == list(range(dim)) and away.max() < PARALLEL
    result = np.empty((len(channels), *shape), channels.dtype)
    turned = channels.transpose(0, *(source + 1)) if parallel else channels
    for slab in slabs(shape):
        if not parallel:
            result[:, slab] = linear(channels, affine_slab(matrix, shape, slab))
            continue
        part = turned
        for axis, size in enumerate(shape):
            index = np.arange(size)[slab] if axis == 0 else np.arange(size)
            scale, shift = matrix[source[axis], axis], matrix[source[axis], dim]
            part = _along(part, axis + 1, scale * index + shift)
        result[:, slab] = part
    return result


def _along(channels: ndarray, axis: int, coordinate: ndarray) -> ndarray:
    """Linear interpolation along one axis."""
    last = channels.shape[axis] - 1
    held = np.clip(coordinate, 0, last)
    below = np.floor(held).astype(np.intp)
    weight = (held - below).astype(channels.dtype).reshape(-1, *[1] * (channels.ndim - 1 - axis))
    low = channels.take(below, axis)
    step = channels.take(np.minimum(below + 1, last), axis)
    step -= low
    step *= weight
    low += step
    return low
