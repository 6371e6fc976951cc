"""The translation that is given out: the moving image in the fixed image's modality, after the last stage.

The hierarchy's own ``T`` is a weighted sum of the translation channels, with one weight each for the whole image,
fitted after the coarse stage. This one is fitted again, after the final field, with a curve of the moving image's
intensity among the pictures ``P_k`` and with weights that vary slowly from place to place:

    w(x) = argmin_w  sum_y g(x - y) |w . P(phi(y)) - F(y)|^2 + r |w - w_all|^2

``g`` is a Gaussian window (locally weighted regression, Cleveland, JASA 1979, doi:10.1080/01621459.1979.10481038) and
``w_all`` the weights of the whole image.

The window is wider than a gyrus, so that ``T`` shows the moving image's anatomy, and narrow enough for scalp and brain
to have curves of their own.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.images.image import Image
from crossmorph.networks.hierarchy import Flow, Hierarchy, Registration
from crossmorph.registration.pair_similarity import WHOLLY, Pair
from crossmorph.simulation.drawing import gaussian_matrix
from crossmorph.transforms.grid import Grid, onto_grid

KNOTS = 7  # of the curve of intensity, evenly from 0 to 1
# Standard deviation of the window, voxels of the working grid: about 1000 voxels for 7 knots and 6 channels. With 100
# voxels T follows smooth noise.
WINDOW = {2: 12.0, 3: 4.0}
BLOCK = 4  # voxels along each axis, over which sums are taken before the window; sides of the grid are multiples of it
RIDGE = 1e-3  # of the weights of the whole image towards 0, pictures of variance 1
NEAR = 5e-3  # of the weights of a window towards those
STEEPEST = 3.0  # slope of the curve by which detail finer than the working grid is carried over


class Translation(NamedTuple):
    """``T = base + slope M`` on the working grid, where the moving image lies; ``(1, 1, *space)`` each.

    Attributes:
        base: what does not depend on the moving image's intensity.
        slope: of the curve at that intensity, so that detail of the moving image keeps its sign in ``T``.
    """

    base: Float[Tensor, "1 1 *space"]
    slope: Float[Tensor, "1 1 *space"]


@torch.inference_mode()
def fit_translation(pair: Pair, drawn: Float[Tensor, "1 channels *space"], final: Flow) -> Translation:
    """The translation of a registered pair.

    Args:
        pair: both images on the working grid.
        drawn: the translation channels of the moving image.
        final: the final field and its inverse.
    """
    curve, pictures, seen = moved_pictures(pair, drawn, final)
    weights = fit_weights(pictures, pair.fixed, seen, WINDOW[pair.fixed.ndim - 2])
    weights = spatial.warp(weights, final.inverse)
    of_curve, of_channels = weights.split([KNOTS, drawn.shape[1]], dim=1)
    lower = (pair.moving * (KNOTS - 1)).floor().clamp(0, KNOTS - 2).long()
    ends = [of_curve.gather(1, lower + step) for step in (0, 1)]
    slope = ((ends[1] - ends[0]) * (KNOTS - 1)).clamp(-STEEPEST, STEEPEST)
    whole = (of_curve * curve).sum(1, keepdim=True) + (of_channels * drawn).sum(1, keepdim=True)
    return Translation(whole - slope * pair.moving, slope)


def moved_pictures(
    pair: Pair, drawn: Float[Tensor, "1 channels *space"], final: Flow
) -> tuple[Float[Tensor, "1 knots *space"], Float[Tensor, "1 pictures *space"], Bool[Tensor, "1 1 *space"]]:
    """The curve of intensity where the moving image lies, it and the channels moved, and where both images are seen."""
    curve = _hats(pair.moving)
    moved = spatial.warp(torch.cat([pair.moving_seen, curve, drawn], 1), final.displacement, outside="zero")
    return curve, moved[:, 1:], (moved[:, :1] > WHOLLY) & pair.fixed_seen


@torch.inference_mode()
def refilled(
    pair: Pair,
    ignored: tuple[Bool[Tensor, "1 1 *space"] | None, Bool[Tensor, "1 1 *space"] | None],
    result: Registration,
    hierarchy: Hierarchy,
) -> Pair:
    """The pair with what is ignored filled by the other image, translated and moved: what the networks see there.

    A smooth fill says nothing, and networks answer it with a field of their own. What agrees with the field so far
    pulls no more than that.

    Args:
        pair: both images on the working grid.
        ignored: of the moving and of the fixed image, there.
        result: the fields of a first pass.
        hierarchy: whose translation network draws the fixed image in the moving one's modality.
    """
    final, moving, fixed = result.final, pair.moving, pair.fixed
    if ignored[1] is not None:
        fixed = torch.where(ignored[1].to(fixed.device), _moved_translation(pair, result.drawn, final), fixed)
    if ignored[0] is not None:
        back = Flow(final.inverse, final.displacement)
        swapped = Pair(pair.fixed, pair.moving, pair.fixed_seen.to(moving), pair.moving_seen > WHOLLY)
        drawn = hierarchy.draw(pair.fixed, pair.moving)
        moving = torch.where(ignored[0].to(moving.device), _moved_translation(swapped, drawn, back), moving)
    return pair._replace(moving=moving, fixed=fixed)


def _moved_translation(
    pair: Pair, drawn: Float[Tensor, "1 channels *space"], final: Flow
) -> Float[Tensor, "1 1 *space"]:
    """The moving image in the fixed one's modality, moved."""
    base, slope = fit_translation(pair, drawn, final)
    return spatial.warp(base + slope * pair.moving, final.displacement).clamp(0, 1)


def _hats(image: Float[Tensor, "1 1 *space"]) -> Float[Tensor, "1 knots *space"]:
    """Triangles about the knots: their sum is 1, and a weighted sum is a curve that is linear between knots."""
    knots = torch.linspace(0, 1, KNOTS).to(image).view(1, -1, *[1] * (image.ndim - 2))
    return (1 - (image - knots).abs() * (KNOTS - 1)).clamp_min(0)


def translated_image(base: Tensor, slope: Tensor | None, grid: Grid, aligned: Image, moving: Image) -> Image:
    """``base + slope M`` at the moving image's own resolution: only base and slope come from the working grid.

    Args:
        base: on the working grid; of the hierarchy's own translation ``T = M + mask`` it is the mask.
        slope: likewise; None is 1.
        grid: the working grid.
        aligned: the moving image in [0, 1], its header moved by the initial affine.
        moving: the moving image as it was given; what is ignored of it is translated too.
    """
    own = Grid(aligned.affine, moving.shape)

    def at_its_resolution(values: Tensor) -> Float[ndarray, "*space"]:
        return onto_grid(Image(values[0, 0].cpu().numpy(), grid.affine, moving.physical), own).data

    shown = aligned.data if moving.ignored is None else moving.scaled(filled=False).data
    detail = shown if slope is None else shown * at_its_resolution(slope)
    return Image(detail + at_its_resolution(base), moving.affine, moving.physical, moving.header)


def fit_weights(
    pictures: Float[Tensor, "1 pictures *space"],
    fixed: Float[Tensor, "1 1 *space"],
    seen: Bool[Tensor, "1 1 *space"],
    window: float,
) -> Float[Tensor, "1 pictures *space"]:
    """The weights of every voxel.

    Args:
        pictures: of the moving image, moved.
        fixed: what they shall add up to.
        seen: the voxels that count.
        window: its standard deviation, voxels.
    """
    dim = pictures.ndim - 2
    column = (1, -1, *[1] * dim)
    scale = (pictures.square() * seen).flatten(2).sum(2).div(seen.sum().clamp_min(1)).sqrt().clamp_min(1e-3)
    unit, target = _blocks(pictures / scale.view(column) * seen), _blocks(fixed)
    size = unit.shape[-1]
    normal = unit @ unit.transpose(-1, -2) / size
    wanted = unit @ target.transpose(-1, -2) / size
    sums = torch.cat([normal, wanted], dim=-1)
    blocks = tuple(side // BLOCK for side in pictures.shape[2:])
    overall = _solved(sums.mean(0, keepdim=True), torch.zeros_like(wanted[:1]), RIDGE)
    spread = sums.view(*blocks, *sums.shape[1:])
    for axis, length in enumerate(blocks):
        smooth = gaussian_matrix(length, window / BLOCK).to(spread)
        spread = torch.einsum("b...,bc->c...", spread.movedim(axis, 0), smooth).movedim(0, axis)
    local = _solved(spread.reshape(sums.shape), overall, NEAR)[..., 0]
    at_blocks = local.T.reshape(1, -1, *blocks) / scale.view(column)
    mode = "bilinear" if dim == 2 else "trilinear"
    return F.interpolate(at_blocks, size=pictures.shape[2:], mode=mode, align_corners=False)


def _blocks(channels: Float[Tensor, "1 channels *space"]) -> Float[Tensor, "blocks channels voxels"]:
    """Cubes of ``BLOCK`` voxels a side, in the order of their places."""
    count, dim = channels.shape[1], channels.ndim - 2
    split = channels[0].reshape(count, *(side for size in channels.shape[2:] for side in (size // BLOCK, BLOCK)))
    outer, inner = (range(first, 1 + 2 * dim, 2) for first in (1, 2))
    return split.permute(*outer, 0, *inner).flatten(dim + 1).flatten(0, dim - 1)


def _solved(
    sums: Float[Tensor, "systems pictures sums"], towards: Float[Tensor, "1 pictures 1"], ridge: float
) -> Float[Tensor, "systems pictures 1"]:
    """Least squares from sums of products, shrunk towards given weights."""
    normal, wanted = sums[..., :-1], sums[..., -1:]
    return torch.linalg.solve(normal + ridge * torch.eye(normal.shape[-1]).to(sums), wanted + ridge * towards)
