"""Registration of two images, each on its own grid, to one transform between their worlds."""

import time
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model
from crossmorph.networks.hierarchy import Flow, Registration
from crossmorph.registration.evidence import NOTHING, Evidence, Points
from crossmorph.registration.instance_optimization import MOST_STEPS, Refinement, SeenPair, refine
from crossmorph.registration.instance_optimization_3d import RefinedVolume, refine_volume
from crossmorph.registration.pair_similarity import Pair, ignored_on, is_cut, moved_and_common, pair_similarity
from crossmorph.registration.points import WIDTHS, VoxelPoints, follow_points
from crossmorph.registration.preparation import Prepared, prepare
from crossmorph.registration.settings import DEFAULTS, Init, Refine, Settings, refinement_seconds
from crossmorph.registration.translation import Translation, fit_translation, refilled, translated_image
from crossmorph.system.progress import stage
from crossmorph.transforms.grid import Grid, onto_grid
from crossmorph.transforms.warp import (
    Warp,
    after_moving,
    followed_by,
    from_voxel_displacement,
    resample_warp,
    transform_points,
)

# A stage must keep this part of the mutual information before it, and may add no fold: else it is rejected. Where
# registration went well on simulated pairs, the coarse stage kept .89 and more (where one image alone has a skull) and
# the fine one .99 (docs/trust.md).
MIN_KEPT = {"coarse": 0.8, "fine": 0.95, "refined": 0.95}
STAGES = ("initial", "coarse", "fine", "refined", "points")


class RejectedStage(NamedTuple):
    """A stage whose field was rejected.

    Attributes:
        stage: the stage, one of ``STAGES``.
        kept: the stage whose field is used instead.
        reason: ``mutual information`` (it fell against the stage before), ``folds`` (the stage added some) or ``no
            gain`` (the images agreed no less as they were given, or after the initial affine).
        before: the measure in question of the field that is used: nats, or percent of the grid's cells.
        after: that of the rejected field.
    """

    stage: str
    kept: str
    reason: Literal["mutual information", "folds", "no gain"]
    before: float
    after: float


class Registered(NamedTuple):
    """A registered pair.

    Attributes:
        warp: final field on the fixed image's grid: ``moved(x) = moving(x + d(x))``, the initial affine included.
        inverse: its inverse on the moving image's grid.
        translated: the moving image in the fixed image's modality, on its own grid, in units of
            ``scale_intensity(fixed)``.
        translation: what it is made of, on the working grid.
        initial_affine: from fixed to moving space, ``(dim + 1, dim + 1)``, RAS millimetres.
        overlap: fraction of the fixed field of view that the moving image covers after it.
        pair: both images as the networks saw them, ``(1, 1, *working)``, in [0, 1], and their fields of view.
        result: all fields of the hierarchy on the working grid, after the initial affine; ``final`` is the field of the
            last accepted stage, whichever that is.
        refinement: what the instance optimisation did, or None.
        grid: the working grid.
        seconds: wall seconds of each stage.
        stages: the field after each accepted stage, in their order, on the working grid; the last one is
            ``result.final``, and ``initial`` is no displacement.
        mutual_information: in nats, after each stage, accepted or rejected.
        rejected: the stages that were rejected.
        model: the weights.
        smoothness: the networks' smoothness input, ``(1,)``, or None for their default.
        points: the corresponding points that were given, or None.
    """

    warp: Warp
    inverse: Warp
    translated: Image
    translation: Translation
    initial_affine: Float[ndarray, "n n"]
    overlap: float
    pair: Pair
    result: Registration
    refinement: Refinement | None
    grid: Grid
    seconds: dict[str, float]
    stages: dict[str, Flow]
    mutual_information: dict[str, float]
    rejected: tuple[RejectedStage, ...]
    model: Model
    smoothness: Float[Tensor, " 1"] | None
    points: Points | None = None

    @property
    def moving(self) -> Float[Tensor, "1 1 *space"]:
        """The moving image as the networks saw it."""
        return self.pair.moving

    @property
    def fixed(self) -> Float[Tensor, "1 1 *space"]:
        """The fixed image as the networks saw it."""
        return self.pair.fixed


def register_images(
    moving: Image, fixed: Image, model: Model, settings: Settings = DEFAULTS, evidence: Evidence = NOTHING
) -> Registered:
    """Register two images of different modality through all stages.

    The networks and the checks of the stages see these two images; further ones take part in the refinement.

    Args:
        moving: the image to move; any size, spacing and orientation.
        fixed: the image to move it to.
        model: weights, from :func:`crossmorph.load_model`.
        settings: how.
        evidence: what is given beside the two images.

    Raises:
        InputError: wrong dimension, constant images, fields of view that hardly overlap, a smoothness for a model that
            has one only, or an unknown ``init`` or ``refine``.
    """
    began = time.perf_counter()
    smoothness = _smoothness(model, settings.smoothness)
    to_spend = refinement_seconds(_refine(settings, evidence), fixed.dim)
    stage("initial affine, coarse")
    prepared = prepare(moving, fixed, model, settings.init, smoothness)
    seconds = {"coarse": time.perf_counter() - began}
    stage("fine")
    with torch.inference_mode():
        prepared, result = _networks(prepared, fixed, model, smoothness)
        progress = _after(_after_coarse(prepared), "fine", result.final, prepared)
        # The refinement goes on from what has gained: networks bend images that lie well already.
        progress = _never_worse(progress, prepared.given.information)
    seconds["fine"] = time.perf_counter() - began - seconds["coarse"]
    refined = None
    if to_spend:
        stage("refinement")
        refined = _refined(prepared, result, progress.final, evidence, to_spend, settings.refine_steps)
        seconds["refinement"] = refined.refinement.seconds
    progress, final, grid = _ended(progress, refined, prepared, evidence.points)
    translation = fit_translation(prepared.pair, result.drawn, progress.final)
    inverse = resample_warp(_in_world(final.inverse, grid), prepared.aligned.affine, moving.shape)
    return Registered(
        warp=_on_fixed(final.displacement, grid, prepared, fixed),
        inverse=after_moving(inverse, moving.affine),
        translated=translated_image(*translation, prepared.grid, prepared.aligned, moving),
        translation=translation,
        initial_affine=prepared.initial_affine,
        overlap=prepared.overlap,
        pair=prepared.pair,
        result=result._replace(final=progress.final),
        refinement=None if refined is None else refined.refinement,
        grid=prepared.grid,
        seconds=seconds,
        stages=progress.stages,
        mutual_information=progress.mutual_information,
        rejected=progress.rejected,
        model=model,
        smoothness=smoothness,
        points=evidence.points,
    )


def _networks(
    prepared: Prepared, fixed: Image, model: Model, smoothness: Tensor | None
) -> tuple[Prepared, Registration]:
    """All fields of the networks; where something is ignored, of a second pass that sees it filled anew."""
    hierarchy, pair = model.hierarchy, prepared.pair
    result = hierarchy.go_on(pair.moving, pair.fixed, prepared.coarse, smoothness)
    ignored = [ignored_on(image, prepared.grid) for image in (prepared.aligned, fixed)]
    if all(each is None for each in ignored):
        return prepared, result
    pair = refilled(pair, (ignored[0], ignored[1]), result, hierarchy)
    coarse = hierarchy.register_coarse(pair.moving, pair.fixed, smoothness)
    after = pair_similarity(pair, coarse.displacement)
    prepared = prepared._replace(pair=pair, coarse=coarse, after=after)
    return prepared, hierarchy.go_on(pair.moving, pair.fixed, coarse, smoothness)


def _ended(
    progress: "_Progress", refined: RefinedVolume | None, prepared: Prepared, points: Points | None
) -> tuple["_Progress", Flow, Grid]:
    """After the last stages: all of them, the final field in full detail, and its grid."""
    if refined is not None and refined.refinement.improved:
        progress = _after(progress, "refined", refined.refinement.final, prepared)
    progress = _never_worse(progress, prepared.given.information)
    final, grid = progress.final, prepared.grid
    if refined is not None and "refined" in progress.stages:
        final, grid = refined.field, refined.grid
    if points is not None:
        progress = _led(progress, points, prepared)
        final = follow_points(final, _voxel_points(points, prepared, grid))
    return progress, final, grid


def _refine(settings: Settings, evidence: Evidence) -> Refine:
    """The setting; further images take part in the refinement, so that it is on with them where it may be."""
    return "on" if settings.refine == "auto" and evidence.others else settings.refine


def _refined(
    prepared: Prepared, result: Registration, final: Flow, evidence: Evidence, seconds: float, steps: int | None
) -> RefinedVolume:
    """The field optimised for this pair: volumes on a finer grid of their own, slices on the working grid."""
    if evidence.points is not None:
        final = follow_points(final, _voxel_points(evidence.points, prepared, prepared.grid))
    pair, grid = prepared.pair, prepared.grid
    pairs = [(prepared.aligned, prepared.target), *(_laid(other, prepared) for other in evidence.others)]
    if pair.fixed.ndim == 5:
        return refine_volume(pairs, (pair.moving, pair.fixed), final, grid, seconds=seconds, steps=steps)
    seen = [SeenPair(pair.moving, pair.fixed, result.translated)]
    seen += [SeenPair(ours, theirs, ours) for ours, theirs in (_on_grid(other, pair, grid) for other in pairs[1:])]
    cut = is_cut(prepared.aligned) or is_cut(prepared.target)
    where = moved_and_common(pair, final.displacement)[1] if cut else None
    found = refine(seen, final, seconds, MOST_STEPS if steps is None else steps, where)
    return RefinedVolume(found, found.final, grid)


def _laid(other: tuple[Image, Image], prepared: Prepared) -> tuple[Image, Image]:
    """A further image of each side in [0, 1], the moving one after the initial affine."""
    moving, fixed = (image.scaled() for image in other)
    return replace(moving, affine=np.linalg.inv(prepared.initial_affine) @ moving.affine), fixed


def _on_grid(images: tuple[Image, Image], pair: Pair, grid: Grid) -> tuple[Tensor, Tensor]:
    moving, fixed = (torch.from_numpy(onto_grid(image, grid).data)[None, None].to(pair.fixed) for image in images)
    return moving, fixed


def _voxel_points(points: Points, prepared: Prepared, grid: Grid) -> VoxelPoints:
    """The points in voxels of a grid, the moving image's after the initial affine."""
    back = np.linalg.inv(grid.affine)
    fixed, moving = (
        torch.from_numpy(transform_points(matrix, places)).to(prepared.pair.fixed).T
        for matrix, places in (
            (back, points.fixed),
            (back @ np.linalg.inv(prepared.initial_affine), points.moving),
        )
    )
    return VoxelPoints(fixed, moving, points.accuracy / grid.spacing, tuple(width / grid.spacing for width in WIDTHS))


def _led(progress: "_Progress", points: Points, prepared: Prepared) -> "_Progress":
    """With a last stage that leads the points to their partners, whatever the images say."""
    flow = follow_points(progress.final, _voxel_points(points, prepared, prepared.grid))
    reached = pair_similarity(prepared.pair, flow.displacement).information
    return progress._replace(
        stages={**progress.stages, "points": flow},
        mutual_information={**progress.mutual_information, "points": reached},
    )


class _Progress(NamedTuple):
    """The stages so far; see :class:`Registered` for the fields. ``folds``: of ``final``, percent."""

    stages: dict[str, Flow]
    mutual_information: dict[str, float]
    rejected: tuple[RejectedStage, ...]
    folds: float

    @property
    def final(self) -> Flow:
        return next(reversed(self.stages.values()))


def _after_coarse(prepared: Prepared) -> _Progress:
    """The initial affine, and the coarse stage after it."""
    identity = torch.zeros_like(prepared.coarse.displacement)
    initial = _Progress({"initial": Flow(identity, identity)}, {"initial": prepared.before.information}, (), folds=0.0)
    return _checked(initial, "coarse", prepared.coarse, prepared.after.information)


def _after(progress: _Progress, stage: str, flow: Flow, prepared: Prepared) -> _Progress:
    return _checked(progress, stage, flow, pair_similarity(prepared.pair, flow.displacement).information)


def _checked(progress: _Progress, stage: str, flow: Flow, reached: float) -> _Progress:
    """One stage more, accepted, or rejected where it made the result worse. NaN is worse."""
    kept = next(reversed(progress.stages))
    before = progress.mutual_information[kept]
    folds, rejected = float(spatial.folds_percent(flow.displacement)), None
    if not reached >= MIN_KEPT[stage] * before:
        rejected = RejectedStage(stage, kept, "mutual information", before, reached)
    elif not folds <= progress.folds:
        rejected = RejectedStage(stage, kept, "folds", progress.folds, folds)
    progress = progress._replace(mutual_information={**progress.mutual_information, stage: reached})
    if rejected:
        return progress._replace(rejected=(*progress.rejected, rejected))
    return progress._replace(stages={**progress.stages, stage: flow}, folds=folds)


def _never_worse(progress: _Progress, given: float) -> _Progress:
    """Without the last stages where the images agree less than as they were given, or after the initial affine.

    A stage may lose a little against the one before it; all of them together may not lose.
    """
    reached = progress.mutual_information
    least = max(given, reached["initial"])
    stages = dict(progress.stages)
    while len(stages) > 1 and not reached[next(reversed(stages))] >= least:
        stages.popitem()
    kept = next(reversed(stages))
    dropped = [
        RejectedStage(stage, kept, "no gain", least, reached[stage]) for stage in progress.stages if stage not in stages
    ]
    return progress._replace(stages=stages, rejected=(*progress.rejected, *dropped))


def _smoothness(model: Model, wanted: float | None) -> Tensor | None:
    """The networks' smoothness input. Raises InputError where they take none, or not that."""
    if wanted is None:
        return None
    low, high = model.card.hierarchy.smoothness_range
    if low == high:
        raise InputError(f"smoothness {wanted:g}: model {model.card.name} has one smoothness only; expected none")
    if not 0 <= wanted <= 1:
        raise InputError(f"smoothness {wanted:g}: expected 0 (detailed) to 1 (stiff)")
    return torch.full((1,), wanted, device=model.device)


def register_initial(moving: Image, fixed: Image, model: Model, init: Init = "affine") -> Warp:
    """The initial affine alone, on the fixed image's grid; arguments and errors as :func:`register_images`."""
    prepared = prepare(moving, fixed, model, init)
    return _on_fixed(torch.zeros_like(prepared.coarse.displacement), prepared.grid, prepared, fixed)


def register_coarse(moving: Image, fixed: Image, model: Model, init: Init = "affine") -> Warp:
    """The initial affine and the coarse stage, on the fixed image's grid; see :func:`register_images`."""
    prepared = prepare(moving, fixed, model, init)
    return _on_fixed(prepared.coarse.displacement, prepared.grid, prepared, fixed)


def register_networks(
    moving: Image, fixed: Image, model: Model, init: Init = "affine"
) -> tuple[Prepared, Registration, Warp]:
    """The initial affine and all networks; no stage is checked and rejected, nothing is optimised.

    Arguments and errors as of :func:`register_images`.

    Returns:
        The images on the working grid, all fields there, and the final one on the fixed image's grid.
    """
    prepared = prepare(moving, fixed, model, init)
    with torch.inference_mode():
        result = model.hierarchy.go_on(prepared.pair.moving, prepared.pair.fixed, prepared.coarse)
    return prepared, result, _on_fixed(result.final.displacement, prepared.grid, prepared, fixed)


def _on_fixed(displacement: Float[Tensor, "1 dim *space"], grid: Grid, prepared: Prepared, fixed: Image) -> Warp:
    """A field on a grid, after the initial affine, as a warp on the fixed image's grid."""
    warp = resample_warp(_in_world(displacement, grid), fixed.affine, fixed.shape)
    return followed_by(warp, prepared.initial_affine)


def _in_world(displacement: Tensor, grid: Grid) -> Warp:
    return from_voxel_displacement(displacement[0].cpu().numpy(), grid.affine)
