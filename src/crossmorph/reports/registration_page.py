"""The page of a registration: one HTML file that needs nothing else, no network and no server.

Its parts lie in ``templates``: the page itself, its style, and the script that draws :mod:`crossmorph.reports.layers`.
``base.html`` and ``macros.html`` are shared with :mod:`crossmorph.reports.evaluation_page`.
"""

import base64
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

from crossmorph.images.image import Image
from crossmorph.quality.assessment import Check, Measures, TransformMeasures
from crossmorph.registration.register_images import Registered
from crossmorph.reports.layers import field_layer, map_layers, picture_layers, view_of
from crossmorph.transforms.warp import Warp, followed_by, from_voxel_displacement, jacobian, resample, resample_warp

BUDGET = 4_900_000  # bytes of the whole page
IMAGE_VOXELS = 10_000_000  # at most; fewer where the page grows too large
SCRIPTS = ("layers.js", "drawing.js", "page.js")
SEVERITY = ("failed", "warning", "passed")
# What each measure is called on the page, see crossmorph.quality.measures.
MEASURES = {
    "expected_error": "Expected error, median ({unit})",
    "remaining_displacement": "Displacement by crossmorph's own registration from there, median ({unit})",
    "remaining_displacement_95": "The same, 95th percentile ({unit})",
    "own_expected_error": "Expected error of that registration, median ({unit})",
    "overlap_before": "Overlap of the fields of view, by the headers",
    "overlap": "Overlap of the fields of view, after the initial affine",
    "mutual_information_before": "Mutual information, as given (nats)",
    "mutual_information_initial": "Mutual information, after the initial affine (nats)",
    "mutual_information_coarse": "Mutual information, coarse stage (nats)",
    "mutual_information_fine": "Mutual information, fine stage (nats)",
    "mutual_information_refined": "Mutual information, after instance optimisation (nats)",
    "mutual_information_final": "Mutual information, of the result (nats)",
    "mutual_information_own": "Mutual information, after crossmorph's own registration from there (nats)",
    "folds_percent": "Grid cells that fold (%)",
    "min_jacobian": "Smallest Jacobian determinant",
    "log_jacobian": "|log Jacobian|, 99th percentile",
    "inverse_consistency_median": "Inverse consistency, median ({unit})",
    "inverse_consistency": "Inverse consistency, 99th percentile ({unit})",
    "swap_consistency_quartile": "Change of the field when the images are swapped, lower quartile ({unit})",
    "swap_consistency": "Change of the field when the images are swapped, median ({unit})",
    "shift_consistency_quartile": "Change of the field when the moving image is shifted, lower quartile ({unit})",
    "shift_consistency": "Change of the field when the moving image is shifted, median ({unit})",
    "local_correlation": "Squared local correlation, mean",
    "residual": "Difference of translated and fixed image, median (of 1)",
    "rotation_ratio": "Mutual information with the moving image rotated by 180 degrees, as a multiple",
    "training_distance": "Distance from the training images, of its limit",
    "rejected_stages": "Rejected stages",
    "refine_steps": "Steps of instance optimisation",
    "working_spacing": "Voxel of the working grid ({unit})",
}


class Stage(NamedTuple):
    """The moving image as a stage of the registration left it, on the fixed image's grid."""

    name: str
    moved: Image


class Content(NamedTuple):
    """What a page shows; every image lies on the fixed image's grid.

    Attributes:
        title: what was registered to what.
        fixed: the fixed image, of two or three dimensions, any orientation and spacing.
        stages: in their order, the last is the result.
        translated: the moving image in the fixed image's modality, in units of ``scale_intensity(fixed)``, moved.
        warp: the final field, on the fixed image's grid.
        jacobian: natural logarithm of its Jacobian determinant; not finite where it folds.
        error_map: expected error in the measures' unit, not finite where unknown, or None.
        checks: shown with the worst first.
        measures: of the registration.
        provenance: what made the result: text, numbers, and lists and mappings of them; or None.
    """

    title: str
    fixed: Image
    stages: list[Stage]
    translated: Image
    warp: Warp
    jacobian: Image
    error_map: Image | None
    checks: Sequence[Check]
    measures: Measures | TransformMeasures
    provenance: dict[str, Any] | None


def content_of(
    moving: Image, fixed: Image, registered: Registered, measures: Measures, checks: Sequence[Check], title: str
) -> Content:
    """What there is to show of a registered pair, without error map and provenance.

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
    )


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
    maps = {"jacobian": content.jacobian} | ({} if content.error_map is None else {"error": content.error_map})
    checks = sorted(content.checks, key=lambda check: SEVERITY.index(check.level))
    environment = templates()
    fields = {
        "title": content.title,
        "checks": checks,
        "counts": {level: sum(check.level == level for check in checks) for level in SEVERITY},
        "rows": _rows(content.measures, checks),
        "provenance": content.provenance,
        "maps": map_layers(view, content.fixed, maps),
        "field": field_layer(view, content.warp),
        "unit": content.measures.unit,
        "dim": content.fixed.dim,
        **_script(environment),
    }
    most = IMAGE_VOXELS
    while True:
        pictures = picture_layers(view, content.fixed, moved, content.translated, most)
        text = environment.get_template("report.html").render(fields, **pictures)
        size = len(text.encode())
        if size <= BUDGET or most == 1:
            return text
        most = max(1, int(0.9 * math.prod(pictures["shape"]) * BUDGET / size))


def templates() -> jinja2.Environment:
    """The templates of all pages; whatever is put into them is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("crossmorph.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script(environment: jinja2.Environment) -> dict[str, str]:
    """The page's own script and the hash by which browsers know it: no other runs."""
    text = "\n".join(environment.get_template(name).render() for name in SCRIPTS)
    text = f'"use strict";\n{{\n{text}\n}}\n'  # a block, so that its names are its own
    digest = hashlib.sha256(text.encode()).digest()
    return {"script": text, "script_hash": base64.b64encode(digest).decode()}


def _check(content: Content) -> None:
    images = {stage.name: stage.moved for stage in content.stages}
    images |= {"translated": content.translated, "jacobian": content.jacobian}
    if content.error_map is not None:
        images["error map"] = content.error_map
    shapes = {name: image.shape for name, image in images.items()} | {"warp": content.warp.shape}
    for name, shape in shapes.items():
        if shape != content.fixed.shape:
            raise ValueError(f"{name} has shape {shape}, expected that of the fixed image, {content.fixed.shape}")
    if not content.stages:
        raise ValueError("no stage to show, expected at least one")


def _rows(measures: Measures | TransformMeasures, checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """Names and values of the measures that are known, and the limits of those that a check is named after."""
    known = measures.as_dict()
    limits = {check.name.replace(" ", "_"): check.limit for check in checks if check.limit is not None}
    limits.pop("overlap", None)  # its limit is of the overlap by the headers
    return [
        (title.replace("{unit}", measures.unit), _number(known[name]), _number(limits[name]) if name in limits else "")
        for name, title in MEASURES.items()
        if name in known
    ]


def _number(value: float | int) -> str:
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{value:.0f}" if value == round(value) else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"
