"""What speaks for and against a registration, voxel by voxel: the networks asked twice more, and what is left unlike.

A right answer hardly depends on what it should not depend on. So both networks and the translation register the pair
again, as a batch of two: with the moving image a few voxels elsewhere, which the field must follow, and in the other
order, which must give the inverse. A third question is for brains, which look much the same upside down: whether the
coarse network gets further with the moving image turned half around.
"""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import box_sum, mi
from crossmorph.networks.hierarchy import Flow, Hierarchy, chain
from crossmorph.registration.register_images import Registered

SHIFT = (4, -3, 2)  # voxels of the working grid along each axis: more than noise moves a field, less than a gyrus
WINDOW = 9  # voxels a side, of local correlations, as in training
NEAR = 5  # voxels a side, over which foreground and residual are averaged
DARK = 0.5  # of the image's mean: below it lies the background


class Evidence(NamedTuple):
    """Maps of a registered pair on the working grid.

    Attributes:
        shifted: by what the networks' field changes when the moving image is moved by ``SHIFT``, the shift itself taken
            out; voxels.
        swapped: where a point ends, from itself, after the networks' field and that of the two images in the other
            order; voxels.
        moved: the moving image, moved by the final field.
        translated: the translation T, moved by the final field.
        correlation: squared local correlation of the moved and the fixed image, 0 to 1.
        residual: local mean of ``|T o phi - F|``, T the translation.
        foreground: where the fixed image shows something.
        turned: the most mutual information (nats) that the coarse network reaches with the moving image turned half
            around, about an axis through its centre of intensity.
    """

    shifted: Float[Tensor, "dim *space"]
    swapped: Float[Tensor, "dim *space"]
    moved: Float[Tensor, "*space"]
    translated: Float[Tensor, "*space"]
    correlation: Float[Tensor, "*space"]
    residual: Float[Tensor, "*space"]
    foreground: Bool[Tensor, "*space"]
    turned: float


@torch.inference_mode()
def gather(registered: Registered) -> Evidence:
    """The evidence of a registered pair; costs about as much as registering did.

    ``shifted`` and ``swapped`` are of the last field that a network made, refined or not: refining each of the answers
    too would cost many times as much.
    """
    moving, fixed, result = registered.moving, registered.fixed, registered.result
    network = next(flow for stage, flow in reversed(registered.stages.items()) if stage != "refined")
    shift = torch.tensor(SHIFT[: moving.ndim - 2]).to(moving).view(1, -1, *[1] * (moving.ndim - 2))
    again = _again(registered)
    shifted = again.displacement[:1] + shift - network.displacement
    swapped = spatial.compose(again.displacement[1:], network.displacement)
    moved, translated = spatial.warp(torch.cat([moving, result.translated], 1), result.final.displacement).split(1, 1)
    return Evidence(
        shifted=shifted[0],
        swapped=swapped[0],
        moved=moved[0, 0],
        translated=translated[0, 0],
        correlation=_local_correlation(moved, fixed)[0, 0],
        residual=_local_mean((translated - fixed).abs())[0, 0],
        foreground=foreground(fixed)[0, 0],
        turned=_turned(registered),
    )


def foreground(image: Float[Tensor, "batch 1 *space"]) -> Bool[Tensor, "batch 1 *space"]:
    """Where an image's local mean is above half of its mean; everywhere, where that is nowhere."""
    bright = _local_mean(image) > DARK * image.mean()
    return bright if bright.any() else torch.ones_like(bright)


@torch.inference_mode()
def appearance(registered: Registered) -> Float[Tensor, "images features"]:
    """What the coarse network's encoder sees, on average, in the fixed and in the moving image.

    Mean and standard deviation over space of every channel of its last level but one: contrast, texture and noise more
    than anatomy.
    """
    levels = registered.model.hierarchy.coarse.encode(torch.cat([registered.fixed, registered.moving]))
    seen = levels[-2:][0].flatten(2)
    return torch.cat([seen.mean(2), seen.std(2)], dim=1)


def _again(registered: Registered) -> Flow:
    """The networks on the shifted pair and on the swapped one, as a batch of two."""
    hierarchy: Hierarchy = registered.model.hierarchy
    moving, fixed, result = registered.moving, registered.fixed, registered.result
    smoothness = None if registered.smoothness is None else registered.smoothness.repeat(2)
    there, here = torch.cat([_moved_away(moving), fixed]), torch.cat([fixed, moving])
    coarse = hierarchy.register_coarse(there, here, smoothness)
    back = Flow(coarse.displacement[1:], coarse.inverse[1:])
    other = fixed + hierarchy.translate(fixed, moving, back)
    translated = torch.cat([_moved_away(result.translated), other])
    return chain(coarse, hierarchy.register_fine(there, here, translated, coarse, smoothness))


def _turned(registered: Registered) -> float:
    """In the plane there is one half turn, in space one about each axis; one after the other, for the memory."""
    fixed, dim = registered.fixed, registered.fixed.ndim - 2
    reached = []
    for axes in combinations(range(2, dim + 2), 2):
        moving = _half_turn(registered.moving, axes)
        coarse = registered.model.hierarchy.register_coarse(moving, fixed, registered.smoothness)
        reached.append(float(mi(spatial.warp(moving, coarse.displacement), fixed)))
    return max(reached)


def _half_turn(image: Float[Tensor, "1 1 *space"], axes: tuple[int, ...]) -> Float[Tensor, "1 1 *space"]:
    """The image turned half around in the plane of two axes, its centre of intensity where it was; 0 outside."""
    turned = image.flip(axes)
    for axis in axes:
        size = image.shape[axis]
        profile = image.movedim(axis, -1).flatten(0, -2).sum(0)
        place = torch.arange(size).to(profile)
        centre = (profile * place).sum() / profile.sum().clamp_min(1e-6)
        turned = _shifted(turned, axis, size - 1 - round(2 * float(centre)))
    return turned


def _moved_away(image: Float[Tensor, "1 1 *space"]) -> Float[Tensor, "1 1 *space"]:
    """``image(p + SHIFT)``, 0 outside."""
    for axis, step in enumerate(SHIFT[: image.ndim - 2], start=2):
        image = _shifted(image, axis, step)
    return image


def _shifted(image: Tensor, axis: int, step: int) -> Tensor:
    """``image(p + step)`` along one axis, 0 outside."""
    image = image.roll(-step, axis)
    image.narrow(axis, image.shape[axis] - step if step > 0 else 0, abs(step)).zero_()
    return image


def _local_mean(image: Tensor) -> Tensor:
    return box_sum(image, NEAR) / NEAR ** (image.ndim - 2)


def _local_correlation(moved: Tensor, fixed: Tensor) -> Tensor:
    """Squared, over cubes of ``WINDOW`` voxels; the map of :func:`crossmorph.functional.similarity.ncc`."""
    size = box_sum(torch.ones_like(fixed), WINDOW)
    i, j, ii, jj, ij = box_sum(
        torch.cat([moved, fixed, moved * moved, fixed * fixed, moved * fixed], dim=1), WINDOW
    ).split(1, dim=1)
    cross = ij - i * j / size
    variances = (ii - i * i / size).clamp_min(0) * (jj - j * j / size).clamp_min(0)
    return cross * cross / (variances + 1e-5)
