"""A picture of a registration to look at."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.files import atomic_output
from crossmorph.grid import Grid, onto_grid
from crossmorph.image import Image, scale_intensity
from crossmorph.transform import Warp, resample, voxel_displacement

TILES = 8  # fields of a checkerboard along the longer side
GRID_LINES = 24


def write_picture(path: Path, moving: Image, fixed: Image, warp: Warp, translated: Image, title: str) -> None:
    """Draw a 2-D registration: the images, checkerboards before and after, the warped grid and the displacement.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``; appears whole.
        moving: the image that moved.
        fixed: the image it moved to.
        warp: the transform, on the fixed image's grid.
        translated: the moving image in the fixed image's modality, on the moving image's grid.
        title: a line above the panels.

    Raises:
        InputError: another suffix, or a folder that cannot be written.
    """
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"{path}: unknown picture format, expected a name ending in .png, .pdf or .svg")
    before = onto_grid(moving, Grid(fixed.affine, fixed.shape))
    moved, moved_translation = resample(moving, warp), resample(translated, warp)
    reference = scale_intensity(fixed.data).data
    panels = {
        "moving": _unit(before),
        "fixed": reference,
        "moved": _unit(moved),
        "translated, moved": np.clip(moved_translation.data, 0, 1),
        "checkerboard before": _checkerboard(_unit(before), reference),
        "checkerboard after": _checkerboard(_unit(moved), reference),
        "translated | fixed": _checkerboard(np.clip(moved_translation.data, 0, 1), reference),
    }
    figure = Figure(figsize=(14, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4).ravel()
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        _show(axis, panel, fixed, name)
    _draw_grid(axes[-1], warp, fixed)
    figure.suptitle(title)
    with atomic_output(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "crossmorph"}):
        figure.savefig(temporary, dpi=100)


def _unit(image: Image) -> ndarray:
    """Intensities in [0, 1]; zeros where the image was moved out of view altogether."""
    if image.data.min() == image.data.max():
        return np.zeros(image.shape, np.float32)
    return scale_intensity(image.data).data


def _checkerboard(first: ndarray, second: ndarray) -> ndarray:
    side = max(1, max(first.shape) // TILES)
    odd = np.indices(first.shape).__floordiv__(side).sum(0) % 2 == 1
    return np.where(odd, second, first)


def _show(axis: Axes, panel: ndarray, like: Image, name: str) -> None:
    """An array (x, y) as a radiograph hangs: anterior up, the world's axes where the affine puts them."""
    axis.imshow(panel.T, cmap="gray", vmin=0, vmax=1, aspect=like.spacing[1] / like.spacing[0])
    _orient(axis, like)
    axis.set_title(name)
    axis.set_axis_off()


def _orient(axis: Axes, like: Image) -> None:
    """Image axes so that, on the page, right is the patient's left and up is anterior."""
    right, up = (int(np.argmax(np.abs(like.affine[world, :2]))) for world in (0, 1))
    width, height = like.shape[0] - 0.5, like.shape[1] - 0.5
    if right == 0 and up == 1:
        grows_left = like.affine[0, 0] < 0
        axis.set_xlim((-0.5, width) if grows_left else (width, -0.5))
        axis.set_ylim((-0.5, height) if like.affine[1, 1] > 0 else (height, -0.5))


def _draw_grid(axis: Axes, warp: Warp, fixed: Image) -> None:
    """Where the lines of the fixed grid look in the moving image, coloured by how far that is."""
    displacement = voxel_displacement(warp)
    points = np.indices(warp.shape) + displacement
    distance = np.linalg.norm(warp.displacement, axis=0)
    picture = axis.imshow(distance.T, cmap="viridis", aspect=fixed.spacing[1] / fixed.spacing[0])
    step = max(1, max(warp.shape) // GRID_LINES)
    for i in range(0, warp.shape[0], step):
        axis.plot(*points[:, i, :], color="white", linewidth=0.6)
    for j in range(0, warp.shape[1], step):
        axis.plot(*points[:, :, j], color="white", linewidth=0.6)
    _orient(axis, fixed)
    axis.set_axis_off()
    axis.set_title(f"warped grid, displacement in {'mm' if fixed.physical else 'pixels'}")
    axis.figure.colorbar(picture, ax=axis, shrink=0.8)
