"""Squared local correlation of a moved image with a fixed one, with its gradient by hand, for instance optimisation.

``J`` is the fixed image and ``I`` the moved one, all sums over cubes that end with the image:
``cross = sum I J - sum I sum J / n``. With ``D = var_I var_J + e``, ``a = w cross / D`` and
``b = w cross^2 var_J / D^2`` the derivative by ``I(y)`` is ``2 sum_x a (J(y) - mean_J(x)) - b (I(y) - mean_I(x))``
over the windows ``x`` that hold ``y`` (Avants et al., Med. Image Anal. 2008, doi:10.1016/j.media.2007.06.004, keep the
window centred at ``y`` alone).

Automatic differentiation of :func:`crossmorph.functional.similarity.ncc` takes several times as long: it keeps every
sum over windows, and sums again over every copy of them. Here the images lie in one row of numbers with zeros between
their lines, so that a window's sum along any axis is a few sums of that row and the same row a constant number of
places on.
Every number is the result of the same sums in the same order, whatever the number of threads.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-5 / 9**3  # of the product of variances, a voxel of the window: VoxelMorph's 1e-5 for windows of 9 voxels

Correlation = Callable[[Float[Tensor, "x y z"], bool], tuple[float, Float[Tensor, "x y z"] | None]]


class _Row(NamedTuple):
    """How a volume lies in one row: its sides, and zeros of half a window around it.

    ``strides`` are those of the three axes; the sum over the window around voxel ``p`` stands at ``p - centre``.
    """

    shape: tuple[int, ...]
    padded: tuple[int, ...]
    strides: tuple[int, ...]
    window: int

    @property
    def length(self) -> int:
        return self.padded[0] * self.padded[1] * self.padded[2]

    @property
    def centre(self) -> int:
        return self.window // 2 * sum(self.strides)

    @property
    def sums(self) -> slice:
        """The part of a row that the centres of windows lie in."""
        return slice(self.centre, self.length - self.centre)

    def volume(self, row: Float[Tensor, " length"]) -> Float[Tensor, "x y z"]:
        """The volume in a row, as a view."""
        margin = self.window // 2
        return row.view(self.padded)[tuple(slice(margin, margin + side) for side in self.shape)]

    def lay(self, volume: Float[Tensor, "x y z"]) -> Float[Tensor, " length"]:
        """A new row that holds a volume."""
        row = volume.new_zeros(self.length)
        self.volume(row).copy_(volume)
        return row


def local_correlation(
    fixed: Float[Tensor, "x y z"],
    window: int,
    weight: Float[Tensor, "x y z"] | None = None,
    counted: Float[Tensor, "x y z"] | None = None,
) -> Correlation:
    """The mean of ``cross^2 / (var_I var_J + e)`` over windows of an image, and its gradient, as a function.

    Args:
        fixed: the image that does not change, in [0, 1].
        window: voxels a side, odd.
        weight: of each window, 0 or more; None: all the same.
        counted: 1 where a voxel of both images counts, else 0; None: all do. Sums are then of these voxels, and the
            weight of a window is times the part of it that they are.

    Returns:
        A function ``(moved, with_gradient)`` of an image of the same shape that returns the weighted mean, from 0 to
        1, and its gradient or None. It writes on its own scratch space: one call at a time, and the gradient holds
        until the next.
    """
    margin = window // 2
    padded = tuple(side + 2 * margin for side in fixed.shape)
    row = _Row(tuple(fixed.shape), padded, (padded[1] * padded[2], padded[2], 1), window)
    here, scratch = row.sums, [fixed.new_empty(row.length) for _ in range(4)]
    product, laid = fixed.new_empty(row.length), fixed.new_zeros(row.length)
    first, second, third = (fixed.new_empty(row.length - 2 * row.centre) for _ in range(3))

    def total(source: Tensor, out: Tensor) -> Tensor:
        return _window_sums(source, row, scratch, out)

    still, voxels, share, mean_still, variance_still, weights = _fixed_sums(fixed, weight, counted, row, total)
    whole, floor = _sum(weights), FLOOR * window**3
    spread = [torch.zeros_like(still) for _ in range(3)]  # what is summed back, zero around the volume
    gradient = torch.zeros_like(still)

    def correlation(moved: Tensor, with_gradient: bool) -> tuple[float, Tensor | None]:
        row.volume(laid).copy_(moved if counted is None else moved * counted)
        a, b, both = (part[here] for part in spread)
        total(laid, first)
        variance = total(torch.mul(laid, laid, out=product), second)
        cross = total(torch.mul(laid, still, out=product), third)
        mean = torch.mul(first, share, out=both)
        variance.addcmul_(first, mean, value=-1).clamp_min_(0)
        cross.addcmul_(first, mean_still, value=-1)
        ratio = torch.div(cross, variance.mul_(variance_still).add_(floor), out=second)
        torch.mul(ratio, weights, out=a)
        value = _sum(torch.mul(a, cross, out=first)) / max(whole, 1e-9)
        if not with_gradient:
            return value, None
        torch.mul(ratio, a, out=b).mul_(variance_still)
        both.mul_(b).addcmul_(a, mean_still, value=-1)
        found = gradient[here]
        torch.mul(total(spread[0], first), still[here], out=found)
        found.addcmul_(total(spread[1], second), laid[here], value=-1)
        found.add_(total(spread[2], third)).mul_(2 / max(whole, 1e-9))
        if counted is not None:
            found.mul_(voxels[here])
        return value, row.volume(gradient)

    return correlation


class _Fixed(NamedTuple):
    """What stays the same: the image and its counted voxels in a row; sums over windows, and the windows' weights."""

    still: Float[Tensor, " length"]
    voxels: Float[Tensor, " length"]
    share: Float[Tensor, " windows"]
    mean: Float[Tensor, " windows"]
    variance: Float[Tensor, " windows"]
    weights: Float[Tensor, " windows"]


def _fixed_sums(
    fixed: Float[Tensor, "x y z"],
    weight: Float[Tensor, "x y z"] | None,
    counted: Float[Tensor, "x y z"] | None,
    row: _Row,
    total: Callable[[Tensor, Tensor], Tensor],
) -> _Fixed:
    one = torch.ones_like(fixed)
    still, voxels = row.lay(fixed if counted is None else fixed * counted), row.lay(one if counted is None else counted)
    held, first, second = (fixed.new_empty(row.length - 2 * row.centre) for _ in range(3))
    share = 1 / total(voxels, held).clamp_min(1)
    mean = total(still, first) * share
    variance = total(still * still, second).addcmul_(first, mean, value=-1).clamp_min_(0)
    weights = row.lay(one if weight is None else weight)[row.sums].clone()
    if counted is not None:
        weights.mul_(held).div_(row.window**3)
    return _Fixed(still, voxels, share, mean, variance, weights)


def _window_sums(source: Tensor, row: _Row, scratch: list[Tensor], out: Tensor) -> Tensor:
    """Sums over the cubes of a row; that of the cube around element ``p`` stands at ``p - row.centre`` of ``out``.

    Along each axis a window is put together from sums over 1, 2, 4, .. voxels: three additions for 5 voxels. What the
    sums hold around the volume means nothing.
    """
    powers, totals = scratch[:2], scratch[2:]
    for axis, stride in enumerate(row.strides):
        length = len(source) - (row.window - 1) * stride
        whole, power, size, reached = source[:length], source, 1, 1
        while reached < row.window:
            shorter = len(power) - size * stride
            power = torch.add(power[:shorter], power[size * stride :], out=powers[0][:shorter])
            powers.reverse()
            size *= 2
            if row.window & size:
                last = axis == 2 and reached + size == row.window
                place = out if last else totals[0][:length]
                whole = torch.add(whole, power[reached * stride : reached * stride + length], out=place)
                totals.reverse()
                reached += size
        source = whole
    return source


def _sum(values: Tensor) -> float:
    """In double precision and in NumPy, whose order does not depend on the number of threads."""
    return float(np.sum(values.numpy(), dtype=np.float64))
