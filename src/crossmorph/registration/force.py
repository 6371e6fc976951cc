"""What drives the refinement of volumes at each step: local correlation, and the smoothness of control points."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.control_points import doubled
from crossmorph.functional.local_correlation import Correlation

Force = Callable[[Float[Tensor, "1 3 x y z"] | None], Float[Tensor, "3 *half"]]


def moved(moving: Float[Tensor, "x y z"], displacement: Float[Tensor, "1 3 *space"]) -> Float[Tensor, "x y z"]:
    """The moving image by a field on the window's grid, or, for an image twice as fine, by the doubled field."""
    fine = displacement if displacement.shape[2:] == moving.shape else doubled(displacement[0])[None]
    return spatial.warp(moving[None, None], fine)[0, 0]


def force(begun: Float[Tensor, "x y z"], correlation: Correlation, places: Int[Tensor, " places"]) -> Force:
    """The gradient of ``LCC`` by the voxels of a velocity of half the resolution, as a function of the velocity.

    The function takes the velocity on the image's grid, None for none; the kept space of all steps belongs to it.

    Args:
        begun: the image that the velocity moves.
        correlation: with the fixed image.
        places: voxels of the moved image that are needed, as indices in their row.
    """
    warped = spatial.warper(begun[None, None], tuple(begun.shape), places)
    slopes = begun.new_zeros(3, *begun.shape)

    def force_at(velocity: Tensor | None) -> Tensor:
        here = begun if velocity is None else warped(velocity)[0, 0]
        _, slope = correlation(here, True)
        assert slope is not None
        # The transpose of doubling, but for voxels at the border: each voxel of the velocity moves eight of the image
        # by twice as many of their voxels.
        return 16 * F.avg_pool3d(_slopes(here, slopes).mul_(slope), 2)

    return force_at


def _slopes(image: Float[Tensor, "x y z"], out: Float[Tensor, "3 x y z"]) -> Float[Tensor, "3 x y z"]:
    """Central differences along each axis, 0 at the ends, where nothing moves; ``out`` is 0 there."""
    for axis, side in enumerate(image.shape):
        ahead, behind = image.narrow(axis, 2, side - 2), image.narrow(axis, 0, side - 2)
        torch.sub(ahead, behind, out=out[axis].narrow(axis, 1, side - 2)).mul_(0.5)
    return out


def roughness_slope(controls: Float[Tensor, "3 *points"], apart: int, count: int) -> Float[Tensor, "3 *points"]:
    """The gradient of ``E``: the squared differences of neighbours, over ``apart^2`` and ``count`` points."""
    slope = torch.zeros_like(controls)
    for axis in (1, 2, 3):
        step = controls.diff(dim=axis)
        slope.narrow(axis, 1, step.shape[axis]).add_(step)
        slope.narrow(axis, 0, step.shape[axis]).sub_(step)
    return slope.mul_(2 / (apart**2 * count))
