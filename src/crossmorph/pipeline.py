"""The pipeline a user calls: two images, each on its own grid, to one transform between their worlds."""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from crossmorph import spatial
from crossmorph.checkpoint import Model
from crossmorph.errors import InputError
from crossmorph.grid import Grid, onto_grid, working_grid
from crossmorph.hierarchy import Flow, Registration
from crossmorph.image import Image, scale_intensity
from crossmorph.memory import check_memory
from crossmorph.refine import MOST_STEPS, Refinement, refine
from crossmorph.refine_volumes import RefinedVolume, refine_volume
from crossmorph.similarity import mi, windows_correlation
from crossmorph.start import LEAST_OVERLAP, Start, places, searched_place
from crossmorph.transform import (
    Warp,
    after_moving,
    fields_overlap,
    followed_by,
    from_voxel_displacement,
    resample_warp,
)

# Where windows of the coarsely registered images correlate as much as this, no other place is tried, and where they do
# from none of the places, a search looks for another. Of 533 simulated pairs with two places the second was better by
# more than 0.5 mm for five, four of which correlated less from the first. Of pairs of any contrast that were right
# within 2 mm, 20% did, of the phantom's T2w and T1w none; of those that the affine network had led astray 89%, and of
# those turned by more than 45 degrees 98%.
ALIKE = 0.36
# And that place counts where the coarse network reaches so many times the mutual information: of 40 simulated pairs
# with more 39 ended nearer to the truth, of ten with less six ended further away.
SURER = 1.05
# A stage must leave this much of the mutual information before it, and may fold no cell more: else it is not taken.
# Where registration went well on simulated pairs, the coarse stage kept .89 and more (where one image alone has a
# skull) and the fine one .99 (docs/trust.md).
LEAST_KEPT = {"coarse": 0.8, "fine": 0.95, "refined": 0.95}
STAGES = ("start", "coarse", "fine", "refined")


class Settings(NamedTuple):
    """How a pair is registered.

    Attributes:
        start: see :func:`crossmorph.start.places`; of two, the one from which the coarse network gets further counts.
        smoothness: of the field, 0 (detailed) to 1 (stiff), for models that were trained for it; None is their default.
        refine: whether the field is optimised for this very pair after the networks; None: volumes yes, slices no. Of
            volumes of people it adds 8 to 13 points of Dice.
        refine_seconds: for how long at most; None: to the end of the schedule, slices until it stops gaining.
        refine_steps: how many steps at most; with the steps that a refinement limited by time took, and no seconds, it
            is repeated to the bit.
    """

    start: Start = "affine"
    smoothness: float | None = None
    refine: bool | None = None
    refine_seconds: float | None = None
    refine_steps: int | None = None


DEFAULTS = Settings()


class Fallback(NamedTuple):
    """A stage whose field was not taken.

    Attributes:
        stage: the stage, one of ``STAGES``.
        kept: the stage whose field stayed.
        reason: ``agreement`` (it lost mutual information) or ``folds`` (it folded cells that were not folded before).
        before: the number in question of the field that stayed: nats, or percent of the cells.
        after: that of the field that was not taken.
    """

    stage: str
    kept: str
    reason: Literal["agreement", "folds"]
    before: float
    after: float


class Registered(NamedTuple):
    """A registered pair.

    Attributes:
        warp: final field on the fixed image's grid: ``moved(x) = moving(x + d(x))``, the affine start included.
        inverse: its inverse on the moving image's grid.
        translated: the moving image in the fixed image's modality, on its own grid, in units of
            ``scale_intensity(fixed)``.
        start: the affine map it began with, fixed to moving space, ``(dim + 1, dim + 1)``, RAS millimetres.
        overlap: fraction of the fixed field of view that the moving image covered after it.
        moving: the moving image as the networks saw it, ``(1, 1, *working)``, in [0, 1].
        fixed: the fixed image as the networks saw it.
        result: all fields of the hierarchy on the working grid, from where the start put the moving image; ``final``
            is the field that was taken, whatever stage it is of.
        refinement: what refining did, or None.
        grid: the working grid.
        seconds: wall seconds of each stage.
        stages: the field after each stage that was taken, in their order, on the working grid; the last one is
            ``result.final``, and ``start`` is no displacement.
        agreement: mutual information (nats) after each stage, taken or not.
        fallbacks: the stages that were not taken.
        model: the weights that did it.
        smoothness: what the networks were told, ``(1,)``, or None for their default.
    """

    warp: Warp
    inverse: Warp
    translated: Image
    start: Float[ndarray, "n n"]
    overlap: float
    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    result: Registration
    refinement: Refinement | None
    grid: Grid
    seconds: dict[str, float]
    stages: dict[str, Flow]
    agreement: dict[str, float]
    fallbacks: tuple[Fallback, ...]
    model: Model
    smoothness: Float[Tensor, " 1"] | None


class Prepared(NamedTuple):
    """Two images on the model's grid, what was done to get them there, and the coarse field.

    ``placed`` is the moving image in [0, 1] where the start put it, ``target`` the fixed image in [0, 1], each on its
    own grid; ``start`` takes a point of ``placed`` to its own place; ``began`` and ``agreement`` are the mutual
    information before and after the coarse field, ``alike`` how much windows of the images correlate after it.
    """

    moving: Float[Tensor, "1 1 *space"]
    fixed: Float[Tensor, "1 1 *space"]
    grid: Grid
    placed: Image
    target: Image
    start: Float[ndarray, "n n"]
    overlap: float
    coarse: Flow
    began: float
    agreement: float
    alike: float


def register_images(moving: Image, fixed: Image, model: Model, settings: Settings = DEFAULTS) -> Registered:
    """Register two images of different modality through all stages.

    Args:
        moving: the image to move; any size, spacing and orientation.
        fixed: the image to move it to.
        model: weights, from :func:`crossmorph.load_model`.
        settings: how.

    Raises:
        InputError: wrong dimension, constant images, fields of view that hardly overlap, or a smoothness for a model
            that knows one only.
    """
    began = time.perf_counter()
    smoothness = _smoothness(model, settings.smoothness)
    prepared = prepare(moving, fixed, model, settings.start, smoothness)
    seconds = {"coarse": time.perf_counter() - began}
    course = _begin(prepared)
    with torch.inference_mode():
        result = model.hierarchy.go_on(prepared.moving, prepared.fixed, prepared.coarse, smoothness)
        course = _go_on(course, "fine", result.final, prepared)
    seconds["fine"] = time.perf_counter() - began - seconds["coarse"]
    final, refinement, detailed = course.final, None, prepared
    if settings.refine or (settings.refine is None and fixed.dim == 3):
        refinement, field, grid = _refined(prepared, result.mask, final, settings)
        seconds["refinement"] = refinement.seconds
        if refinement.improved:
            with torch.inference_mode():
                course = _go_on(course, "refined", refinement.final, prepared)
            if course.final is refinement.final:
                final, detailed = field, prepared._replace(grid=grid)
    inverse = resample_warp(_in_world(final.inverse, detailed.grid), prepared.placed.affine, moving.shape)
    return Registered(
        warp=_on_fixed(final.displacement, detailed, fixed),
        inverse=after_moving(inverse, moving.affine),
        translated=translated_image(result.mask, prepared, moving),
        start=prepared.start,
        overlap=prepared.overlap,
        moving=prepared.moving,
        fixed=prepared.fixed,
        result=result._replace(final=course.final),
        refinement=refinement,
        grid=prepared.grid,
        seconds=seconds,
        stages=course.stages,
        agreement=course.agreement,
        fallbacks=course.fallbacks,
        model=model,
        smoothness=smoothness,
    )


def _refined(prepared: Prepared, mask: Tensor, final: Flow, settings: Settings) -> RefinedVolume:
    """The field optimised for this pair: volumes in detail of their own, slices on the working grid."""
    seconds, steps = settings.refine_seconds, settings.refine_steps
    if prepared.fixed.ndim == 5:
        seen = prepared.moving, prepared.fixed
        return refine_volume(prepared.placed, prepared.target, seen, final, prepared.grid, seconds=seconds, steps=steps)
    images = prepared.moving, prepared.fixed, prepared.moving + mask
    found = refine(*images, final, seconds, MOST_STEPS if steps is None else steps)
    return RefinedVolume(found, found.final, prepared.grid)


class _Course(NamedTuple):
    """The way from stage to stage so far; see :class:`Registered` for the fields. ``folds``: of ``final``, percent."""

    stages: dict[str, Flow]
    agreement: dict[str, float]
    fallbacks: tuple[Fallback, ...]
    folds: float

    @property
    def final(self) -> Flow:
        return next(reversed(self.stages.values()))


def _begin(prepared: Prepared) -> _Course:
    """The start, and the coarse stage after it."""
    nowhere = torch.zeros_like(prepared.coarse.displacement)
    course = _Course({"start": Flow(nowhere, nowhere)}, {"start": prepared.began}, (), folds=0.0)
    return _judged(course, "coarse", prepared.coarse, prepared.agreement)


def _go_on(course: _Course, stage: str, flow: Flow, prepared: Prepared) -> _Course:
    moved = spatial.warp(prepared.moving, flow.displacement)
    return _judged(course, stage, flow, float(mi(moved, prepared.fixed)))


def _judged(course: _Course, stage: str, flow: Flow, agreement: float) -> _Course:
    """The way with one stage more, or with a fallback where that stage made it worse. NaN is worse."""
    kept = next(reversed(course.stages))
    folds, fallback = _folds(flow), None
    if not agreement >= LEAST_KEPT[stage] * course.agreement[kept]:
        fallback = Fallback(stage, kept, "agreement", course.agreement[kept], agreement)
    elif not folds <= course.folds:
        fallback = Fallback(stage, kept, "folds", course.folds, folds)
    course = course._replace(agreement={**course.agreement, stage: agreement})
    if fallback:
        return course._replace(fallbacks=(*course.fallbacks, fallback))
    return course._replace(stages={**course.stages, stage: flow}, folds=folds)


def _folds(flow: Flow) -> float:
    """Percent of the cells that fold, strictly."""
    return 100 * float((spatial.strict_jacobian(flow.displacement).amin(1) <= 0).float().mean())


def _smoothness(model: Model, wanted: float | None) -> Tensor | None:
    """What the networks are told. Raises InputError where they cannot be told that."""
    if wanted is None:
        return None
    low, high = model.card.hierarchy.smoothness_range
    if low == high:
        raise InputError(f"smoothness {wanted:g}: model {model.card.name} knows one only; expected none")
    if not 0 <= wanted <= 1:
        raise InputError(f"smoothness {wanted:g}: expected 0 (detailed) to 1 (stiff)")
    return torch.full((1,), wanted, device=next(model.hierarchy.parameters()).device)


def register_start(moving: Image, fixed: Image, model: Model, start: Start = "affine") -> Warp:
    """The start alone, on the fixed image's grid; arguments and errors as :func:`register_images`."""
    prepared = prepare(moving, fixed, model, start)
    return _on_fixed(torch.zeros_like(prepared.coarse.displacement), prepared, fixed)


def register_coarse(moving: Image, fixed: Image, model: Model, start: Start = "affine") -> Warp:
    """The start and the first network, on the fixed image's grid; arguments and errors as :func:`register_images`."""
    prepared = prepare(moving, fixed, model, start)
    return _on_fixed(prepared.coarse.displacement, prepared, fixed)


def register_networks(
    moving: Image, fixed: Image, model: Model, start: Start = "affine"
) -> tuple[Prepared, Registration, Warp]:
    """The start and all networks, whatever they make of it: without checks, fallbacks or refinement.

    Arguments and errors as of :func:`register_images`.

    Returns:
        The images on the working grid, all fields there, and the final one on the fixed image's grid.
    """
    prepared = prepare(moving, fixed, model, start)
    with torch.inference_mode():
        result = model.hierarchy.go_on(prepared.moving, prepared.fixed, prepared.coarse)
    return prepared, result, _on_fixed(result.final.displacement, prepared, fixed)


def prepare(
    moving: Image, fixed: Image, model: Model, start: Start = "affine", smoothness: Tensor | None = None
) -> Prepared:
    """Both images in [0, 1] on the model's grid, coarsely registered from the better of the places they may begin at.

    Arguments and errors as of :func:`register_images`.
    """
    card, hierarchy = model.card, model.hierarchy
    dim = card.hierarchy.dim
    for role, image in (("moving", moving), ("fixed", fixed)):
        if image.dim != dim:
            raise InputError(
                f"the {role} image is {image.dim}-D, shape {image.shape}; model {card.name} registers {dim}-D images"
            )
    source = Image(scale_intensity(moving.data).data, moving.affine, moving.physical)
    target = Image(scale_intensity(fixed.data).data, fixed.affine, fixed.physical)
    grid = working_grid(fixed, card.spacing, max(card.shape), hierarchy.divisor)
    check_memory(grid.shape, moving.shape, fixed.shape)
    device = next(hierarchy.parameters()).device
    still = torch.from_numpy(onto_grid(target, grid).data)[None, None].to(device)

    def begun(matrix: Float[ndarray, "n n"]) -> Prepared:
        placed = Image(source.data, np.linalg.inv(matrix) @ moving.affine, moving.physical)
        moved = torch.from_numpy(onto_grid(placed, grid).data)[None, None].to(device)
        with torch.inference_mode():
            coarse = hierarchy.register_coarse(moved, still, smoothness)
            after = spatial.warp(moved, coarse.displacement)
            scores = [float(score) for score in (mi(moved, still), mi(after, still), windows_correlation(after, still))]
        return Prepared(moved, still, grid, placed, target, matrix, fields_overlap(placed, fixed), coarse, *scores)

    best = _best_begun(begun, places(source, target, still, grid, hierarchy, start))
    if isinstance(start, str) and start == "affine" and hierarchy.affine is not None and not best.alike >= ALIKE:
        other = begun(searched_place(source, target, still, grid, hierarchy))
        if other.agreement > SURER * best.agreement and other.overlap >= LEAST_OVERLAP:
            best = other
    if best.overlap < LEAST_OVERLAP:
        raise InputError(
            f"the moving image covers only {best.overlap:.0%} of the fixed image's field of view, expected at least "
            f"{LEAST_OVERLAP:.0%}; if their positions in the world are wrong, begin with --init centers"
        )
    return best


def _best_begun(begun: Callable[[Float[ndarray, "n n"]], Prepared], matrices: list[Float[ndarray, "n n"]]) -> Prepared:
    """The best of the places, the last one first; the others only where the images are not alike from there."""
    tried: list[Prepared] = []
    for matrix in reversed(matrices):
        tried.append(begun(matrix))
        if tried[-1].alike >= ALIKE:
            break
    return max(tried, key=_agreement)


def _agreement(prepared: Prepared) -> float:
    return prepared.agreement


def _on_fixed(displacement: Float[Tensor, "1 dim *space"], prepared: Prepared, fixed: Image) -> Warp:
    """A field of the working grid, after the start, as a warp on the fixed image's grid."""
    warp = resample_warp(_in_world(displacement, prepared.grid), fixed.affine, fixed.shape)
    return followed_by(warp, prepared.start)


def _in_world(displacement: Tensor, grid: Grid) -> Warp:
    return from_voxel_displacement(displacement[0].cpu().numpy(), grid.affine)


def translated_image(mask: Tensor, prepared: Prepared, moving: Image) -> Image:
    """``T = M + Mask`` at the moving image's own resolution: only the mask comes from the working grid."""
    added = Image(mask[0, 0].cpu().numpy(), prepared.grid.affine, moving.physical)
    data = prepared.placed.data + onto_grid(added, Grid(prepared.placed.affine, moving.shape)).data
    return Image(data, moving.affine, moving.physical, moving.header)
