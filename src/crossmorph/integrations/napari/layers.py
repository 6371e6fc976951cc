"""Images as layers of napari, and layers as images.

The world of the layers is ``(z, y, x)`` in LPS millimetres: that of ITK in napari's order of axes. On the screen the
patient's right is on the left and anterior is up, as a radiograph hangs. Voxels are turned so that their axes run as
nearly as may be along those of the world, since napari cuts a volume along its own axes only.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Float, Float32
from napari.layers import Image as ImageLayer
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import affine_slab, rotate, slabs
from crossmorph.images.image import Content, Image, scale_intensity
from crossmorph.images.io import checked_image
from crossmorph.reports.layers import shown_region
from crossmorph.reports.numbers import estimate_applies
from crossmorph.reports.planes import hang
from crossmorph.transforms.warp import Warp, linear_part
from crossmorph.workflows.result import Result

LayerData = tuple[ndarray, dict[str, Any], str]
GRID_LINES = 24  # along the longest side of the fixed image
AXES = ("z", "y", "x")


def _to_world(dim: int) -> Float[ndarray, "n n"]:
    """From RAS ``(x, y, z)`` to LPS ``(z, y, x)``, homogeneous."""
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = np.diag([-1.0, -1.0, 1.0][:dim])[::-1]
    return matrix


def _reversed_axes(dim: int) -> Float[ndarray, "n n"]:
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = np.eye(dim)[::-1]
    return matrix


def layer_of(image: Image, name: str, kind: str = "image", **settings: Any) -> LayerData:
    """An image as a layer of napari; see :func:`series_layer`."""
    return series_layer([image], name, kind, **settings)


def series_layer(images: list[Image], name: str, kind: str = "image", **settings: Any) -> LayerData:
    """The volumes of a series, on one grid, as a layer of napari.

    Args:
        images: at least one.
        name: of the layer.
        kind: ``image`` or ``labels``.
        settings: further ones of the layer, such as ``colormap``.

    Returns:
        Voxels ``(z, y, x)``, with the number of the volume before that if there are several; what napari is to know of
        them; and the kind. The scale is the size of a voxel; beside it there is a shift, or, where the axes do not run
        along those of the world, an affine.
    """
    first = images[0]
    dim = first.dim
    turn, affine = hang(first, "LPS")
    voxels = np.stack([nibabel.apply_orientation(image.data, turn).T for image in images])
    world = np.eye(dim + 2)
    world[1:, 1:] = _to_world(dim) @ affine @ _reversed_axes(dim)
    units, axes = ("pixel", *("mm" if first.physical else "pixel",) * dim), ("t", *AXES[3 - dim :])
    if len(images) == 1:
        voxels, world, units, axes = voxels[0], world[1:, 1:], units[1:], axes[1:]
    limits = _limits(first) if kind == "image" else {}
    return voxels, {"name": name, "units": units, "axis_labels": axes, **_place(world), **limits, **settings}, kind


def _place(world: Float[ndarray, "n n"]) -> dict[str, ndarray]:
    """Scale and shift of a grid whose axes are those of the world; scale and affine of another."""
    scale = np.linalg.norm(world[:-1, :-1], axis=0)
    turned = world @ np.diag(1 / np.append(scale, 1))
    if np.allclose(turned[:-1, :-1], np.eye(len(scale)), atol=1e-6):
        return {"scale": scale, "translate": world[:-1, -1]}
    return {"scale": scale, "affine": turned}


def _limits(image: Image) -> dict[str, Any]:
    try:
        scaled = scale_intensity(image.data)
    except InputError:  # of one intensity, or not finite: napari chooses
        return {}
    return {"contrast_limits": (scaled.low, scaled.high)}


def image_of(layer: ImageLayer) -> Image:
    """A layer as an image.

    Where the layer's units are pixels and the scale is 1, it has no millimetres; other scales of pixels are taken for
    millimetres, since many readers set no unit.

    Args:
        layer: of two or three axes, the world's last ones.

    Raises:
        InputError: colours, several resolutions, more axes, or voxels that cannot be registered.
    """
    name = Path(layer.name)
    dim = layer.ndim
    if layer.rgb or layer.multiscale or dim not in (2, 3):
        kind = "colours" if layer.rgb else "several resolutions" if layer.multiscale else f"{dim} axes"
        raise InputError(f"layer {name}: received {kind}; expected grey levels on two or three axes, one resolution")
    origin = np.asarray(layer.data_to_world((0,) * dim), np.float64)
    columns = [np.asarray(layer.data_to_world(tuple(unit))) - origin for unit in np.eye(dim)]
    world = np.eye(dim + 1)
    world[:dim, :dim], world[:dim, dim] = np.stack(columns, axis=1), origin
    lengths = [_millimetres(unit, name) for unit in layer.units]
    physical = not (None in lengths and np.allclose(world[:dim, :dim], np.eye(dim)))
    world[:dim] *= np.array([[length or 1.0] for length in lengths])
    affine = np.linalg.inv(_to_world(dim)) @ world @ _reversed_axes(dim)
    voxels = np.asarray(layer.data).T
    return checked_image(name, Content(voxels, affine, voxels.dtype, physical=physical))


def _millimetres(unit: Any, name: Path) -> float | None:
    """Of one of a layer's unit; None of pixels."""
    if str(unit) == "pixel":
        return None
    if not unit.is_compatible_with("mm"):
        raise InputError(f"layer {name}: received axes in {unit}; expected a unit of length, or pixels")
    return float((1 * unit).to("mm").magnitude)


def result_layers(result: Result, moving: str) -> list[LayerData]:
    """What came out of a registration: translated and moved image, expected error, warped grid.

    The error map is there where the model is calibrated and the images are like its training images, and only where
    the fixed image shows something; it is hidden at first, as the translated image is.

    Args:
        result: of images that were layers.
        moving: name of the moving layer.
    """
    layers = [
        layer_of(result.registered.translated, f"{moving} translated", visible=False, contrast_limits=(0, 1)),
        layer_of(result.moved, f"{moving} moved"),
    ]
    if result.assessment.error is not None and estimate_applies(result.checks):
        error = result.error_map()
        error = replace(error, data=error.data * shown_region(result.fixed.scaled().data))
        most = float(error.data.max())
        look: dict[str, Any] = {"colormap": "inferno", "opacity": 0.5, "visible": False, "contrast_limits": (0, most)}
        layers.append(layer_of(error, f"{moving} expected error", **look))
    lines = warped_grid(result.transform, result.moving)
    look = {"colormap": "yellow", "blending": "additive", "opacity": 0.2, "contrast_limits": (0, 1)}
    return [*layers, layer_of(lines, f"{moving} warped grid", **look)]


def warped_grid(warp: Warp, moving: Image) -> Image:
    """The lines of the moving image's grid as the transform moves them, on the fixed image's grid.

    A voxel ``x`` is ``1 - r / s`` bright, at least 0, where ``r`` is how far ``x + d(x)`` lies from the nearest line of
    the moving image's space across one of its axes, and ``s`` how far apart neighbouring voxels ``x`` lie along it. Of
    the axes, the brightest counts. Of a volume these are two, nearest to left-right and front-back: an axial plane
    shows the lines of both.

    Args:
        warp: the transform, on the fixed image's grid.
        moving: lends its axes, whose lines are a twenty-fourth of the fixed image's longest side apart.
    """
    turn, _ = hang(moving)
    axes = np.flatnonzero(turn[:, 0] < 2)
    to_axes = np.diag([*moving.spacing, 1.0]) @ np.linalg.inv(moving.affine)  # millimetres along the moving axes
    start = to_axes @ warp.affine
    apart = np.abs(start[:-1, :-1]).max(axis=1).reshape(-1, *[1] * warp.dim)[axes]
    step = float((np.linalg.norm(warp.affine[:-1, :-1], axis=0) * warp.shape).max()) / GRID_LINES
    lines: Float32[ndarray, "*space"] = np.empty(warp.shape, np.float32)
    for slab in slabs(warp.shape):
        place = affine_slab(start, warp.shape, slab) + rotate(linear_part(to_axes), warp.displacement[:, slab])
        distance = step * np.abs((place[axes] / step + 0.5) % 1 - 0.5)
        lines[slab] = np.clip(1 - distance / apart, 0, 1).max(axis=0)
    return Image(lines, warp.affine, moving.physical)
