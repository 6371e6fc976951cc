"""The picture of a registration."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from crossmorph.images.image import Image
from crossmorph.reports.planes import Plane, checkerboard, cut_plane, hung, hung_warp, unit_intensity
from crossmorph.system.files import PICTURE_SUFFIXES, atomic_output, suffix_of
from crossmorph.transforms.grid import Grid, onto_grid
from crossmorph.transforms.warp import Warp, resample, voxel_displacement

UNDATED = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}  # the same picture is the same bytes
GRID_LINES = 24


def write_picture(path: Path, moving: Image, fixed: Image, warp: Warp, translated: Image, title: str) -> None:
    """Draw a registration: the images, checkerboards before and after, the warped grid and the displacement.

    All panels show the fixed image's grid, hung as a radiograph: the patient's left on the right, anterior or superior
    up. Of a volume they show an axial, a coronal and a sagittal plane through the fixed image's centre of intensity.

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
    suffix = suffix_of(path, PICTURE_SUFFIXES, "picture")
    fixed, warp = hung(fixed), hung_warp(warp)
    planes = [Plane(fixed, warp, None)] if fixed.dim == 2 else [cut_plane(fixed, warp, axis) for axis in (2, 1, 0)]
    size = (14, 7.6) if fixed.dim == 2 else (22, 8.6)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, 4).reshape(1, 8) if fixed.dim == 2 else figure.subplots(3, 8)
    for axes, plane in zip(rows, planes, strict=True):
        for axis, (name, panel) in zip(axes[:-1], _panels(plane, moving, translated).items(), strict=True):
            _show(axis, panel, plane, name)
        draw_grid(axes[-1], plane)
    # A file name is not mathematics, whatever dollar signs it holds.
    figure.suptitle(title, parse_math=False)
    with atomic_output(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "crossmorph"}):
        figure.savefig(temporary, dpi=100, metadata=UNDATED.get(suffix))


def _panels(plane: Plane, moving: Image, translated: Image) -> dict[str, ndarray]:
    """Pictures in [0, 1] by their names."""
    fixed, warp = plane.fixed, plane.warp
    before, moved = (
        unit_intensity(onto_grid(moving, Grid(fixed.affine, fixed.shape))),
        unit_intensity(resample(moving, warp)),
    )
    moved_translation = np.clip(resample(translated, warp).data, 0, 1)
    panels = {
        "moving": before,
        "fixed": unit_intensity(fixed),
        "moved": moved,
        "translated, moved": moved_translation,
    }
    panels = {name: plane.flat(panel) for name, panel in panels.items()}
    return panels | {
        "checkerboard before": checkerboard(panels["moving"], panels["fixed"]),
        "checkerboard after": checkerboard(panels["moved"], panels["fixed"]),
        "translated | fixed": checkerboard(panels["translated, moved"], panels["fixed"]),
    }


def _aspect(plane: Plane) -> float:
    across, down = (plane.fixed.spacing[axis] for axis in plane.axes)
    return down / across


def _show(axis: Axes, panel: ndarray, plane: Plane, name: str) -> None:
    axis.imshow(panel.T, cmap="gray", vmin=0, vmax=1, aspect=_aspect(plane))
    axis.set_title(name)
    axis.set_axis_off()


def draw_grid(axis: Axes, plane: Plane, farthest: float | None = None) -> None:
    """Where the lines of the fixed grid look in the moving image, coloured by how far that is (``farthest``: in mm)."""
    voxels = voxel_displacement(plane.warp)[plane.axes]
    displacement = np.stack([plane.flat(component) for component in voxels])
    shape = displacement.shape[1:]
    points = np.indices(shape) + displacement
    distance = plane.flat(np.linalg.norm(plane.warp.displacement, axis=0))
    picture = axis.imshow(
        distance.T, cmap="viridis", vmin=0 if farthest else None, vmax=farthest, aspect=_aspect(plane)
    )
    step = max(1, max(shape) // GRID_LINES)
    for i in range(0, shape[0], step):
        axis.plot(*points[:, i, :], color="white", linewidth=0.6)
    for j in range(0, shape[1], step):
        axis.plot(*points[:, :, j], color="white", linewidth=0.6)
    # Lines that look beyond the image must not shrink it.
    axis.set_xlim(-0.5, shape[0] - 0.5)
    axis.set_ylim(shape[1] - 0.5, -0.5)
    axis.set_axis_off()
    axis.set_title(f"warped grid, displacement in {'mm' if plane.fixed.physical else 'pixels'}")
    axis.figure.colorbar(picture, ax=axis, shrink=0.8)
