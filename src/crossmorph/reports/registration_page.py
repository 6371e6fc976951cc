"""The page of a registration: one HTML file that needs nothing else, no network and no server.

Its parts lie in ``templates``: the page itself, its style, and the script that draws :mod:`crossmorph.reports.layers`.
``base.html`` and ``macros.html`` are shared with :mod:`crossmorph.reports.evaluation_page`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from crossmorph.images.image import Image
from crossmorph.quality.assessment import Check, Measures, TransformMeasures
from crossmorph.quality.linear_checks import LinearMeasures
from crossmorph.registration.linear import RegisteredLinear
from crossmorph.registration.register_images import Registered
from crossmorph.reports.html import script_of, templates
from crossmorph.reports.layers import field_layer, label_layers, map_layers, picture_layers, view_of
from crossmorph.reports.numbers import (
    ESTIMATE,
    NO_ESTIMATE,
    anchor,
    estimate_applies,
    limit_of,
    number_text,
    numbers_of,
    shown_checks,
)
from crossmorph.transforms.warp import Warp, followed_by, from_voxel_displacement, jacobian, resample, resample_warp

BUDGET = 4_900_000  # bytes of the whole page
IMAGE_VOXELS = 10_000_000  # at most; fewer where the page grows too large
SCRIPTS = ("layers.js", "contours.js", "drawing.js", "page.js")
SEVERITY = ("failed", "warning", "passed")


class Stage(NamedTuple):
    """The moving image as a stage of the registration left it, on the fixed image's grid."""

    name: str
    moved: Image


class Input(NamedTuple):
    """An image as it was given: its part, its voxels, and their sides in the measures' unit."""

    role: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]


class Content(NamedTuple):
    """What a page shows; every image but the inputs lies on the fixed image's grid.

    Attributes:
        title: what was registered to what.
        fixed: the fixed image, of two or three dimensions, any orientation and spacing.
        stages: in their order, the last is the result.
        translated: the moving image in the fixed image's modality, in units of ``scale_intensity(fixed)``, moved.
        warp: the final field, on the fixed image's grid.
        jacobian: natural logarithm of its Jacobian determinant; not finite where it folds.
        error_map: expected error in the measures' unit, not finite where unknown, or None; not shown where the checks
            say that the images are unlike the training images.
        checks: shown with the worst first.
        measures: of the registration.
        provenance: what made the result: text, numbers, and lists and mappings of them; or None.
        inputs: the images as they were given.
        seconds: wall seconds by stage.
        labels: moved label maps by their names, whole numbers.
        date: when, to read; or None.
        ants: the `antsApplyTransforms` call that makes the same moved image, or None.
        ants_caution: what is to be known before using it, or None.
    """

    title: str
    fixed: Image
    stages: list[Stage]
    translated: Image
    warp: Warp
    jacobian: Image
    error_map: Image | None
    checks: Sequence[Check]
    measures: Measures | TransformMeasures | LinearMeasures
    provenance: dict[str, Any] | None
    inputs: Sequence[Input] = ()
    seconds: Mapping[str, float] = {}
    labels: Mapping[str, Image] = {}
    date: str | None = None
    ants: str | None = None
    ants_caution: str | None = None


def content_of(
    moving: Image, fixed: Image, registered: Registered, measures: Measures, checks: Sequence[Check], title: str
) -> Content:
    """What there is to show of a registered pair, without error map, labels and what is known of the run.

    Args:
        moving: the moving image as it was given.
        fixed: the fixed image as it was given.
        registered: what came out.
        measures: its measures.
        checks: its checks.
        title: what was registered to what.
    """
    warps = {"as given": Warp.identity(fixed)}
    for name, flow in registered.stages.items():
        found = from_voxel_displacement(flow.displacement[0].cpu().numpy(), registered.grid.affine)
        warp = followed_by(resample_warp(found, fixed.affine, fixed.shape), registered.initial_affine)
        warps["affine" if name == "initial" else name] = warp
    if np.array_equal(registered.initial_affine, np.eye(fixed.dim + 1)):
        warps.pop("affine")
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithm = np.log(jacobian(registered.warp))
    return Content(
        title=title,
        fixed=fixed,
        stages=[Stage(name, resample(moving, warp)) for name, warp in warps.items()],
        translated=resample(registered.translated, registered.warp),
        warp=registered.warp,
        jacobian=Image(logarithm, fixed.affine, fixed.physical),
        error_map=None,
        checks=checks,
        measures=measures,
        provenance=None,
        inputs=_inputs(moving, fixed),
        seconds=registered.seconds,
    )


def linear_content(
    moving: Image,
    fixed: Image,
    registered: RegisteredLinear,
    measures: LinearMeasures,
    checks: Sequence[Check],
    title: str,
) -> Content:
    """What there is to show of a pair registered by a linear map; arguments as of :func:`content_of`."""
    warps = {"as given": Warp.identity(fixed), registered.freedom: registered.warp}
    logarithm = np.full(fixed.shape, np.log(measures.min_jacobian), np.float32)
    return Content(
        title=title,
        fixed=fixed,
        stages=[Stage(name, resample(moving, warp)) for name, warp in warps.items()],
        translated=resample(registered.translated, registered.warp),
        warp=registered.warp,
        jacobian=Image(logarithm, fixed.affine, fixed.physical),
        error_map=None,
        checks=checks,
        measures=measures,
        provenance=None,
        inputs=_inputs(moving, fixed),
        seconds=registered.seconds,
    )


def _inputs(moving: Image, fixed: Image) -> list[Input]:
    return [Input(role, image.shape, image.spacing) for role, image in (("moving", moving), ("fixed", fixed))]


def page(content: Content) -> str:
    """The page as text, below 5 MB.

    Args:
        content: what to show.

    Raises:
        ValueError: an image or the field does not lie on the fixed image's grid, or there is no stage.
    """
    _check(content)
    view = view_of(content.fixed)
    moved = {stage.name: stage.moved for stage in content.stages}
    maps = {"jacobian": content.jacobian}
    if content.error_map is not None and estimate_applies(content.checks):
        maps["error"] = content.error_map
    checks = sorted(shown_checks(content.checks), key=lambda check: SEVERITY.index(check.level))
    environment = templates()
    fields = {
        "title": content.title,
        "checks": checks,
        "counts": {level: sum(check.level == level for check in checks) for level in SEVERITY},
        "no_estimate": NO_ESTIMATE if any(check.name == ESTIMATE for check in {*content.checks} - {*checks}) else None,
        "numbers": numbers_of(content.measures, content.checks),
        "limit_of": limit_of,
        "number_text": number_text,
        "anchor": anchor,
        "provenance": content.provenance,
        "inputs": content.inputs,
        "seconds": content.seconds,
        "date": content.date,
        "ants": content.ants,
        "ants_caution": content.ants_caution,
        "segmentations": label_layers(view, content.labels),
        "maps": map_layers(view, content.fixed, maps),
        "field": field_layer(view, content.warp),
        "unit": content.measures.unit,
        "dim": content.fixed.dim,
        **script_of(environment, SCRIPTS),
    }
    most = IMAGE_VOXELS
    while True:
        pictures = picture_layers(view, content.fixed, moved, content.translated, most)
        text = environment.get_template("report.html").render(fields, **pictures)
        size = len(text.encode())
        if size <= BUDGET or most == 1:
            return text
        most = max(1, int(0.9 * math.prod(pictures["shape"]) * BUDGET / size))


def _check(content: Content) -> None:
    images = {stage.name: stage.moved for stage in content.stages}
    images |= {"translated": content.translated, "jacobian": content.jacobian, **content.labels}
    if content.error_map is not None:
        images["error map"] = content.error_map
    shapes = {name: image.shape for name, image in images.items()} | {"warp": content.warp.shape}
    for name, shape in shapes.items():
        if shape != content.fixed.shape:
            raise ValueError(f"{name} has shape {shape}, expected that of the fixed image, {content.fixed.shape}")
    if not content.stages:
        raise ValueError("no stage to show, expected at least one")
