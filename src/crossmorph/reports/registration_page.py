"""A page to look at a registration: one HTML file that needs nothing else, no network and no server.

Its parts lie in ``templates``: the page itself, its style, and the script that draws :mod:`crossmorph.reports.layers`.
``base.html`` and ``macros.html`` are shared with :mod:`crossmorph.reports.evaluation_page`.
"""

import base64
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from crossmorph.images.image import Image
from crossmorph.quality.checks import Flag
from crossmorph.registration.register_images import Registered
from crossmorph.reports.layers import field_layer, map_layers, picture_layers, view_of
from crossmorph.transforms.composition import jacobian
from crossmorph.transforms.warp import Warp, followed_by, from_voxel_displacement, resample, resample_warp

BUDGET = 4_900_000  # bytes of the whole page
IMAGE_VOXELS = 10_000_000  # at most; fewer where the page grows too large
SCRIPTS = ("layers.js", "drawing.js", "page.js")
SEVERITY = ("failed", "warning", "ok")
# Names of numbers, see crossmorph.quality.measures; one that is not here is shown as it is called.
MEASURES = {
    "expected_error": "Expected median error ({unit})",
    "expected_error_failed": "Expected median error that is a failure ({unit})",
    "overlap_before": "Part of the fixed field of view covered, as given",
    "overlap": "Part of the fixed field of view covered, after the start",
    "mi_before": "Mutual information, as given (nats)",
    "mi_start": "Mutual information, after the start (nats)",
    "mi_coarse": "Mutual information, coarse (nats)",
    "mi_fine": "Mutual information, fine (nats)",
    "mi_refined": "Mutual information, refined (nats)",
    "mi_final": "Mutual information, of the result (nats)",
    "folds_percent": "Cells that fold (%)",
    "min_jacobian": "Smallest Jacobian determinant",
    "log_jacobian": "|log Jacobian|, 99th percentile",
    "inverse_consistency_median": "Forward and inverse disagree, median ({unit})",
    "inverse_consistency": "Forward and inverse disagree, 99th percentile ({unit})",
    "order_quartile": "In the other order the field differs, lower quartile ({unit})",
    "order": "In the other order the field differs, median ({unit})",
    "shift_quartile": "With the moving image elsewhere the field differs, lower quartile ({unit})",
    "shift": "With the moving image elsewhere the field differs, median ({unit})",
    "correlation": "Squared local correlation, mean",
    "residual": "Translated and fixed image differ, median (of 1)",
    "half_turn": "Agreement with the moving image turned half around, as a multiple",
    "unfamiliarity": "Distance from the images of training (1 is the limit)",
    "refused_stages": "Stages that were not taken",
    "refine_steps": "Steps of refinement",
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
        doubt: expected error in ``unit``, not finite where unknown, or None.
        flags: judgements, shown with the worst first.
        quality: numbers by name.
        unit: of lengths, ``mm`` or ``pixels``.
        provenance: what made the result: text, numbers, and lists and mappings of them; or None.
    """

    title: str
    fixed: Image
    stages: list[Stage]
    translated: Image
    warp: Warp
    jacobian: Image
    doubt: Image | None
    flags: list[Flag]
    quality: dict[str, float]
    unit: str
    provenance: dict[str, Any] | None


def content_of(
    moving: Image, fixed: Image, registered: Registered, quality: dict[str, float], flags: list[Flag], title: str
) -> Content:
    """What there is to show of a registered pair, without doubt and provenance.

    Args:
        moving: the moving image as it was given.
        fixed: the fixed image as it was given.
        registered: what came out.
        quality: its numbers, of :func:`crossmorph.quality.measures.measure`.
        flags: what they mean.
        title: what was registered to what.
    """
    nowhere = Warp(np.zeros((fixed.dim, *fixed.shape), np.float32), fixed.affine)
    warps = {"as given": nowhere}
    for name, flow in registered.stages.items():
        found = from_voxel_displacement(flow.displacement[0].cpu().numpy(), registered.grid.affine)
        warp = followed_by(resample_warp(found, fixed.affine, fixed.shape), registered.start)
        warps["affine" if name == "start" else name] = warp
    if np.array_equal(registered.start, np.eye(fixed.dim + 1)):
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
        doubt=None,
        flags=flags,
        quality=quality,
        unit="mm" if fixed.physical else "pixels",
        provenance=None,
    )


def write_html(path: Path, content: Content) -> None:
    """Write the page, below 5 MB.

    Args:
        path: where to; an existing file is replaced.
        content: what to show.

    Raises:
        ValueError: an image or the field does not lie on the fixed image's grid, or there is no stage.
        OSError: the file cannot be written.
    """
    path.write_text(page(content), encoding="utf-8")


def page(content: Content) -> str:
    """The page as text; arguments and errors as of :func:`write_html`."""
    _check(content)
    view = view_of(content.fixed)
    moved = {stage.name: stage.moved for stage in content.stages}
    maps = {"jacobian": content.jacobian} | ({} if content.doubt is None else {"doubt": content.doubt})
    flags = sorted(content.flags, key=lambda flag: SEVERITY.index(flag.level))
    environment = templates()
    fields = {
        "title": content.title,
        "flags": flags,
        "counts": {level: sum(flag.level == level for flag in flags) for level in SEVERITY},
        "rows": _rows(content.quality, content.unit),
        "provenance": content.provenance,
        "maps": map_layers(view, content.fixed, maps),
        "field": field_layer(view, content.warp),
        "unit": content.unit,
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
    if content.doubt is not None:
        images["doubt"] = content.doubt
    shapes = {name: image.shape for name, image in images.items()} | {"warp": content.warp.shape}
    for name, shape in shapes.items():
        if shape != content.fixed.shape:
            raise ValueError(f"{name} has shape {shape}, expected that of the fixed image, {content.fixed.shape}")
    if not content.stages:
        raise ValueError("no stage to show, expected at least one")


def _rows(quality: dict[str, float], unit: str) -> list[tuple[str, str, str]]:
    """Names of the numbers, their values, and the limits of those that have one (its name ends in ``_limit``)."""
    rows = []
    for name, value in quality.items():
        known = MEASURES.get(name, name.replace("_", " ").capitalize()).replace("{unit}", unit)
        if not name.endswith("_limit"):
            limit = quality.get(f"{name}_limit")
            rows.append((known, _number(value), "" if limit is None else _number(limit)))
    return rows


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return f"{value:.0f}" if value == round(value) else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"
