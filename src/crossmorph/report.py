"""A picture of a registration to look at."""

from pathlib import Path

import matplotlib
import nibabel
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from crossmorph.files import atomic_output, suffix_of
from crossmorph.grid import Grid, onto_grid
from crossmorph.image import Image, scale_intensity
from crossmorph.transform import Warp, resample, voxel_displacement

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
UNDATED = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}  # the same picture is the same bytes
TILES = 8  # fields of a checkerboard along the longer side
GRID_LINES = 24


def write_picture(path: Path, moving: Image, fixed: Image, warp: Warp, translated: Image, title: str) -> None:
    """Draw a 2-D registration: the images, checkerboards before and after, the warped grid and the displacement.

    All panels show the fixed image's grid, hung as a radiograph: the patient's left on the right, anterior up.

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
    turn, affine = _hang(fixed)
    fixed = Image(nibabel.apply_orientation(fixed.data, turn), affine, fixed.physical)
    by_voxel = nibabel.apply_orientation(np.moveaxis(warp.displacement, 0, -1), turn)
    warp = Warp(np.moveaxis(by_voxel, -1, 0), affine)
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
    # A file name is not mathematics, whatever dollar signs it holds.
    figure.suptitle(title, parse_math=False)
    with atomic_output(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "crossmorph"}):
        figure.savefig(temporary, dpi=100, metadata=UNDATED.get(suffix))


def _unit(image: Image) -> ndarray:
    """Intensities in [0, 1]; zeros where the image was moved out of view altogether."""
    if image.data.min() == image.data.max():
        return np.zeros(image.shape, np.float32)
    return scale_intensity(image.data).data


def _checkerboard(first: ndarray, second: ndarray) -> ndarray:
    side = max(1, max(first.shape) // TILES)
    odd = (np.indices(first.shape) // side).sum(0) % 2 == 1
    return np.where(odd, second, first)


def _hang(image: Image) -> tuple[ndarray, ndarray]:
    """How to turn an image's axes (nibabel's orientation) to run left and posterior, and the affine they then have."""
    embedded = np.eye(4)
    embedded[:2, :2] = image.affine[:2, :2]
    codes = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(embedded), codes)[:2]
    return turn, image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.shape)


def _show(axis: Axes, panel: ndarray, like: Image, name: str) -> None:
    axis.imshow(panel.T, cmap="gray", vmin=0, vmax=1, aspect=like.spacing[1] / like.spacing[0])
    axis.set_title(name)
    axis.set_axis_off()


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
    # Lines that look beyond the image must not shrink it.
    axis.set_xlim(-0.5, warp.shape[0] - 0.5)
    axis.set_ylim(warp.shape[1] - 0.5, -0.5)
    axis.set_axis_off()
    axis.set_title(f"warped grid, displacement in {'mm' if fixed.physical else 'pixels'}")
    axis.figure.colorbar(picture, ax=axis, shrink=0.8)
