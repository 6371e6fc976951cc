"""The picture of the site's first page, docs/images/volumes.png: two volumes before and after their registration.

A T2w volume of the phantom (1 mm, seed 0, first test pair) is shown where it was and where its registration moved it,
with the borders of grey and white matter that the T1w volume has.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

import crossmorph
from crossmorph.datasets.pairs import read_pairs
from crossmorph.datasets.phantom_3d import prepare_volumes
from crossmorph.reports.planes import cut_plane, hung, hung_warp, unit_intensity
from crossmorph.system.files import atomic_output
from crossmorph.transforms.warp import Warp, resample

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "volumes.png"
NAMES = ("axial", "coronal", "sagittal")
MARGIN = 6  # mm around the brain
COLORS = 96


def draw(path: Path) -> None:
    """Simulate the pair, register it and draw both rows."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "volumes"
        prepare_volumes(data, validation=1, test=1, contrasts=1, spacing=1.0)
        (pair,) = read_pairs(data / "test" / "pairs.csv")
        assert pair.fixed_labels is not None
        moving, fixed = (crossmorph.read_image(each) for each in (pair.moving, pair.fixed))
        labels = hung(crossmorph.read_image(pair.fixed_labels, labels=True)).data
    result = crossmorph.register(moving, fixed)
    print(f"passed: {result.passed}")
    fixed, moved = hung(fixed), hung_warp(result.transform)
    figure = Figure(figsize=(10, 7.6), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, 3, width_ratios=_widths(labels))
    for axes, row, warp in zip(rows, ("before", "after"), (Warp.identity(fixed), moved), strict=True):
        for axis, name, panel in zip((2, 1, 0), NAMES, axes, strict=True):
            plane = cut_plane(fixed, warp, axis)
            shown = plane.flat(unit_intensity(resample(moving, plane.warp)))
            offset = np.linalg.inv(fixed.affine) @ plane.fixed.affine
            borders = np.take(labels, round(offset[axis, 3]), axis)
            _show(panel, shown, borders, _around(labels, plane.axes))
            panel.set_title(f"{row}, {name}", color="white", fontsize=12)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, facecolor="black")
    with atomic_output(path) as temporary:  # in a palette, a third of the bytes
        PIL.Image.open(drawn).convert("RGB").quantize(COLORS).save(temporary, "png", optimize=True)


def _around(labels: ndarray, axes: list[int]) -> list[tuple[int, int]]:
    """First and last voxel of the brain and its margin along two axes."""
    places = [np.flatnonzero(labels.any(tuple(other for other in range(3) if other != axis))) for axis in axes]
    return [(int(place[0]) - MARGIN, int(place[-1]) + MARGIN) for place in places]


def _widths(labels: ndarray) -> list[int]:
    return [last - first for first, last in (_around(labels, [axis])[0] for axis in (0, 0, 1))]


def _show(axis: Axes, shown: ndarray, borders: ndarray, around: list[tuple[int, int]]) -> None:
    axis.imshow(shown.T, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    for tissues, color in ((borders >= 2, "#56B4E9"), (borders == 3, "#E69F00")):
        axis.contour(tissues.T.astype(float), levels=[0.5], colors=color, linewidths=0.8)
    (left, right), (top, bottom) = around
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_axis_off()


if __name__ == "__main__":
    draw(PICTURE)
