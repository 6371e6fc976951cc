"""Self-consistency of a registration under shift, swap and 180-degree rotation, and similarity, voxel by voxel.

A right result hardly depends on what it should not depend on. So the networks register the pair again, as a batch of
two: with the moving image shifted by a few voxels, which the field must follow, and with the two images swapped, which
must give the inverse. Brains look much the same upside down, so that the coarse network also registers the moving image
rotated by 180 degrees.
"""

from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import foreground, local_correlation_map, local_mean
from crossmorph.networks.hierarchy import Flow, Hierarchy, chain
from crossmorph.quality.assessment import Consistency
from crossmorph.registration.pair_similarity import pair_similarity
from crossmorph.registration.register_images import Registered

SHIFT = (4, -3, 2)  # voxels of the working grid along each axis: more than noise moves a field, less than a gyrus
WINDOW = 9  # voxels a side, of local correlations, as in training


@torch.inference_mode()
def consistency(registered: Registered) -> Consistency:
    """The maps of a registered pair; costs about as much as registering did.

    ``shifted`` and ``swapped`` are of the last field that a network made, refined or not: refining each of the other
    results too would cost many times as much.
    """
    moving, fixed, result = registered.moving, registered.fixed, registered.result
    network = next(flow for stage, flow in reversed(registered.stages.items()) if stage not in ("refined", "points"))
    shift = torch.tensor(SHIFT[: moving.ndim - 2]).to(moving).view(1, -1, *[1] * (moving.ndim - 2))
    again = _again(registered)
    shifted = again.displacement[:1] + shift - network.displacement
    swapped = spatial.compose(again.displacement[1:], network.displacement)
    moved, translated = spatial.warp(torch.cat([moving, result.translated], 1), result.final.displacement).split(1, 1)
    return Consistency(
        shifted=shifted[0],
        swapped=swapped[0],
        moved=moved[0, 0],
        translated=translated[0, 0],
        correlation=local_correlation_map(moved, fixed, WINDOW)[0, 0],
        residual=local_mean((translated - fixed).abs())[0, 0],
        foreground=_foreground(registered)[0, 0],
        rotated=_rotated(registered),
        mirrored=_mirrored(registered) if moving.ndim == 5 else None,
    )


def _foreground(registered: Registered) -> Bool[Tensor, "1 1 *space"]:
    """Where the fixed image shows something that is evidence."""
    shown = foreground(registered.fixed)
    seen = shown & registered.pair.fixed_seen
    return seen if seen.any() else shown


def network_maps(fixed: Float[Tensor, "1 1 *space"], maps: Consistency) -> Float[Tensor, "1 maps *space"]:
    """The maps that the error network is shown: five images and two vectors, ``5 + 2 dim`` channels.

    Args:
        fixed: the fixed image in [0, 1].
        maps: of the pair, on the same grid.
    """
    scalars = (maps.moved, maps.translated, maps.correlation, maps.residual)
    return torch.cat([fixed[0], torch.stack(scalars), maps.shifted, maps.swapped])[None]


@torch.inference_mode()
def encoder_features(registered: Registered) -> Float[Tensor, "images features"]:
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
    sources, targets = torch.cat([_moved_away(moving), fixed]), torch.cat([fixed, moving])
    coarse = hierarchy.register_coarse(sources, targets, smoothness)
    back = Flow(coarse.displacement[1:], coarse.inverse[1:])
    other = fixed + hierarchy.translate(fixed, moving, back)
    translated = torch.cat([_moved_away(result.translated), other])
    return chain(coarse, hierarchy.register_fine(sources, targets, translated, coarse, smoothness))


def _rotated(registered: Registered) -> float:
    """In the plane there is one such rotation, in space one about each axis; one after the other, for the memory."""
    dim = registered.fixed.ndim - 2
    return max(_reached_flipped(registered, axes) for axes in combinations(range(2, dim + 2), 2))


def _mirrored(registered: Registered) -> float:
    """Left and right exchanged: the working grid's first axis is the one nearest to right."""
    return _reached_flipped(registered, (2,))


def _reached_flipped(registered: Registered, axes: tuple[int, ...]) -> float:
    """Mutual information that the coarse network reaches with the moving image flipped along some axes."""
    pair = registered.pair
    moving, seen = _flipped(torch.cat([pair.moving, pair.moving_seen], dim=1), axes).split(1, dim=1)
    coarse = registered.model.hierarchy.register_coarse(moving, pair.fixed, registered.smoothness)
    return pair_similarity(pair._replace(moving=moving, moving_seen=seen), coarse.displacement).information


def _flipped(channels: Float[Tensor, "1 channel *space"], axes: tuple[int, ...]) -> Tensor:
    """Channels flipped along axes (two: rotated by 180 degrees), the first one's centre of intensity where it was."""
    rotated, image = channels.flip(axes), channels[:, :1]
    for axis in axes:
        size = image.shape[axis]
        profile = image.movedim(axis, -1).flatten(0, -2).sum(0)
        place = torch.arange(size).to(profile)
        centre = (profile * place).sum() / profile.sum().clamp_min(1e-6)
        rotated = _shifted(rotated, axis, size - 1 - round(2 * float(centre)))
    return rotated


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
